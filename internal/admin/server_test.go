package admin

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves s until the test ends, or until the returned stop.
func start(t *testing.T, s *Server) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return stop
}

func onTCP(t *testing.T, o Options) *Server {
	t.Helper()
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Listener = l
	return New(o)
}

// ask sends one request as it stands and returns the answer and its body.
func ask(t *testing.T, s *Server, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial(s.listener.Addr().Network(), s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestEndpoints(t *testing.T) {
	const listed = "no such endpoint; there are:\n" +
		"GET /healthz  200 and \"ok\", or 503 and the problems as JSON\n" +
		"GET /stats  the counts of every part, as JSON\n"
	s := onTCP(t, Options{Stats: func() any { return map[string]int{"peers": 3} }})
	start(t, s)
	tests := []struct {
		request, body string
		status        int
	}{
		{"GET /healthz", "ok\n", 200},
		{"HEAD /healthz", "", 200},
		{"POST /healthz", "use GET\n", 405},
		{"GET /stats", "{\n  \"peers\": 3\n}\n", 200},
		{"GET /stats?pretty", "{\n  \"peers\": 3\n}\n", 200},
		{"DELETE /stats", "use GET\n", 405},
		{"OPTIONS /stats", "use GET\n", 405},
		{"OPTIONS *", listed, 404},
		{"GET /", listed, 404},
		{"GET /stats/", listed, 404},
		{"POST /nowhere", listed, 404},
	}
	for _, tt := range tests {
		resp, body := ask(t, s, tt.request+" HTTP/1.1\nHost: localhost\nConnection: close\n\n")
		if resp.StatusCode != tt.status || body != tt.body {
			t.Errorf("%s: status %d, body %q, want %d, %q", tt.request, resp.StatusCode, body, tt.status, tt.body)
		}
		if allow := resp.Header.Get("Allow"); (allow == "GET, HEAD") != (tt.status == 405) {
			t.Errorf("%s: Allow %q", tt.request, allow)
		}
		if resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: header %v", tt.request, resp.Header)
		}
	}
	if got := s.Stats().Requests; got != uint64(len(tests)) {
		t.Errorf("counted %d requests, want %d", got, len(tests))
	}
}

func TestUnwell(t *testing.T) {
	s := onTCP(t, Options{Health: func() Health { return Health{Problems: []string{"STUN is down"}} }})
	start(t, s)
	resp, body := ask(t, s, "GET /healthz HTTP/1.1\nHost: localhost\n\n")
	const want = "{\n  \"ok\": false,\n  \"problems\": [\n    \"STUN is down\"\n  ]\n}\n"
	if resp.StatusCode != 503 || body != want || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("status %d, header %v, body %q", resp.StatusCode, resp.Header, body)
	}
}

func TestStatsThatCannotBeEncoded(t *testing.T) {
	s := onTCP(t, Options{Stats: func() any { return make(chan int) }})
	start(t, s)
	if resp, body := ask(t, s, "GET /stats HTTP/1.1\nHost: localhost\n\n"); resp.StatusCode != 500 {
		t.Errorf("status %d, body %q", resp.StatusCode, body)
	}
}

func TestWebPagesAreRefused(t *testing.T) {
	s := onTCP(t, Options{})
	start(t, s)
	for header, want := range map[string]int{
		"Host: " + s.listener.Addr().String():          200,
		"Host: [::1]:1":                                200,
		"Host: rebound.example":                        403,
		"Host: rebound.example:80":                     403,
		"Host: 192.0.2.1":                              403,
		"Host: ":                                       403,
		"Host: localhost\nOrigin: http://evil.example": 403,
		"Host: localhost\nOrigin: null":                403,
		"Host: localhost\nOrigin: http://localhost":    403,
		"Host: localhost\nOrigin: ":                    403,
	} {
		if resp, body := ask(t, s, "GET /healthz HTTP/1.1\n"+header+"\n\n"); resp.StatusCode != want {
			t.Errorf("%q: status %d, body %q, want %d", header, resp.StatusCode, body, want)
		}
	}
	if got := s.Stats().RefusedRequests; got != 8 {
		t.Errorf("counted %d refused requests, want 8", got)
	}
}

func onUnix(t *testing.T, o Options) *Server {
	t.Helper()
	l, err := Listen("unix:" + filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Skip(err) // a system without unix sockets of one user
	}
	o.Listener = l
	return New(o)
}

func TestUnixTakesAnyHost(t *testing.T) {
	s := onUnix(t, Options{})
	start(t, s)
	if resp, _ := ask(t, s, "GET /healthz HTTP/1.1\nHost: detour\n\n"); resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestStrangersAreClosed(t *testing.T) {
	tests := []struct {
		name    string
		peerUID func(*net.UnixConn) (uint32, error)
		served  bool
		logged  string
	}{
		{"the kernel's word", peerUID, true, ""},
		{"root", func(*net.UnixConn) (uint32, error) { return 0, nil }, true, ""},
		{"another user", func(*net.UnixConn) (uint32, error) { return 4242424, nil }, false, "user id 4242424 is neither root"},
		{"nobody knows", func(*net.UnixConn) (uint32, error) { return 0, errors.New("bad socket") }, false, "bad socket"},
		{"no such question here", func(*net.UnixConn) (uint32, error) { return 7, errors.ErrUnsupported }, true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log lockedBuilder
			s := onUnix(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			s.listener.peerUID = tt.peerUID
			stop := start(t, s)
			c, err := NewClient("unix:" + s.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			health, err := c.Health(t.Context())
			if tt.served != (err == nil && health.OK) {
				t.Errorf("Health = %v, %v", health, err)
			}
			if !tt.served {
				wantHint(t, err, hintHungUp)
			}
			stop()
			if refused := s.Stats().RefusedPeers; (refused == 0) != tt.served {
				t.Errorf("counted %d refused peers", refused)
			}
			if got := log.String(); (got == "") != tt.served || !strings.Contains(got, tt.logged) {
				t.Errorf("logged %q", got)
			}
		})
	}
}

func TestMayUse(t *testing.T) {
	for _, tt := range []struct {
		uid  uint32
		self int
		want bool
	}{
		{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1000, 0, false}, {1001, 1000, false}, {1<<32 - 1, -1, false},
	} {
		if got := mayUse(tt.uid, tt.self); got != tt.want {
			t.Errorf("mayUse(%d, %d) = %v", tt.uid, tt.self, got)
		}
	}
}

func TestStrangersTakeOneLineAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuilder
		l := &ownersOnly{Listener: newPipeListener(), logger: slog.New(slog.NewTextHandler(&log, nil))}
		for range 3 {
			for range 100 {
				l.report(errors.New("a stranger"))
			}
			time.Sleep(strangerLogInterval)
		}
		if n := strings.Count(log.String(), "\n"); n != 3 {
			t.Errorf("%d lines, want 3", n)
		}
		if n := strings.Count(log.String(), "refused_since_last_line=99"); n != 2 {
			t.Errorf("%d of the lines count the 99 before, want 2:\n%s", n, log.String())
		}
		if got := l.refused.Load(); got != 300 {
			t.Errorf("counted %d, want 300", got)
		}
	})
}

func TestServeEndsCleanly(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := onTCP(t, Options{Stats: func() any {
		close(entered)
		<-release
		return "late"
	}})
	stop := start(t, s)
	c, err := NewClient(s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		stats, err := c.Stats(t.Context())
		if err == nil && string(stats) != "\"late\"\n" {
			err = errors.New("answer " + string(stats))
		}
		answered <- err
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Serve: %v", err)
	}
	_, err = c.Health(t.Context())
	wantHint(t, err, hintStart)
}

func TestServeReportsABrokenListener(t *testing.T) {
	s := onTCP(t, Options{})
	s.listener.Close()
	if err := s.Serve(t.Context()); err == nil || !strings.Contains(err.Error(), "admin: accept on 127.0.0.1:") {
		t.Errorf("Serve = %v", err)
	}
}

func TestSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s := New(Options{Listener: l})
		stop := start(t, s)

		slow := l.dial()
		io.WriteString(slow, "GET /healthz HTTP/1.1\r\n")
		began := time.Now()
		io.Copy(io.Discard, slow)
		if took := time.Since(began); took != readHeaderTimeout {
			t.Errorf("half a header was waited for %v, want %v", took, readHeaderTimeout)
		}

		l.dial() // says nothing at all
		synctest.Wait()
		began = time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > shutdownGrace {
			t.Errorf("Serve took %v to end, want %v at most", took, shutdownGrace)
		}
		if open := s.Stats().Connections; open != 0 {
			t.Errorf("%d connections left", open)
		}
	})
}

// Serve may be followed by the end of what Stats reads, so it waits for it even
// beyond the grace.
func TestServeOutlivesItsHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		var inside sync.WaitGroup
		s := New(Options{Listener: l, Stats: func() any {
			inside.Add(1)
			defer inside.Done()
			time.Sleep(10 * shutdownGrace)
			return nil
		}})
		stop := start(t, s)
		io.WriteString(l.dial(), "GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
		synctest.Wait()
		began := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 10*shutdownGrace {
			t.Errorf("Serve ended after %v, while Stats ran for %v", took, 10*shutdownGrace)
		}
		inside.Wait()
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		s := New(Options{Listener: l})
		start(t, s)
		first := l.dial()
		for range maxConns - 1 {
			l.dial()
		}
		synctest.Wait()
		if _, err := l.dial().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("one connection too many: %v, want EOF", err)
		}
		io.WriteString(first, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if answer, err := io.ReadAll(first); err != nil || !strings.Contains(string(answer), "\r\n\r\nok\n") {
			t.Errorf("an older connection: %q, %v", answer, err)
		}
		synctest.Wait()
		if open := s.Stats().Connections; open != maxConns-1 {
			t.Errorf("%d open, want %d", open, maxConns-1)
		}
	})
}

// lockedBuilder is a log that goroutines share.
type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder // guarded by mu
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// pipeListener hands out net.Pipe connections, so that a synctest bubble holds
// both ends.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	return ours
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
