package web

import (
	"context"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/link"
	"github.com/detour-relay/detour/internal/relay"
)

// maxMessage is the largest WebSocket message from a client in bytes: the
// largest frame fits with room for what a client may batch with it. Frames run
// across messages, so this bounds no memory of ours.
const maxMessage = 72 << 10

// acceptWebSocket answers a WebSocket's opening handshake, or refuses it.
func (s *Server) acceptWebSocket(w http.ResponseWriter, r *http.Request, up upgrade) {
	taken := &hijackOnce{ResponseWriter: w}
	ws, err := websocket.Accept(taken, r, &websocket.AcceptOptions{
		Subprotocols:       []string{derp.WebSocketProtoID},
		InsecureSkipVerify: true, // any Origin: peers prove themselves with their key
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return // Accept has answered
	}
	taken.conn.giveBack(takeover{upgrade: up, webSocket: ws})
}

// serveWebSocket gives the frames inside a WebSocket to the relay. A message
// that is not binary closes it with 1003, the end of the relay's service with
// 1000.
func (s *Server) serveWebSocket(ctx context.Context, h *handed, t takeover, loggedIn func(admitted bool)) {
	if t.webSocket.Subprotocol() != derp.WebSocketProtoID {
		_ = h.SetDeadline(time.Now().Add(farewell)) // fails only when it is closed already
		_ = t.webSocket.Close(websocket.StatusPolicyViolation, "unknown subprotocol")
		return
	}
	s.counts.webSocket.Add(1)
	// The relay ends its links itself when ctx is done.
	stream := websocket.NetConn(context.WithoutCancel(ctx), t.webSocket, websocket.MessageBinary)
	t.webSocket.SetReadLimit(maxMessage) // NetConn has taken the limit away
	addr := s.proxies.client(h, t.upgrade.via)
	err := s.relay.ServeConn(ctx, relay.Conn{
		Link:     link.Over(stream),
		Addr:     addr,
		NotIdeal: t.upgrade.notIdeal,
		LoggedIn: loggedIn,
	})
	s.ended(addr, err)
	_ = h.SetDeadline(time.Now().Add(farewell)) // fails only when it is closed already
	_ = stream.Close()                          // there is nobody to tell
}
