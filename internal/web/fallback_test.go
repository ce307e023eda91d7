package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// withSite returns a bed whose fallback is a web server with handler.
func withSite(t *testing.T, o Options, handler http.HandlerFunc) *bed {
	t.Helper()
	site := httptest.NewServer(handler)
	t.Cleanup(site.Close)
	o.Fallback = fallback(t, site.URL, nil)
	return newBed(t, o)
}

func fallback(t *testing.T, target string, logger *slog.Logger) *Fallback {
	t.Helper()
	f, err := NewFallback(target, logger)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// What is the relay's stays the relay's, all else is the site's, as the site says it.
func TestFallbackAnswersTheRest(t *testing.T) {
	b := withSite(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "site")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, r.Method+" "+r.Host+" "+r.RequestURI)
	})
	for request, want := range map[string]int{
		"GET /derp/probe": 200, "GET /derp/latency-check": 200, "GET /generate_204": 204, "GET /bootstrap-dns": 200, "GET /derp": 426,
		"GET /": 418, "GET /robots.txt": 418, "GET /derp/": 418, "GET /derp/x": 418, "POST /a?b=%zz;c": 418, "PUT //x": 418, "DELETE /derpx": 418,
	} {
		r := b.ask(request + " HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n")
		if r.StatusCode != want {
			t.Errorf("%s: status %d, want %d", request, r.StatusCode, want)
		}
		if want != http.StatusTeapot {
			continue
		}
		method, uri, _ := strings.Cut(request, " ")
		if got := body(t, r); got != method+" site.example "+uri {
			t.Errorf("%s: the site saw %q", request, got)
		}
		for _, ours := range []string{"Strict-Transport-Security", "Content-Security-Policy", "X-Frame-Options"} {
			if v := r.Header.Get(ours); v != "" {
				t.Errorf("%s: %s: %s is forced upon the site", request, ours, v)
			}
		}
		if r.Header.Get("Server") != "site" {
			t.Errorf("%s: headers %v", request, r.Header)
		}
	}
	if s := b.server.Stats().Fallback; s == nil || s.Requests != 7 || s.Failed != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestTheSiteLearnsTheClient(t *testing.T) {
	const said = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: outer.example\r\n" +
		"X-Real-IP: 192.0.2.2\r\nForwarded: for=192.0.2.3\r\n"
	for _, trusted := range []bool{true, false} {
		seen := make(chan http.Header, 1)
		var o Options
		if trusted {
			o.Proxies.From = prefixes("127.0.0.1/32")
		}
		b := withSite(t, o, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
		b.ask("GET / HTTP/1.1\r\nHost: inner.example\r\nConnection: close\r\n" + said + "\r\n")
		h := <-seen
		want := map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "inner.example", "X-Real-Ip": "127.0.0.1", "Forwarded": "",
		}
		if trusted {
			want = map[string]string{
				"X-Forwarded-For": "192.0.2.1, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "outer.example", "X-Real-Ip": "192.0.2.1",
			}
		}
		for name, value := range want {
			if got := strings.Join(h.Values(name), "|"); got != value {
				t.Errorf("trusted %v: %s is %q, want %q", trusted, name, got, value)
			}
		}
	}
}

func TestTheSiteLearnsOfTLS(t *testing.T) {
	config, pool := serverTLS(t)
	b := withSite(t, Options{TLS: config}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Proto"))
	})
	c := tls.Client(b.tcp(), &tls.Config{RootCAs: pool, ServerName: "relay.test"})
	write1(t, c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if got := body(t, r); got != "https" {
		t.Errorf("X-Forwarded-Proto is %q", got)
	}
}

// A WebSocket of the site passes through, and ends with the relay.
func TestUpgradeOfTheSite(t *testing.T) {
	b := withSite(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(c, "echo "+line)
		_, _ = io.Copy(io.Discard, c)
	})
	c := b.tcp()
	write1(t, c, "GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	in := bufio.NewReader(c)
	r, err := http.ReadResponse(in, nil)
	if err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%+v, %v", r, err)
	}
	defer r.Body.Close()
	write1(t, c, "hello\n")
	expect(t, in, "echo hello\n")
	b.stop()
	if _, err := in.ReadByte(); err == nil {
		t.Error("it goes on after the relay's end")
	}
}

func TestSiteThatIsDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody listens there now
	var log bytes.Buffer
	b := newBed(t, Options{Fallback: fallback(t, "http://"+l.Addr().String(), slog.New(slog.NewTextHandler(&log, nil)))})
	for range 3 {
		r := b.ask("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if got := body(t, r); r.StatusCode != http.StatusBadGateway || got != "Bad Gateway\n" {
			t.Errorf("status %d, body %q", r.StatusCode, got)
		}
	}
	b.stop()
	if strings.Count(log.String(), "hint=") != 1 || b.server.Stats().Fallback.Failed != 3 {
		t.Errorf("stats %+v, log:\n%s", b.server.Stats().Fallback, &log)
	}
}

// pipes is a listener whose connections are made by dial.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case p.conns <- b:
		return a, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// slowly runs one exchange in which the site takes far longer than our own limits.
func slowly(t *testing.T, handler http.HandlerFunc, exchange func(t *testing.T, c net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		listener := newPipes()
		site := &http.Server{Handler: handler}
		served := make(chan struct{})
		go func() { defer close(served); _ = site.Serve(listener) }()
		f := fallback(t, "http://127.0.0.1:1", nil)
		f.proxy.DialContext = listener.dial
		b := newBed(t, Options{Fallback: f})
		c := b.pipe()
		exchange(t, c)
		c.Close()
		b.stop()
		site.Close()
		<-served
	})
}

// A download and an upload may take as long as they like while bytes move.
func TestSlowTransfers(t *testing.T) {
	const parts = 10
	t.Run("download", func(t *testing.T) {
		slowly(t, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(50 * time.Second) // before the first byte
			for range parts {
				_, _ = w.Write(bytes.Repeat([]byte("x"), 1000))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(50 * time.Second)
			}
		}, func(t *testing.T, c net.Conn) {
			write1(t, c, "GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			if got := len(body(t, r)); got != parts*1000 {
				t.Errorf("%d bytes, want %d", got, parts*1000)
			}
		})
	})
	t.Run("upload", func(t *testing.T) {
		slowly(t, func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			time.Sleep(100 * time.Second) // after the last byte
			if err != nil || n != parts*1000 {
				t.Errorf("the site read %d bytes, %v", n, err)
			}
			w.WriteHeader(http.StatusNoContent)
		}, func(t *testing.T, c net.Conn) {
			write1(t, c, "POST /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10000\r\n\r\n")
			for range parts {
				time.Sleep(50 * time.Second)
				write1(t, c, strings.Repeat("x", 1000))
			}
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || r.StatusCode != http.StatusNoContent {
				t.Fatalf("%+v, %v", r, err)
			}
			r.Body.Close()
		})
	})
}

// Who takes no byte is cut off all the same.
func TestClientThatDoesNotRead(t *testing.T) {
	slowly(t, func(w http.ResponseWriter, _ *http.Request) {
		// With a length, or the proxy flushes, and waits for a lock while it does: synctest
		// would not see that nothing moves.
		w.Header().Set("Content-Length", strconv.Itoa(1<<20))
		_, _ = w.Write(make([]byte, 1<<20))
	}, func(t *testing.T, c net.Conn) {
		write1(t, c, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
		time.Sleep(2 * siteLimit)
		if n, err := io.Copy(io.Discard, c); err != nil || n > 1<<19 {
			t.Errorf("%d bytes after a long sleep, %v", n, err)
		}
	})
}

func TestFiles(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	put := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("index.html", "front")
	put("a/page.txt", "page")
	put("b/index.html", "b")
	put(".git/config", "secret")
	put("a/.htpasswd", "secret")
	put(".well-known/acme-challenge/token", "token")
	if err := os.WriteFile(filepath.Join(outside, "x"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "x"), filepath.Join(dir, "link")); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	b := newBed(t, Options{Fallback: fallback(t, dir, nil)})
	for request, want := range map[string]string{
		"GET /":                                 "200 front",
		"GET /a/page.txt":                       "200 page",
		"GET /b/":                               "200 b",
		"GET /b":                                "301 ",
		"GET /.well-known/acme-challenge/token": "200 token",
		"GET /a/":                               "404 ",
		"GET /a":                                "404 ",
		"GET /.git/config":                      "404 ",
		"GET /.git/":                            "404 ",
		"GET /a/.htpasswd":                      "404 ",
		"GET /link":                             "404 ",
		"GET /../" + filepath.Base(outside):     "404 ",
		"GET /%2e%2e/x":                         "404 ",
		"GET /none":                             "404 ",
		"GET /robots.txt":                       "404 ",
		"POST /":                                "405 ",
	} {
		r := b.ask(request + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if got := strings.TrimSpace(r.Status[:4] + body(t, r)); !strings.HasPrefix(got, strings.TrimSpace(want)) || strings.Contains(got, "secret") {
			t.Errorf("%s: %q, want %q", request, got, want)
		}
	}
}

func TestFallbackThatIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{file, filepath.Join(t.TempDir(), "none")} {
		if _, err := NewFallback(target, nil); err == nil || strings.Count(err.Error(), "; hint: ") != 1 {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// routerFunc is a Router.
type routerFunc func(raw net.Conn) ([]byte, func(context.Context, func()))

func (f routerFunc) Look(raw net.Conn) ([]byte, func(context.Context, func())) { return f(raw) }

func TestRouter(t *testing.T) {
	t.Run("ours", func(t *testing.T) {
		b := newBed(t, Options{Router: routerFunc(func(raw net.Conn) ([]byte, func(context.Context, func())) {
			first := make([]byte, 7)
			_, _ = io.ReadFull(raw, first)
			return first, nil
		})})
		c := b.tcp()
		write1(t, c, "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\n\r\n")
		expect(t, c, switching+greeting)
	})
	t.Run("another's", func(t *testing.T) {
		b := newBed(t, Options{Router: routerFunc(func(raw net.Conn) ([]byte, func(context.Context, func())) {
			return nil, func(_ context.Context, ready func()) { ready(); _, _ = io.WriteString(raw, "site") }
		})})
		got, err := io.ReadAll(b.tcp())
		if err != nil || string(got) != "site" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("nothing comes", func(t *testing.T) {
		b := newBed(t, Options{Router: routerFunc(func(raw net.Conn) ([]byte, func(context.Context, func())) {
			_, _ = raw.Read(make([]byte, 1))
			return nil, nil
		})})
		c := b.tcp()
		b.stop() // does not wait for greetLimit
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is served")
		}
	})
}
