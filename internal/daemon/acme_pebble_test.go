//go:build pebble

package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/relaytest"
)

// leaks are certmagic's own goroutines, of which it keeps some for good.
func leaks() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"),
	}
}

// issuerOf returns the roots that the authority issues under.
func issuerOf(t *testing.T, a *relaytest.Pebble) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	addIssuer(t, a, pool)
	return pool
}

// addIssuer has a pool trust what the authority issues.
func addIssuer(t *testing.T, a *relaytest.Pebble, pool *x509.CertPool) {
	t.Helper()
	ask := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: a.Roots}}}
	answer, err := ask.Get(a.RootURL())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("no root")
	}
}

// A new relay, with its own listeners where the authority asks: no map with a pin
// is ever made, and a client that trusts the authority logs in.
func TestRelayWithAuthority(t *testing.T) {
	for _, port80 := range []bool{true, false} {
		a := relaytest.NewPebble(t, nil)
		a.Start()
		c := settings(t, func(c *config.Config) {
			c.CertMode, c.ACMEName, c.Hostname = config.CertACME, []string{"relay.example"}, "relay.example"
			c.ACMEDirectory, c.ACMECAFile = a.Directory(), filepath.Join(a.Dir, "cert.pem")
			c.Listen, c.HTTPListen = relaytest.Loopback(a.TLS), config.Off
			c.Admit = []string{"any"}
			if port80 {
				c.HTTPListen = relaytest.Loopback(a.HTTP)
			}
		})
		b := mustBuild(t, c)
		stop := b.run()
		select {
		case <-b.Settled():
		case <-time.After(time.Minute + 10*time.Second):
			t.Fatalf("not settled:\n%s", b.log)
		}
		if text, err := os.ReadFile(modeFile(c)); err != nil || string(text) != "ca\n" {
			t.Fatalf("mode %q, %v; log:\n%s", text, err, b.log)
		}
		roots := issuerOf(t, a)
		login := func(b *bed) {
			t.Helper()
			o := b.options()
			if o.CertName != "" {
				t.Errorf("the map carries %q", o.CertName)
			}
			o.TLS = &tls.Config{RootCAs: roots}
			if cl, err := client.Dial(t.Context(), o); err != nil {
				t.Errorf("login: %v\n%s", err, b.log)
			} else {
				cl.Close()
			}
		}
		login(b)
		if h := b.Health(); !h.OK {
			t.Errorf("health %+v", h)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		a.Stop()
		again := mustBuild(t, c) // the authority is gone, and is not needed
		stopAgain := again.run()
		login(again)
		if err := stopAgain(); err != nil {
			t.Fatal(err)
		}
	}
}
