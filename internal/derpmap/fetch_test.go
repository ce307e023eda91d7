package derpmap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// server answers with a handler; a nil one with the map of region 901 and an ETag.
func server(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	if h == nil {
		h = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"one"`)
			if r.Header.Get("If-None-Match") == `"one"` {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			_, _ = w.Write([]byte(mustJSON(t, Map{Regions: map[int]*Region{901: regionOf(901, "b", "901a")}})))
		}
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func fetcher(t *testing.T, o FetchOptions) *Fetcher {
	t.Helper()
	f, err := NewFetcher(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFetchOnlyWhatChanged(t *testing.T) {
	f := fetcher(t, FetchOptions{URL: server(t, nil).URL})
	got, err := f.Fetch(t.Context(), Version{})
	if err != nil || got.Map.Regions[901] == nil || got.Version.ETag != `"one"` {
		t.Fatalf("%+v, %v", got, err)
	}
	again, err := f.Fetch(t.Context(), got.Version)
	if err != nil || !again.Unchanged || again.Version != got.Version {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestFetchFails(t *testing.T) {
	huge := strings.Repeat(" ", MaxSize+1)
	loop := server(t, nil)
	loop.Config.Handler = http.RedirectHandler("/again", http.StatusFound)
	closed := server(t, nil)
	closed.Close()
	text := func(s string) *httptest.Server {
		return server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) })
	}
	for name, tt := range map[string]struct {
		server *httptest.Server
		path   string
		want   string
	}{
		"nobody there":  {closed, "", "connection refused"},
		"redirect loop": {loop, "", "redirects more than 3 times"},
		"huge":          {text(huge), "", "larger than 4 MiB"},
		"no JSON":       {text("{\"Regions\":[]}"), "", "want an object, got array"},
		"a page":        {text("<!DOCTYPE html><p>hello: you"), "/m.json", "invalid character '<'"},
		"half":          {text("{\"Regions\":{"), "", "unexpected end"},
		"not found":     {server(t, http.NotFound), "", "404 Not Found"},
		"refused":       {server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }), "", "wants another token"},
		"304 unasked":   {server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }), "", "304"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fetcher(t, FetchOptions{URL: tt.server.URL + tt.path + "?token=secret"}).Fetch(t.Context(), Version{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Count(err.Error(), "; hint: ") != 1 {
				t.Fatalf("error %v", err)
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q", err)
			}
		})
	}
}

// A server that never ends its answer is left when the time is up.
func TestFetchEndsInTime(t *testing.T) {
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("{"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := fetcher(t, FetchOptions{URL: s.URL}).Fetch(ctx, Version{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestFetchWithAToken(t *testing.T) {
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"Regions":{"901":{"RegionID":901,"RegionCode":%q}}}`, r.Header.Get("Authorization"))
	})
	got, err := fetcher(t, FetchOptions{URL: s.URL, Token: func() (string, error) { return "abc", nil }}).Fetch(t.Context(), Version{})
	if err != nil || got.Map.Regions[901].RegionCode != "Bearer abc" {
		t.Errorf("%+v, %v", got, err)
	}
	none := func() (string, error) { return "", errors.New("no such file; hint: make it") }
	if _, err := fetcher(t, FetchOptions{URL: s.URL, Token: none}).Fetch(t.Context(), Version{}); err == nil {
		t.Error("it asked without its token")
	}
}

func TestFetchFromAPinnedRelay(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"Regions":{}}`)) }))
	t.Cleanup(s.Close)
	s.Config.ErrorLog = nil
	sum := sha256.Sum256(s.Certificate().Raw)
	pin := PinPrefix + hex.EncodeToString(sum[:])
	if _, err := fetcher(t, FetchOptions{URL: s.URL, Pin: pin}).Fetch(t.Context(), Version{}); err != nil {
		t.Error(err)
	}
	other := PinPrefix + strings.Repeat("0", 64)
	if _, err := fetcher(t, FetchOptions{URL: s.URL, Pin: other}).Fetch(t.Context(), Version{}); err == nil || !strings.Contains(err.Error(), pin) {
		t.Errorf("another pin: %v", err)
	}
	if _, err := fetcher(t, FetchOptions{URL: s.URL}).Fetch(t.Context(), Version{}); err == nil {
		t.Error("without a pin it believes anybody")
	}
	plain := server(t, nil)
	down := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	t.Cleanup(down.Close)
	if _, err := fetcher(t, FetchOptions{URL: down.URL, Pin: pin}).Fetch(t.Context(), Version{}); err == nil || !strings.Contains(err.Error(), "from https to http") {
		t.Errorf("a redirect to plain HTTP: %v", err)
	}
}

func TestNewFetcherRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []FetchOptions{
		{URL: "ftp://a/b"},
		{URL: "https://"},
		{URL: "http://a/b", Pin: PinPrefix + strings.Repeat("0", 64)},
		{URL: "https://a/b", Pin: "x"},
		{URL: "https://a/b", CAFile: empty},
		{URL: "https://a/b", CAFile: empty + "x"},
	} {
		if _, err := NewFetcher(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

func TestParseByExtension(t *testing.T) {
	yaml, flow, text := "regions:\n  901:\n    regionid: 901\n", "{regions: {901: {regionid: 901}}}", `{"Regions":{"901":{"RegionID":901}}}`
	for _, tt := range []struct{ ext, text string }{{".yaml", yaml}, {".YML", flow}, {".json", text}, {"", text}, {"", yaml}, {".txt", " \n" + text}} {
		if m, err := Parse(tt.ext, []byte(tt.text)); err != nil || m.Regions[901].RegionID != 901 {
			t.Errorf("%s %q: %+v, %v", tt.ext, tt.text, m, err)
		}
	}
}

func TestWhatCanBeSwapped(t *testing.T) {
	for text, want := range map[string]bool{
		"http://10.0.0.1/m": true, "http://a.example/m": true, "https://a.example/m": false,
		"http://127.0.0.1:1/m": false, "http://[::1]:1/m": false, "http://localhost/m": false, "/etc/m.yaml": false,
	} {
		if got := Swappable(text); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestUsable(t *testing.T) {
	ok := func() Map {
		return Map{Regions: map[int]*Region{900: regionOf(900, "a", "900a", "900b"), 901: regionOf(901, "b", "901a")}}
	}
	if err := Usable(ok()); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(m Map){
		"no region":            func(m Map) { clear(m.Regions) },
		"region 900 is null":   func(m Map) { m.Regions[900] = nil },
		"not in 1..65535":      func(m Map) { m.Regions[70000] = regionOf(70000, "c", "c") },
		"its RegionID is 0":    func(m Map) { m.Regions[900].RegionID = 0 },
		"has no nodes":         func(m Map) { m.Regions[900].Nodes = nil },
		"no host name":         func(m Map) { m.Regions[900].Nodes[0].HostName = "" },
		"its RegionID is 901":  func(m Map) { m.Regions[900].Nodes[0].RegionID = 901 },
		`are called "901a"`:    func(m Map) { m.Regions[900].Nodes[1].Name = "901a" },
		"of region 900 is nul": func(m Map) { m.Regions[900].Nodes[1] = nil },
	} {
		m := ok()
		spoil(m)
		if err := Usable(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
