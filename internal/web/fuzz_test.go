package web

import (
	"bufio"
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// onePiece is a connection that carries one request, and swallows the answer.
type onePiece struct {
	*bytes.Reader
	closed chan struct{}
}

func (c *onePiece) Write(b []byte) (int, error)      { return len(b), nil }
func (c *onePiece) Close() error                     { close(c.closed); return nil }
func (c *onePiece) LocalAddr() net.Addr              { return textAddr("here") }
func (c *onePiece) RemoteAddr() net.Addr             { return textAddr("there") }
func (c *onePiece) SetDeadline(time.Time) error      { return nil }
func (c *onePiece) SetReadDeadline(time.Time) error  { return nil }
func (c *onePiece) SetWriteDeadline(time.Time) error { return nil }

// oneListener accepts one connection and waits for its end.
type oneListener struct {
	conn *onePiece
	gave bool
}

func (l *oneListener) Accept() (net.Conn, error) {
	if l.gave {
		<-l.conn.closed
		return nil, net.ErrClosed
	}
	l.gave = true
	return l.conn, nil
}
func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return textAddr("here") }

// viaHTTP returns what net/http and decide make of one request.
func viaHTTP(request []byte) (up upgrade, seen bool) {
	server := http.Server{
		ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			up, seen = decide(r), true
			w.Header().Set("Connection", "close")
		}),
	}
	c := &onePiece{Reader: bytes.NewReader(request), closed: make(chan struct{})}
	_ = server.Serve(&oneListener{conn: c}) // always fails, once the connection has ended
	return up, seen
}

// What is upgraded without net/http, net/http would have upgraded the same way.
func FuzzFirstRequest(f *testing.F) {
	for _, seed := range []string{
		plainUpgrade,
		fastUpgrade + "early",
		"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: a, derp\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
		"POST /%64erp?x HTTP/1.0\r\nHost: [::1]:1\r\nUpgrade: dErP\r\nDerp-Fast-Start: true\r\n\r\n",
		"GET /derp HTTP/1.1\nHost: a\nUpgrade: derp\n\nrest",
		"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade:\r\n derp\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nUpgrade: derp\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nUpgrade: derp\r\n\r\n",
		"GET http://b/derp HTTP/1.1\r\nHost: a\r\nUpgrade: derp\r\n\r\n",
		"GET /derp HTTP/2.0\r\nHost: a\r\nUpgrade: derp\r\n\r\n",
		"GET /derp HTTP/1.1\r\nHost : a\r\nUpgrade : derp\r\n\r\n",
		"CONNECT /derp HTTP/1.1\r\nHost: a\r\nUpgrade: derp\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"\r\n\r\nGET /derp HTTP/1.1\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	} {
		f.Add([]byte(seed))
	}
	h := &head{reader: bufio.NewReaderSize(nil, 4<<10)}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, end, err := readHead(bytes.NewReader(data), h.buf[:])
		if n > len(data) || end > n || !bytes.Equal(h.buf[:n], data[:n]) {
			t.Fatalf("read %d bytes of %d, header of %d", n, len(data), end)
		}
		if err != nil || end == 0 {
			return
		}
		up := h.parse(h.buf[:end])
		if up.kind != rawDERP {
			return
		}
		if other, seen := viaHTTP(data[:end]); !seen || other != up {
			t.Fatalf("%q: %+v here, %+v by net/http (%v)", data[:end], up, other, seen)
		}
	})
}

// A redirect leads to the same host under https, whatever was sent.
func FuzzCaptivePortal(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /generate_204 HTTP/1.1\r\nHost: a\r\nX-Tailscale-Challenge: ts_a\r\n\r\n",
		"HEAD //b/c?d HTTP/1.0\r\nHost: a:80\r\n\r\n",
		"GET http://b/c HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET a:b HTTP/1.1\r\nHost: a@b\r\n\r\n",
		"GET /\t%0d%0aSet-Cookie:x HTTP/1.1\r\nHost: a\tb\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	p := NewHTTP(HTTPOptions{})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		location := w.Header().Get("Location")
		switch {
		case w.Code == http.StatusFound:
			if !strings.HasPrefix(location, "https://"+r.Host+"/") || !plainText([]byte(location)) ||
				strings.ContainsAny(location, "\r\n\t") {
				t.Fatalf("%q: sent to %q", data, location)
			}
		case w.Code != http.StatusNoContent && w.Code != http.StatusBadRequest, location != "":
			t.Fatalf("%q: %d to %q", data, w.Code, location)
		}
	})
}
