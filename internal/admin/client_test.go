package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func wantHint(t *testing.T, err error, hint string) {
	t.Helper()
	if err == nil || !strings.HasPrefix(err.Error(), "admin: ") || !strings.HasSuffix(err.Error(), hint) {
		t.Errorf("error %v, want one that ends in %q", err, hint)
	}
}

func TestClient(t *testing.T) {
	health := Health{OK: true}
	o := Options{
		Health: func() Health { return health },
		Stats:  func() any { return Health{Problems: []string{"<&>"}} },
	}
	for name, s := range map[string]*Server{"tcp": onTCP(t, o), "unix": onUnix(t, o)} {
		t.Run(name, func(t *testing.T) {
			start(t, s)
			addr := s.listener.Addr().String()
			if name == "unix" {
				addr = "unix:" + addr
			}
			c, err := NewClient(addr)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []Health{{OK: true}, {Problems: []string{"a", "b"}}} {
				health = want
				if got, err := c.Health(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("Health = %+v, %v, want %+v", got, err, want)
				}
			}
			stats, err := c.Stats(t.Context())
			if err != nil || !strings.Contains(string(stats), `"problems": [`) {
				t.Errorf("Stats = %s, %v", stats, err)
			}
		})
	}
}

func TestClientOfNobody(t *testing.T) {
	dir := t.TempDir()
	for _, addr := range []string{"unix:" + filepath.Join(dir, "missing"), "127.0.0.1:0"} {
		c, err := NewClient(addr)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Health(t.Context())
		wantHint(t, err, hintStart)
		if err != nil && !strings.Contains(err.Error(), addr) {
			t.Errorf("error %q does not name %s", err, addr)
		}
	}
	if _, err := NewClient("192.0.2.1:80"); err == nil {
		t.Error("a client for another machine")
	}
}

func TestClientHints(t *testing.T) {
	c, err := NewClient("unix:/run/s")
	if err != nil {
		t.Fatal(err)
	}
	dial := func(errno syscall.Errno) error {
		return &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", errno)}
	}
	wantHint(t, c.unreachable(dial(syscall.EACCES)), hintUser)
	wantHint(t, c.unreachable(dial(syscall.ECONNREFUSED)), hintStart)
	wantHint(t, c.unreachable(io.ErrUnexpectedEOF), hintHungUp)
	wantHint(t, c.unreachable(context.DeadlineExceeded), hintSilent)
	got := c.unreachable(dial(syscall.ENOENT)).Error()
	want := "admin: cannot ask the relay at unix:/run/s: no such file or directory; hint: " + hintStart
	if got != want {
		t.Errorf("error %q\nwant  %q", got, want)
	}
}

func TestClientGivesUp(t *testing.T) {
	release := make(chan struct{})
	s := onTCP(t, Options{Stats: func() any {
		<-release
		return nil
	}})
	start(t, s)
	t.Cleanup(func() { close(release) })
	c, err := NewClient(s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	_, err = c.Stats(ctx)
	wantHint(t, err, hintSilent)
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := c.Stats(ctx); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "hint") {
		t.Errorf("cancelled: %v", err)
	}
}

// Something else may listen on the port.
func TestClientOfSomethingElse(t *testing.T) {
	const limit = 1000 // in place of maxAnswer
	answers := map[string]http.HandlerFunc{
		"page":    func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) },
		"missing": http.NotFound,
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		},
		"unwell": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "down for today", http.StatusServiceUnavailable)
		},
		"huge": func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(`"` + strings.Repeat("x", limit-1) + `"`))
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(answer)
			defer server.Close()
			c, err := NewClient(server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c.maxAnswer = limit
			hint := hintProgram
			if name == "huge" { // as an older relay's list may be, too
				hint = hintLong
			}
			_, err = c.Stats(t.Context())
			wantHint(t, err, hint)
			_, err = c.Health(t.Context())
			wantHint(t, err, hint)
		})
	}
}

func FuzzDecodeHealth(f *testing.F) {
	f.Add(200, []byte("ok\n"))
	f.Add(503, []byte(`{"ok":false,"problems":["a"]}`))
	f.Add(503, []byte(`{"ok":true}`))
	f.Add(503, []byte(`null`))
	f.Add(404, []byte("\n\xff"))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		health, err := decodeHealth(status, body)
		if health.OK != (status == 200 && string(body) == "ok\n") || err != nil && health.Problems != nil {
			t.Errorf("decodeHealth(%d, %q) = %+v, %v", status, body, health, err)
		}
	})
}
