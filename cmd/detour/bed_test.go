package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	playActivated() // does not return in a child of TestActivation
	// What the machine's own user has set must not change a test.
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "DETOUR_") || strings.HasPrefix(name, "DERP_") || name == "STUN_PORT" {
			os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m)
}

// result is what a command line did.
type result struct {
	status         int
	stdout, stderr string
}

// detour carries out one command line that ends by itself.
func detour(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), args, &stdout, &stderr)
	return result{status, stdout.String(), stderr.String()}
}

// want checks an exit status and that each stream holds its text; the empty
// text stands for a stream without any.
func (r result) want(t *testing.T, status int, stdout, stderr string) {
	t.Helper()
	if r.status != status {
		t.Errorf("exit status %d, want %d", r.status, status)
	}
	for _, s := range []struct{ name, got, want string }{{"stdout", r.stdout, stdout}, {"stderr", r.stderr, stderr}} {
		if s.want == "" && s.got != "" || !strings.Contains(s.got, s.want) {
			t.Errorf("%s is %q, want %q", s.name, s.got, s.want)
		}
	}
}

// server is a command that runs until it is stopped.
type server struct {
	stdout, stderr *output
	stop           func() int // ends it as SIGTERM does; returns the exit status, as often as it is asked
}

// start runs a command and returns once it has printed its start-up text.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	s := &server{stdout: newOutput(), stderr: newOutput()}
	s.stop = sync.OnceValue(func() int {
		cancel()
		return <-ended
	})
	go func() { ended <- run(ctx, args, s.stdout, s.stderr) }()
	select {
	case <-s.stdout.begun:
	case status := <-ended:
		cancel()
		t.Fatalf("detour %s ended with %d:\n%s", strings.Join(args, " "), status, s.stderr)
	}
	t.Cleanup(func() { s.stop() })
	return s
}

// output is a stream that can be read while it is written.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	begun chan struct{} // closed at the first write
	first sync.Once
}

func newOutput() *output { return &output{begun: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.first.Do(func() { close(o.begun) })
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await waits until the stream holds words.
func (o *output) await(t *testing.T, words string) {
	t.Helper()
	limit, look := time.After(20*time.Second), time.NewTicker(5*time.Millisecond)
	defer look.Stop()
	for !strings.Contains(o.String(), words) {
		select {
		case <-limit:
			t.Fatalf("it does not say %q:\n%s", words, o)
		case <-look.C:
		}
	}
}

// stateDir returns a directory whose name leaves room for a socket's path.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "state")
}

// freePorts are flags for a relay that disturbs nobody, with a made-up public
// address.
func freePorts(dir string, more ...string) []string {
	return append([]string{
		"--state-dir", dir, "--listen", "127.0.0.1:0", "--stun-listen", "127.0.0.1:0", "--http-listen", "off",
		"--public-ipv4", "203.0.113.7", "--public-ipv6", "2001:db8::7",
	}, more...)
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		write(t, path, got)
		return
	}
	if want := read(t, path); got != want {
		t.Errorf("%s\ngot:\n%s\nwant:\n%s\nif it is meant so: go test ./cmd/detour -update", path, got, want)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
