//go:build pebble

package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/relaytest"
)

// client is a Manager under test, with the listeners that a relay would have.
type client struct {
	*Manager
	t    *testing.T
	got  chan got
	log  *logText
	stop func()
}

type got struct {
	name string
	leaf *x509.Certificate
	pair tls.Certificate
}

// newClient starts a Manager whose listeners are where a validates.
func newClient(t *testing.T, a *relaytest.Pebble, o Options) *client {
	t.Helper()
	c := &client{t: t, got: make(chan got, 16), log: &logText{}}
	o.Directory, o.Roots = a.Directory(), a.Roots
	o.Logger = slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.RetryFirst = 200 * time.Millisecond
	if o.Storage == "" {
		o.Storage = filepath.Join(t.TempDir(), "acme")
	}
	o.OnCertificate = func(name string, certPEM, keyPEM []byte) {
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Errorf("the certificate of %s: %v", name, err)
			return
		}
		c.got <- got{name, pair.Leaf, pair}
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.Manager = m
	if o.HTTP {
		serveHTTP(t, a, m)
	}
	if o.TLS {
		serveTLS(t, a, m)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("the log:\n%s", c.log)
		}
	})
	return c
}

// doors listen on a port of both loopback addresses, or of IPv4's where there is
// no other.
func doors(t *testing.T, port int) []net.Listener {
	t.Helper()
	var list []net.Listener
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil && host == "::1" {
			t.Logf("nothing listens on ::1: %v", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		list = append(list, l)
	}
	return list
}

func serveHTTP(t *testing.T, a *relaytest.Pebble, m *Manager) {
	t.Helper()
	s := &http.Server{Handler: m.HTTPChallenge(http.NotFoundHandler())}
	for _, l := range doors(t, a.HTTP) {
		go s.Serve(l)
	}
	t.Cleanup(func() { s.Close() })
}

func serveTLS(t *testing.T, a *relaytest.Pebble, m *Manager) {
	t.Helper()
	config := &tls.Config{GetCertificate: m.TLSChallenge, NextProtos: []string{"acme-tls/1"}}
	for _, l := range doors(t, a.TLS) {
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_ = tls.Server(conn, config).Handshake()
					conn.Close()
				}()
			}
		}()
	}
}

// next waits for a certificate and checks whom it is for.
func (c *client) next(name string) got {
	c.t.Helper()
	select {
	case g := <-c.got:
		if g.name != name {
			c.t.Fatalf("a certificate of %s, want one of %s", g.name, name)
		}
		if err := g.leaf.VerifyHostname(name); err != nil {
			c.t.Fatal(err)
		}
		return g
	case <-time.After(patience):
		c.t.Fatalf("no certificate for %s within %v: %+v", name, patience, c.Stats())
		return got{}
	}
}

// problem waits until name has failed for a cause, and checks what is said of it.
func (c *client) problem(cause Cause, want ...string) {
	c.t.Helper()
	patient := time.After(patience)
	for {
		text, more := c.log.next()
		if i := strings.Index(text, "cause="+string(cause)); i >= 0 {
			line := text[strings.LastIndexByte(text[:i], '\n')+1 : i]
			for _, w := range append(want, "hint: ") {
				if !strings.Contains(line, w) {
					c.t.Errorf("the log says %q, want it to hold %q", line, w)
				}
			}
			return
		}
		select {
		case <-more:
		case <-patient:
			c.t.Fatalf("%s was never reported: %+v", cause, c.Stats())
		}
	}
}

// next returns what is written by now, and a channel that more closes.
func (l *logText) next() (text string, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more == nil {
		l.more = make(chan struct{})
	}
	return l.text.String(), l.more
}
