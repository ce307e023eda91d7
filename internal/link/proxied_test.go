package link

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"testing"
)

// proxied is a TCP connection that stands for a client elsewhere.
type proxied struct {
	*net.TCPConn
	from net.Addr
}

func (p proxied) RemoteAddr() net.Addr { return p.from }
func (p proxied) TCP() *net.TCPConn    { return p.TCPConn }

// TestProxiedIsFast: what came through a proxy has the client's address, and costs
// no more than what did not.
func TestProxiedIsFast(t *testing.T) {
	from := &net.TCPAddr{IP: net.IPv4(198, 51, 100, 7), Port: 4711}
	for _, cfg := range []*tls.Config{nil, serverConfig(t)} {
		ours, peer := tcp(t)
		c := Accept(proxied{ours.(*net.TCPConn), from}, cfg)
		if cfg != nil {
			c, peer = shake(t, c, tls.Client(peer, &tls.Config{InsecureSkipVerify: true}))
		}
		if c.RemoteAddr().String() != from.String() {
			t.Errorf("TLS %v: from %v, want %v", cfg != nil, c.RemoteAddr(), from)
		}
		if c.Fast() != (runtime.GOOS == "linux") {
			t.Errorf("TLS %v: fast %v", cfg != nil, c.Fast())
		}
		if _, err := io.WriteString(peer, "hello"); err != nil {
			t.Fatal(err)
		}
		err := c.Fill(func(b []byte) (int, bool, error) { return len(b), len(b) == len("hello"), nil })
		if err != nil {
			t.Error(err)
		}
	}
}

// TestNotFast: what only looks like TCP has the portable form.
func TestNotFast(t *testing.T) {
	if c, _ := pipe(t); c.Fast() {
		t.Error("a pipe has the fast form")
	}
	ours, _ := tcp(t)
	if c := Accept(struct{ net.Conn }{ours}, nil); c.Fast() {
		t.Error("a wrapped connection has the fast form: bytes that the wrapper holds would be lost")
	}
}
