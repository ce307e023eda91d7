package web

import (
	"bytes"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

var secureHeaders = map[string]string{
	"Strict-Transport-Security": "max-age=63072000; includeSubDomains",
	"Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'; " +
		"block-all-mixed-content; object-src 'none'",
	"X-Frame-Options":        "DENY",
	"X-Content-Type-Options": "nosniff",
}

// with returns the headers of m and those in pairs.
func with(m map[string]string, pairs ...string) map[string]string {
	all := maps.Clone(m)
	if all == nil {
		all = make(map[string]string)
	}
	for pair := range slices.Chunk(pairs, 2) {
		all[pair[0]] = pair[1]
	}
	return all
}

// The headers of each response are these and Date, and no others.
func TestEndpoints(t *testing.T) {
	plainError := with(nil, "Content-Type", plainType, "X-Content-Type-Options", "nosniff")
	home := with(secureHeaders, "Content-Type", htmlType)
	probed := with(nil, "Access-Control-Allow-Origin", "*", "Content-Length", "0")
	noCache := with(nil, "Cache-Control", "no-cache, no-store, must-revalidate, no-transform, max-age=0")
	const robots = "User-agent: *\nDisallow: /\n"
	for _, test := range []struct {
		method, path string
		status       int
		headers      map[string]string
		body         string
	}{
		{"GET", "/", 200, with(home, "Content-Length", "*"), neutralPage},
		{"HEAD", "/", 200, with(home, "Content-Length", "*"), ""},
		{"POST", "/", 200, with(home, "Content-Length", "*"), neutralPage},
		{"BREW", "/nosuch", 200, with(home, "Content-Length", "*"), neutralPage},
		{"GET", "/derp/", 200, with(home, "Content-Length", "*"), neutralPage},
		{"GET", "/debug/", 200, with(home, "Content-Length", "*"), neutralPage},
		{"GET", "/debug/vars", 200, with(home, "Content-Length", "*"), neutralPage},
		{"GET", "/derp", 426, with(plainError, "Content-Length", "33"), "DERP requires connection upgrade\n"},
		{"GET", "/derp/probe", 200, probed, ""},
		{"HEAD", "/derp/probe", 200, probed, ""},
		{"GET", "/derp/latency-check", 200, probed, ""},
		{"POST", "/derp/latency-check", 405, with(plainError, "Content-Length", "19"), "bogus probe method\n"},
		{"OPTIONS", "/derp/probe", 405, with(plainError, "Content-Length", "19"), "bogus probe method\n"},
		{"GET", "/generate_204", 204, noCache, ""},
		{"POST", "/generate_204", 204, noCache, ""},
		{"GET", "/bootstrap-dns?q=x", 200, with(secureHeaders, "Content-Type", "application/json",
			"Connection", "close", "Content-Length", "0"), ""},
		{"GET", "/robots.txt", 200, with(secureHeaders, "Content-Type", plainType, "Content-Length", "26"), robots},
		{"CONNECT", "example.com:443", 403, with(plainError, "Content-Length", "20"), "CONNECT not enabled\n"},
		{"PRI", "*", 400, with(nil, "Connection", "close", "Content-Length", "0"), ""},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			b := newBed(t, Options{})
			resp := b.ask(test.method + " " + test.path + " HTTP/1.1\r\nHost: relay.test\r\n\r\n")
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != test.status || string(body) != test.body {
				t.Errorf("%d %q, %v; want %d %q", resp.StatusCode, body, err, test.status, test.body)
			}
			got := resp.Header
			if resp.Close { // ReadResponse has moved it
				got.Set("Connection", "close")
			}
			got.Del("Date")
			for name, want := range test.headers {
				if v := got.Get(name); v != want && (want != "*" || v == "") {
					t.Errorf("%s: %q, want %q", name, v, want)
				}
				got.Del(name)
			}
			if len(got) > 0 {
				t.Errorf("more headers: %v", got)
			}
		})
	}
}

func TestFrontPages(t *testing.T) {
	for _, test := range []struct {
		setting  string
		status   int
		location string
		body     string
	}{
		{"", 200, "", neutralPage},
		{"neutral", 200, "", neutralPage},
		{"blank", 200, "", ""},
		{"https://example.com/x?y", 302, "https://example.com/x?y", "<a href=\"https://example.com/x?y\">Found</a>.\n\n"},
	} {
		resp := newBed(t, Options{FrontPage: test.setting}).ask("GET /any HTTP/1.1\r\nHost: a\r\n\r\n")
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != test.status || string(body) != test.body ||
			resp.Header.Get("Location") != test.location {
			t.Errorf("%q: %d %v %q, %v", test.setting, resp.StatusCode, resp.Header, body, err)
		}
		for name, want := range secureHeaders {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%q: %s: %q, want %q", test.setting, name, got, want)
			}
		}
	}
	for _, word := range []string{"derp", "tailscale", "detour", "relay"} {
		if strings.Contains(strings.ToLower(neutralPage), word) {
			t.Errorf("the neutral page says %q", word)
		}
	}
}

func TestChallenge(t *testing.T) {
	b := newBed(t, Options{})
	longest := strings.Repeat("x", 64)
	for challenge, want := range map[string]string{
		longest:                  "response " + longest,
		longest + "x":            "",
		"ts_127.0.0.1":           "response ts_127.0.0.1",
		"A:b-9":                  "response A:b-9",
		"a b":                    "",
		"a/b":                    "",
		"":                       "",
		"\u00e9":                 "",
		"<script>alert</script>": "",
	} {
		resp := b.ask("GET /generate_204 HTTP/1.1\r\nHost: a\r\nX-Tailscale-Challenge: " + challenge + "\r\n\r\n")
		got, there := resp.Header["X-Tailscale-Response"]
		if resp.StatusCode != http.StatusNoContent || there != (want != "") || there && got[0] != want {
			t.Errorf("%q: %d %q, want %q", challenge, resp.StatusCode, got, want)
		}
	}
}

func TestHeaderLimit(t *testing.T) {
	b := newBed(t, Options{})
	for size, want := range map[int]int{1_000_000: http.StatusOK, 1_100_000: http.StatusRequestHeaderFieldsTooLarge} {
		resp := b.ask("GET /derp/probe HTTP/1.1\r\nHost: a\r\nX-Long: " + strings.Repeat("x", size) + "\r\n\r\n")
		if resp.StatusCode != want {
			t.Errorf("header of %d bytes: %d, want %d", size, resp.StatusCode, want)
		}
	}
	if got := b.server.Stats(); got.HTTPConns != 2 || got.HTTPRequests != 1 {
		t.Errorf("Stats() = %+v", got)
	}
}

// Strangers are heard of at debug alone.
func TestNoiseIsDebug(t *testing.T) {
	for level, want := range map[slog.Level]bool{slog.LevelDebug: true, slog.LevelInfo: false} {
		var logs bytes.Buffer
		b := newBed(t, Options{Logger: slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: level}))})
		c := b.tcp()
		write1(t, c, "GET /")
		c.Close()
		b.conns.Wait()
		b.stop()
		if got := logs.Len() > 0; got != want {
			t.Errorf("at %v: %q", level, logs.String())
		}
	}
}
