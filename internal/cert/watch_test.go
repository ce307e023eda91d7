package cert

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// watchBed is a watcher over pairs in one directory, and what it logs.
type watchBed struct {
	*Watcher
	t     *testing.T
	dir   string
	clock *clock
	log   *logLines
}

// logLines keeps log lines, and can wait for one.
type logLines struct {
	mu   sync.Mutex
	cond *sync.Cond
	text bytes.Buffer // guarded by mu
}

func newLogLines() *logLines {
	l := &logLines{}
	l.cond = sync.NewCond(&l.mu)
	return l
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cond.Broadcast()
	return l.text.Write(p)
}

// take returns what was logged since it was last called.
func (l *logLines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// await waits until the log holds words, and takes it.
func (l *logLines) await(t *testing.T, words string) string {
	t.Helper()
	late := false
	stop := time.AfterFunc(20*time.Second, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		late = true
		l.cond.Broadcast()
	})
	defer stop.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !strings.Contains(l.text.String(), words) {
		if late {
			t.Fatalf("the log does not say %q:\n%s", words, &l.text)
		}
		l.cond.Wait()
	}
	defer l.text.Reset()
	return l.text.String()
}

func (l *logLines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// newWatchBed has one pair in a fresh directory for each list of names.
func newWatchBed(t *testing.T, ca *issued, change func(*WatchOptions), names ...[]string) *watchBed {
	t.Helper()
	b := &watchBed{t: t, dir: t.TempDir(), clock: newClock(testNow), log: newLogLines()}
	var pairs []Pair
	for i, list := range names {
		leaf := issue(t, named(list...), ca)
		p := Pair{CertFile: filepath.Join(b.dir, fmt.Sprint(i, ".crt")), KeyFile: filepath.Join(b.dir, fmt.Sprint(i, ".key"))}
		b.put(p.CertFile, pemCerts(leaf))
		b.put(p.KeyFile, pemKey(t, leaf.key))
		pairs = append(pairs, p)
	}
	b.watch(pairs, change)
	return b
}

func (b *watchBed) watch(pairs []Pair, change func(*WatchOptions)) {
	b.t.Helper()
	certs, err := LoadPairs(pairs, testNow)
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := New(Options{Certificate: certs[0], More: certs[1:], ServerKeyHex: serverKeyHex, Now: b.clock.now})
	if err != nil {
		b.t.Fatal(err)
	}
	o := WatchOptions{Source: s, Pairs: pairs, Loaded: certs, Logger: b.log.logger(), Now: b.clock.now}
	if change != nil {
		change(&o)
	}
	b.Watcher = NewWatcher(o)
}

// put replaces a file as careful writers do: whole, by a rename.
func (b *watchBed) put(path, text string) {
	b.t.Helper()
	write(b.t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		b.t.Fatal(err)
	}
}

// putPair replaces a pair by a new one for these names.
func (b *watchBed) putPair(i int, ca *issued, names ...string) issued {
	b.t.Helper()
	leaf := issue(b.t, named(names...), ca)
	b.put(b.Pairs[i].CertFile, pemCerts(leaf))
	b.put(b.Pairs[i].KeyFile, pemKey(b.t, leaf.key))
	return leaf
}

// serves checks which leaf a name gets.
func (b *watchBed) serves(name string, want issued) {
	b.t.Helper()
	if got := ForName(b.Source.Certificates(), name); !got.leaf.Equal(want.leaf) {
		b.t.Errorf("%s: another certificate is served, until %v", name, got.NotAfter())
	}
}

// start runs the watcher until the test ends.
func (b *watchBed) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
	b.Reload()
	b.log.await(b.t, "nothing new") // so the directories are watched
}
