package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// dial opens a WebSocket over TLS to the bed.
func (b *bed) dial(config *tls.Config, o websocket.DialOptions) (*websocket.Conn, *http.Response, error) {
	transport := &http.Transport{
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			return tls.Client(b.tcp(), config), nil
		},
	}
	b.t.Cleanup(transport.CloseIdleConnections)
	o.HTTPClient = &http.Client{Transport: transport}
	ws, resp, err := websocket.Dial(b.t.Context(), "wss://relay.test/derp", &o)
	if err == nil {
		b.t.Cleanup(func() { ws.CloseNow() })
	}
	return ws, resp, err
}

// newWebSocketBed returns a bed and a function that opens a WebSocket and reads
// the greeting.
func newWebSocketBed(t *testing.T) (*bed, func(websocket.DialOptions) *websocket.Conn) {
	config, pool := serverTLS(t)
	b := newBed(t, Options{TLS: config})
	return b, func(o websocket.DialOptions) *websocket.Conn {
		t.Helper()
		ws, _, err := b.dial(&tls.Config{RootCAs: pool, ServerName: "relay.test"}, o)
		if err != nil {
			t.Fatal(err)
		}
		kind, message, err := ws.Read(t.Context())
		if err != nil || kind != websocket.MessageBinary || string(message) != greeting {
			t.Fatalf("first message: %v %q, %v", kind, message, err)
		}
		return ws
	}
}

func TestWebSocket(t *testing.T) {
	b, open := newWebSocketBed(t)
	ws := open(websocket.DialOptions{
		Subprotocols:    []string{"chat", "derp", "more"},
		HTTPHeader:      http.Header{"Origin": {"https://elsewhere.example"}, "Derp-Fast-Start": {"1"}, "Ideal-Node": {"x"}},
		CompressionMode: websocket.CompressionContextTakeover,
	})
	if ws.Subprotocol() != "derp" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	if c := <-b.relay.conns; c.NotIdeal || !c.Addr.IsValid() || c.Addr.Addr().String() != "127.0.0.1" {
		t.Errorf("relay was given %+v", c)
	}

	big := bytes.Repeat([]byte("0123456789abcdef"), 70<<10/16) // 70 KiB
	if err := ws.Write(t.Context(), websocket.MessageBinary, big); err != nil {
		t.Fatal(err)
	}
	var back []byte
	for len(back) < len(big) {
		kind, message, err := ws.Read(t.Context())
		if err != nil || kind != websocket.MessageBinary {
			t.Fatalf("after %d bytes: %v, %v", len(back), kind, err)
		}
		back = append(back, message...)
	}
	if !bytes.Equal(back, big) {
		t.Error("the bytes came back changed")
	}

	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-b.relay.ended; !errors.Is(err, io.EOF) {
		t.Errorf("relay ended with %v", err)
	}
	b.conns.Wait()
	want := Stats{HTTPConns: 1, HTTPRequests: 1, TLSVersions: TLSVersions{TLS13: 1}, Upgrades: UpgradeStats{WebSocket: 1}}
	if got := b.server.Stats(); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

func TestWebSocketEnds(t *testing.T) {
	for _, test := range []struct {
		name    string
		kind    websocket.MessageType
		message string
		want    websocket.StatusCode
	}{
		{"text", websocket.MessageText, "hello", websocket.StatusUnsupportedData},
		{"too big", websocket.MessageBinary, strings.Repeat("x", maxMessage+1000), websocket.StatusMessageTooBig},
		{"relay's end", websocket.MessageBinary, "end\n", websocket.StatusNormalClosure},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, open := newWebSocketBed(t)
			ws := open(websocket.DialOptions{Subprotocols: []string{"derp"}})
			written := make(chan error, 1)
			go func() { written <- ws.Write(t.Context(), test.kind, []byte(test.message)) }()
			var err error
			for err == nil {
				_, _, err = ws.Read(t.Context())
			}
			if got := websocket.CloseStatus(err); got != test.want {
				t.Errorf("closed with %v, want %v (%v)", got, test.want, err)
			}
			<-b.relay.ended
			ws.CloseNow()
			<-written // its error says nothing: the server may have closed before its end
			b.conns.Wait()
		})
	}
}

func TestWebSocketRefused(t *testing.T) {
	b := newBed(t, Options{})
	const version = "Sec-WebSocket-Version: 13\r\n"
	const nonce = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	begin := "GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: derp\r\n"
	for request, want := range map[string]int{
		begin + version + nonce + "\r\n":                                          http.StatusUpgradeRequired, // no Connection: Upgrade
		begin + "Connection: Upgrade\r\n" + nonce + "\r\n":                        http.StatusBadRequest,
		begin + "Connection: Upgrade\r\n" + version + "\r\n":                      http.StatusBadRequest,
		"POST" + begin[3:] + "Connection: Upgrade\r\n" + version + nonce + "\r\n": http.StatusMethodNotAllowed,
	} {
		if resp := b.ask(request); resp.StatusCode != want {
			t.Errorf("%q: %d, want %d", request, resp.StatusCode, want)
		}
	}
	if n := len(b.relay.conns); n > 0 {
		t.Errorf("the relay was given %d connections", n)
	}
}

// A subprotocol that only resembles ours is nobody's.
func TestWebSocketOtherSubprotocol(t *testing.T) {
	config, pool := serverTLS(t)
	b := newBed(t, Options{TLS: config})
	ws, _, err := b.dial(&tls.Config{RootCAs: pool, ServerName: "relay.test"},
		websocket.DialOptions{Subprotocols: []string{"derp2"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("read: %v", err)
	}
	b.conns.Wait()
	if got := b.server.Stats().Upgrades; got != (UpgradeStats{}) {
		t.Errorf("upgrades: %+v", got)
	}
}

// An ending server waits for its WebSockets, and not for their clients.
func TestWebSocketStop(t *testing.T) {
	b, open := newWebSocketBed(t)
	ws := open(websocket.DialOptions{Subprotocols: []string{"derp"}})
	b.stop()
	if _, _, err := ws.Read(t.Context()); err == nil {
		t.Error("the WebSocket is still open")
	}
}
