// Package interop holds Detour against the real thing: Tailscale's own DERP
// client, derper's server, netcheck and whole tsnet nodes. All of it is in the
// tests. It is a module of its own so that tailscale.com stays out of Detour's.
//
// The WebSocket tests need the tag ts_debug_websockets, without which
// Tailscale's client has no WebSocket outside of browsers:
//
//	go test -tags ts_debug_websockets ./...
package interop
