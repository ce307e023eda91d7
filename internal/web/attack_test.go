package web

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// A ClientHello that trickles in is cut off ten seconds after the accept.
func TestSlowClientHello(t *testing.T) {
	config, _ := serverTLS(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, Options{TLS: config})
		c := b.pipe()
		began := time.Now()
		var slow sync.WaitGroup
		slow.Go(func() {
			for _, next := range append([]byte{22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3}, make([]byte, 60)...) {
				if _, err := c.Write([]byte{next}); err != nil {
					return
				}
				time.Sleep(time.Second) // on the bubble's clock
			}
		})
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("read: %v", err)
		}
		if took := time.Since(began); took != greetLimit {
			t.Errorf("closed after %v", took)
		}
		slow.Wait()
		b.conns.Wait()
		if got, want := b.server.Stats(), (Stats{TLSFailures: TLSFailures{Timeout: 1}}); got != want {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}
	})
}

// Garbage behind a good handshake is net/http's to refuse, and never comes to the relay.
func TestGarbageAfterTLS(t *testing.T) {
	config, pool := serverTLS(t)
	b := newBed(t, Options{TLS: config})
	c := tls.Client(b.tcp(), &tls.Config{RootCAs: pool, ServerName: "relay.test"})
	garbage := make([]byte, 2*maxHead)
	_, _ = rand.Read(garbage) // never fails
	go func() { _, _ = c.Write(garbage) }()
	if got, err := io.ReadAll(c); err == nil && len(got) > 0 && !isBadRequest(got) {
		t.Errorf("answered with %q", got)
	}
	c.Close()
	b.conns.Wait()
	if got := b.server.Stats().Upgrades; got != (UpgradeStats{}) {
		t.Errorf("upgrades: %+v", got)
	}
}

func isBadRequest(b []byte) bool { return len(b) > 12 && string(b[:12]) == "HTTP/1.1 400" }

func TestHTTPIsBounded(t *testing.T) {
	b := newBed(t, Options{})
	set := func(n int) {
		b.server.http.mu.Lock()
		b.server.http.places = n
		b.server.http.mu.Unlock()
	}
	set(maxHTTP)
	c := b.tcp()
	write1(t, c, "HEAD /derp/probe HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("one connection too many is answered")
	}
	direct := b.tcp() // is the relay's at once, and needs no place
	write1(t, direct, fastUpgrade)
	expect(t, direct, greeting)
	set(maxHTTP - 1)
	c = b.tcp()
	write1(t, c, "HEAD /derp/probe HTTP/1.1\r\nHost: a\r\n\r\n")
	readOnce(t, c)
	c.Close()
	direct.Close()
	b.conns.Wait()
	if got := b.server.Stats(); got.HTTPFull != 1 {
		t.Errorf("Stats() = %+v", got)
	}
	if b.server.http.places != maxHTTP-1 {
		t.Errorf("%d places are taken", b.server.http.places)
	}
}

// A WebSocket that logs in is told to who counts, and frees net/http's place.
func TestWebSocketIsAdmitted(t *testing.T) {
	b, open := newWebSocketBed(t)
	ws := open(websocket.DialOptions{Subprotocols: []string{"derp"}, HTTPHeader: http.Header{}})
	if b.admitted.Load() {
		t.Error("admitted before the login")
	}
	if err := ws.Write(t.Context(), websocket.MessageBinary, []byte("in\n")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(t.Context()); err != nil { // the echo comes after it
		t.Fatal(err)
	}
	b.server.http.mu.Lock()
	places := b.server.http.places
	b.server.http.mu.Unlock()
	if !b.admitted.Load() || places != 0 {
		t.Errorf("admitted: %v, %d places of net/http's", b.admitted.Load(), places)
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-b.relay.ended; !errors.Is(err, io.EOF) {
		t.Errorf("relay ended with %v", err)
	}
}
