package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/detour-relay/detour/internal/derp"
)

const (
	// messageSize is the largest WebSocket message that is sent, in bytes. derper
	// refuses those above 32 KiB; where a message ends means nothing to DERP.
	messageSize = 16 << 10
	// farewell bounds how long it may take to end a WebSocket politely.
	farewell = time.Second
)

// startWebSocket puts a WebSocket between the connection and DERP.
func (c *Client) startWebSocket(ctx context.Context, o *Options) error {
	var used atomic.Bool
	transport := &http.Transport{
		// TLS is done already, so the URL says http and net/http leaves the
		// connection as it is.
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the connection was used up")
			}
			return c.conn, nil
		},
		MaxResponseHeaderBytes: maxHead,
	}
	defer transport.CloseIdleConnections()
	ws, res, err := websocket.Dial(ctx, "http://"+o.hostHeader()+derp.Path, &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Subprotocols:    []string{derp.WebSocketProtoID},
		CompressionMode: websocket.CompressionDisabled,
	})
	if res != nil && res.Body != nil {
		defer res.Body.Close() // what the library has read of a refusal
	}
	if err != nil {
		return fmt.Errorf("open a WebSocket: %w", err)
	}
	if got := ws.Subprotocol(); got != derp.WebSocketProtoID {
		_ = ws.CloseNow() // there is nothing to lose
		return fmt.Errorf("open a WebSocket: its subprotocol is %q, want %q", got, derp.WebSocketProtoID)
	}
	// Close ends it, not a context.
	c.conn = messages{websocket.NetConn(context.Background(), ws, websocket.MessageBinary), ws, c.raw}
	return nil
}

// messages is the stream inside a WebSocket. It splits writes so that no
// message is too large for a relay.
type messages struct {
	net.Conn
	webSocket *websocket.Conn
	raw       net.Conn
}

func (m messages) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var k int
		k, err = m.Conn.Write(b[:min(len(b), messageSize)])
		n, b = n+k, b[k:]
	}
	return n, err
}

// Close says goodbye with status 1000 before the connection ends. Closing the
// net.Conn alone would cut off a Read under way instead.
func (m messages) Close() error {
	_ = m.raw.SetDeadline(time.Now().Add(farewell)) // fails only when it is closed already
	err := m.webSocket.Close(websocket.StatusNormalClosure, "")
	_ = m.Conn.Close() // stops its timers
	return err
}
