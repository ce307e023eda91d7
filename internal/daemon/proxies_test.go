package daemon

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/config"
)

// One port for the relay, its site by the same name and another by its own.
func TestSharedPort(t *testing.T) {
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "other") }))
	defer other.Close()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "index.html"), "site")
	b := mustBuild(t, settings(t, func(c *config.Config) {
		open(c)
		c.Hostname, c.Fallback, c.FrontPage = "relay.example.com", dir+"/", config.FrontFallback
		c.SNIRoute = []string{"*.example.com=" + other.Listener.Addr().String()}
	}))
	b.run()
	fast, webSocket := b.options(), b.options()
	webSocket.WebSocket = true
	first, second := b.dial(fast), b.dial(webSocket)
	if !first.FastStarted() {
		t.Error("no fast start")
	}
	exchange(t, first, second)
	exchange(t, second, first)
	for name, want := range map[string]string{"relay.example.com": "site", "www.example.com": "other", "": "site"} {
		transport := &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{ServerName: name, InsecureSkipVerify: true},
		}
		res, err := (&http.Client{Transport: transport}).Get("https://" + b.Config().Listen + "/")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
	s := b.Stats()
	if s.SNIRoutes == nil || s.SNIRoutes.Routed != 1 || s.Web.Fallback == nil || s.Web.Fallback.Requests != 2 {
		t.Errorf("routes %+v, fallback %+v", s.SNIRoutes, s.Web.Fallback)
	}
}

func TestFallbackThatIsNotThere(t *testing.T) {
	c := settings(t, func(c *config.Config) {
		c.Fallback, c.FrontPage = filepath.Join(os.TempDir(), "detour-no-such-directory"), config.FrontFallback
	})
	_, err := build(t, c)
	wantError(t, err, "fallback: cannot serve", "detour-no-such-directory")
}

// The relay's log, and so all else, has the client that a trusted proxy names.
func TestTrustedProxies(t *testing.T) {
	for _, trusted := range []string{"127.0.0.0/8", "192.0.2.0/24"} {
		b := mustBuild(t, settings(t, func(c *config.Config) {
			open(c)
			c.TLS, c.TrustedProxies = false, []string{trusted}
		}))
		stop := b.run()
		conn := b.dialTCP(b.Config().Listen)
		if _, err := io.WriteString(conn, "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 12)); err != nil { // of the 101
			t.Fatal(err)
		}
		conn.Close()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if seen := strings.Contains(b.log.String(), "addr=203.0.113.9:0"); seen != (trusted == "127.0.0.0/8") {
			t.Errorf("with %s trusted the log has the address: %v\n%s", trusted, seen, b.log)
		}
	}
}
