module github.com/detour-relay/detour/interop

go 1.26.0

require (
	github.com/detour-relay/detour v0.0.0
	tailscale.com v1.102.5
)

replace github.com/detour-relay/detour => ../
