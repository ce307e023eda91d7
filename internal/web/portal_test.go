package web

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestCaptivePortal(t *testing.T) {
	for _, test := range []struct {
		method, target, host string
		status               int
		location             string
	}{
		{"GET", "/", "relay.test", 302, "https://relay.test/"},
		{"HEAD", "/a?b=c", "relay.test:8080", 302, "https://relay.test:8080/a?b=c"},
		{"GET", "/derp", "192.0.2.1", 302, "https://192.0.2.1/derp"},
		{"GET", "/debug/vars", "[2001:db8::1]:80", 302, "https://[2001:db8::1]:80/debug/vars"},
		{"GET", "//evil.example/x", "relay.test", 302, "https://relay.test//evil.example/x"},
		{"GET", "http://other.example/x", "other.example", 302, "https://other.example/x"},
		{"GET", "/generate_204", "", 204, ""},
		{"POST", "/generate_204", "relay.test", 204, ""},
		{"GET", "/generate_204/", "relay.test", 302, "https://relay.test/generate_204/"},
		{"POST", "/", "relay.test", 400, ""},
		{"OPTIONS", "*", "relay.test", 400, ""},
		{"GET", "/", "", 400, ""},
		{"GET", "/", "a\r\nSet-Cookie: x", 400, ""},
		{"GET", "/", "a\x00b", 400, ""},
		{"GET", "/", "good.example@evil.example", 400, ""},
		{"GET", "/", "evil.example/path?", 400, ""},
		{"GET", "/", "evil.example#", 400, ""},
		{"GET", "/", `evil.example\`, 400, ""},
	} {
		p := NewHTTP(HTTPOptions{})
		r := httptest.NewRequest(test.method, test.target, nil)
		r.Host = test.host
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != test.status || w.Header().Get("Location") != test.location {
			t.Errorf("%s %s at %q: %d %q, want %d %q", test.method, test.target, test.host,
				w.Code, w.Header().Get("Location"), test.status, test.location)
		}
		if test.status == 400 && w.Body.String() != "Use HTTPS\n" {
			t.Errorf("%s %s at %q: body %q", test.method, test.target, test.host, w.Body)
		}
	}
}

func TestCaptivePortalServes(t *testing.T) {
	p := NewHTTP(HTTPOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	served, done := make(chan error, 1), make(chan struct{})
	go func() { served <- p.Serve(ctx) }()
	client, server := tcpPair(t)
	ready := 0
	go func() { p.ServeConn(ctx, server, func(bool) { ready++ }); close(done) }()

	write1(t, client, "GET /generate_204 HTTP/1.1\r\nHost: a\r\nX-Tailscale-Challenge: ts_a\r\n\r\n"+
		"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\n\r\n")
	r := bufio.NewReader(client)
	for _, want := range []struct {
		status          int
		header, content string
	}{
		{204, "X-Tailscale-Response", "response ts_a"},
		{302, "Location", "https://a/derp"},
	} {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want.status || resp.Header.Get(want.header) != want.content {
			t.Errorf("%d %v, want %+v", resp.StatusCode, resp.Header, want)
		}
	}
	cancel()
	<-done
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if ready != 1 {
		t.Errorf("ready was called %d times", ready)
	}
	if got, want := p.Stats(), (HTTPStats{Conns: 1, Challenges: 1, Redirects: 1}); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}
