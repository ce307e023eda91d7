package mapkeep

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
)

// ask asks a handler; header lines are "Name: value".
func ask(h http.Handler, method, target string, header ...string) *http.Response {
	r := httptest.NewRequest(method, target, nil)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestServesTheMap(t *testing.T) {
	dir := t.TempDir()
	a := &fake{m: mapOf(region(901, "a"))}
	b := newBed(t, dir, map[string]*fake{urlA: a}, urlA)
	if r := ask(b, "GET", Path); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("before the first map: %s", r.Status)
	}
	state := b.sources[0]
	if err := b.read(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	b.publish(time.Now())
	r := ask(b, "GET", Path)
	text := body(t, r)
	m, err := derpmap.ParseJSON([]byte(text))
	if err != nil || len(m.Regions) != 2 || r.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %+v, %v", text, m, err)
	}
	etag := r.Header.Get("ETag")
	if r := ask(b, "GET", Path, "If-None-Match: "+etag); r.StatusCode != http.StatusNotModified || body(t, r) != "" {
		t.Errorf("with the ETag: %s", r.Status)
	}
	if r := ask(b, "GET", Path, `If-None-Match: "other"`); r.StatusCode != http.StatusOK {
		t.Errorf("with another ETag: %s", r.Status)
	}
	if r := ask(b, "HEAD", Path); r.StatusCode != http.StatusOK || body(t, r) != "" || r.Header.Get("ETag") != etag {
		t.Errorf("HEAD: %s", r.Status)
	}
	if r := ask(b, "POST", Path); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", r.Status)
	}
	own := ask(b, "GET", Path+"?own=1")
	if m, err := derpmap.ParseJSON([]byte(body(t, own))); err != nil || len(m.Regions) != 1 || own.Header.Get("ETag") == etag {
		t.Errorf("own: %+v, %v", m, err)
	}
	b.setOwn(mapOf(region(900, "own", "own-b")), nil)
	b.publish(time.Now())
	if r := ask(b, "GET", Path, "If-None-Match: "+etag); r.StatusCode != http.StatusOK || r.Header.Get("ETag") == etag {
		t.Errorf("after a change: %s", r.Status)
	}
}

func TestGate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	put(t, file, "0123456789abcdef\n", 0o600)
	var failed error
	g := &Gate{
		Token: TokenFile("map_token_file", file), Failed: func(err error) { failed = err },
		Next: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in") }),
	}
	for _, tt := range []struct {
		target, header string
		want           int
	}{
		{Path, "", 401},
		{Path, "Authorization: Bearer 0123456789abcdef", 200},
		{Path, "Authorization: Bearer 0123456789abcdeX", 401},
		{Path, "Authorization: Basic 0123456789abcdef", 401},
		{Path + "?token=0123456789abcdef", "", 200},
		{Path + "?token=", "", 401},
		{Path + "?token=0123456789abcde", "", 401},
		{Path + "?token=0123456789abcdef", "Authorization: Bearer wrong", 401},
	} {
		header := []string{}
		if tt.header != "" {
			header = append(header, tt.header)
		}
		r := ask(g, "GET", tt.target, header...)
		if text := body(t, r); r.StatusCode != tt.want || (text == "in") != (tt.want == 200) {
			t.Errorf("%s %s: %s %q", tt.target, tt.header, r.Status, text)
		}
	}
	if g.Refused() != 6 {
		t.Errorf("refused %d", g.Refused())
	}
	put(t, file, "another token, replaced", 0o600)
	if r := ask(g, "GET", Path+"?token=another+token,+replaced"); r.StatusCode != 200 {
		t.Errorf("after a change: %s", r.Status)
	}
	put(t, file, "short", 0o600)
	if r := ask(g, "GET", Path+"?token=short"); r.StatusCode != 401 || failed == nil || !strings.Contains(failed.Error(), "; hint: ") {
		t.Errorf("a short token: %s, %v", r.Status, failed)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if r := ask(g, "GET", Path+"?token=short"); r.StatusCode != 401 {
		t.Errorf("without the file: %s", r.Status)
	}
}

func TestServer(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "map") })
	s, err := Listen("127.0.0.1:0", h, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(s.Addr().String(), h, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "; hint: ") {
		t.Errorf("the port twice: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	client := &http.Client{Transport: &http.Transport{}}
	for path, want := range map[string]string{Path: "200 map", "/": "404", "/stats": "404"} {
		r, err := client.Get("http://" + s.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%d %s", r.StatusCode, body(t, r))
		r.Body.Close()
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q", path, got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	client.CloseIdleConnections()
}
