package web

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Real failures of crypto/tls, for some of which it has nothing but words.
func TestHandshakeFailures(t *testing.T) {
	config, pool := serverTLS(t)
	trusting := tls.Config{RootCAs: pool, ServerName: "relay.test"}
	shake := func(change func(*tls.Config)) func(net.Conn) {
		return func(c net.Conn) {
			mine := trusting.Clone()
			change(mine)
			if err := tls.Client(c, mine).Handshake(); err == nil {
				// In TLS 1.3 the client may be done before the server has looked.
				_, _ = c.Read(make([]byte, 1))
			}
		}
	}
	say := func(s string) func(net.Conn) { return func(c net.Conn) { write1(t, c, s) } }
	noName := config.Clone()
	noName.Certificates = nil
	noName.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("no such name") }

	for _, test := range []struct {
		name   string
		server *tls.Config
		client func(net.Conn)
		want   TLSFailures
	}{
		{"version", config, shake(func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		}), TLSFailures{NoVersion: 1}},
		{"protocol", config, shake(func(c *tls.Config) { c.NextProtos = []string{"h2"} }), TLSFailures{NoProtocol: 1}},
		{"trust", config, shake(func(c *tls.Config) { c.RootCAs = nil }), TLSFailures{Refused: 1}},
		{"certificate", noName, shake(func(*tls.Config) {}), TLSFailures{Other: 1}},
		{"silent end", config, func(c net.Conn) { c.Close() }, TLSFailures{WentAway: 1}},
		{"end inside", config, say("\x16\x03\x01\x02"), TLSFailures{WentAway: 1}},
		{"ssh", config, say("SSH-2.0-x\r\n"), TLSFailures{NotTLS: 1}},
		{"http", config, say("PATCH / HTTP/1.1\r\n\r\n"), TLSFailures{PlainHTTP: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t, Options{TLS: test.server})
			c := b.tcp()
			test.client(c)
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.CloseWrite() // may be closed already
			}
			b.conns.Wait()
			if got := b.server.Stats(); got != (Stats{TLSFailures: test.want}) {
				t.Errorf("Stats() = %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestHandshakeTimeout(t *testing.T) {
	config, _ := serverTLS(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, Options{TLS: config})
		c := b.pipe()
		began := time.Now()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("read: %v", err)
		}
		if took := time.Since(began); took != greetLimit {
			t.Errorf("closed after %v", took)
		}
		if got, want := b.server.Stats(), (Stats{TLSFailures: TLSFailures{Timeout: 1}}); got != want {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}
	})
}

// A client that sent no TLS gets its answer, even if more of its request was on
// the way than the handshake has read.
func TestPlainHTTPOnTLSPort(t *testing.T) {
	config, _ := serverTLS(t)
	b := newBed(t, Options{TLS: config})
	c := b.tcp()
	write1(t, c, "GET / HTTP/1.1\r\nHost: a\r\nX-Long: "+strings.Repeat("x", 20_000)+"\r\n\r\n")
	got, err := io.ReadAll(c)
	if err != nil || string(got) != wantsHTTPS || !strings.HasPrefix(string(got), "HTTP/1.0 400 Bad Request\r\n") {
		t.Errorf("read %q, %v", got, err)
	}
	c.Close()
	b.conns.Wait()
	if got, want := b.server.Stats(), (Stats{TLSFailures: TLSFailures{PlainHTTP: 1}}); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

func TestBeginsHTTP(t *testing.T) {
	for text, want := range map[string]bool{
		"GET /": true, "HEAD ": true, "POST ": true, "PUT /": true, "DELET": true, "CONNE": true, "PRI *": true,
		"GET h": true, "GET x": false, "SSH-2": false, "\x16\x03\x01\x02\x00": false, "get /": false, "A B C": false,
		"     ": false, "EHLO ": true, // SMTP reads the answer as an error too
	} {
		if got := beginsHTTP([5]byte([]byte(text))); got != want {
			t.Errorf("beginsHTTP(%q) = %v", text, got)
		}
	}
}
