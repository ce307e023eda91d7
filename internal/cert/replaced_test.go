package cert

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// The ways in which certificates are replaced on real machines, seen by events
// alone: the next poll is an hour away.
func TestWatchSeesReplacements(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need privileges")
	}
	ca := authority(t)
	type step func(b *watchBed, cert, key string)
	link := func(t *testing.T, target, at string) {
		t.Helper()
		if err := os.Symlink(target, at+".tmp"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(at+".tmp", at); err != nil {
			t.Fatal(err)
		}
	}
	mkdir := func(t *testing.T, path string) {
		t.Helper()
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for what, tt := range map[string]struct {
		first, then step
		cert, key   string // below the bed's directory
	}{
		"written in place": {
			func(b *watchBed, cert, key string) {
				write(b.t, filepath.Join(b.dir, "c.pem"), cert)
				write(b.t, filepath.Join(b.dir, "k.pem"), key)
			},
			func(b *watchBed, cert, key string) {
				write(b.t, filepath.Join(b.dir, "c.pem"), cert)
				write(b.t, filepath.Join(b.dir, "k.pem"), key)
			},
			"c.pem", "k.pem",
		},
		"renamed": {
			func(b *watchBed, cert, key string) { b.put(filepath.Join(b.dir, "both.pem"), cert+key) },
			func(b *watchBed, cert, key string) { b.put(filepath.Join(b.dir, "both.pem"), cert+key) },
			"both.pem", "both.pem",
		},
		"an ACME client's links into its archive": {
			func(b *watchBed, cert, key string) {
				for _, dir := range []string{"live", "archive"} {
					mkdir(b.t, filepath.Join(b.dir, dir))
				}
				write(b.t, filepath.Join(b.dir, "archive/cert1.pem"), cert)
				write(b.t, filepath.Join(b.dir, "archive/key1.pem"), key)
				link(b.t, "../archive/cert1.pem", filepath.Join(b.dir, "live/cert.pem"))
				link(b.t, "../archive/key1.pem", filepath.Join(b.dir, "live/key.pem"))
			},
			func(b *watchBed, cert, key string) {
				write(b.t, filepath.Join(b.dir, "archive/cert2.pem"), cert)
				write(b.t, filepath.Join(b.dir, "archive/key2.pem"), key)
				link(b.t, "../archive/cert2.pem", filepath.Join(b.dir, "live/cert.pem"))
				link(b.t, "../archive/key2.pem", filepath.Join(b.dir, "live/key.pem"))
			},
			"live/cert.pem", "live/key.pem",
		},
		"the ..data of a Kubernetes volume": {
			func(b *watchBed, cert, key string) {
				mkdir(b.t, filepath.Join(b.dir, "..1"))
				write(b.t, filepath.Join(b.dir, "..1/tls.crt"), cert)
				write(b.t, filepath.Join(b.dir, "..1/tls.key"), key)
				link(b.t, "..1", filepath.Join(b.dir, "..data"))
				link(b.t, "..data/tls.crt", filepath.Join(b.dir, "tls.crt"))
				link(b.t, "..data/tls.key", filepath.Join(b.dir, "tls.key"))
			},
			func(b *watchBed, cert, key string) {
				mkdir(b.t, filepath.Join(b.dir, "..2"))
				write(b.t, filepath.Join(b.dir, "..2/tls.crt"), cert)
				write(b.t, filepath.Join(b.dir, "..2/tls.key"), key)
				link(b.t, "..2", filepath.Join(b.dir, "..data"))
				if err := os.RemoveAll(filepath.Join(b.dir, "..1")); err != nil {
					b.t.Fatal(err)
				}
			},
			"tls.crt", "tls.key",
		},
		"a directory that is swapped": {
			func(b *watchBed, cert, key string) {
				mkdir(b.t, filepath.Join(b.dir, "now"))
				write(b.t, filepath.Join(b.dir, "now/both.pem"), cert+key)
			},
			func(b *watchBed, cert, key string) {
				mkdir(b.t, filepath.Join(b.dir, "next"))
				write(b.t, filepath.Join(b.dir, "next/both.pem"), cert+key)
				for _, move := range [][2]string{{"now", "old"}, {"next", "now"}} {
					if err := os.Rename(filepath.Join(b.dir, move[0]), filepath.Join(b.dir, move[1])); err != nil {
						b.t.Fatal(err)
					}
				}
			},
			"now/both.pem", "now/both.pem",
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := &watchBed{t: t, dir: t.TempDir(), clock: newClock(testNow), log: newLogLines()}
			leaf, next := issue(t, named("a.example"), &ca), issue(t, named("a.example"), &ca)
			tt.first(b, pemCerts(leaf), pemKey(t, leaf.key))
			b.watch([]Pair{{CertFile: filepath.Join(b.dir, tt.cert), KeyFile: filepath.Join(b.dir, tt.key)}}, func(o *WatchOptions) {
				o.Poll, o.Settle = time.Hour, time.Millisecond
				o.Patience = 10 * time.Millisecond // the clock stands still: only for the retry
			})
			b.start()
			// Twice: what is watched must have followed the files.
			tt.then(b, pemCerts(next), pemKey(t, next.key))
			b.log.await(t, "serving a new certificate")
			b.serves("a.example", next)
			last := issue(t, named("a.example"), &ca)
			path := filepath.Join(b.dir, tt.cert)
			if tt.cert == tt.key {
				b.put(path, pemCerts(last)+pemKey(t, last.key))
			} else {
				b.put(path, pemCerts(last))
				b.put(filepath.Join(b.dir, tt.key), pemKey(t, last.key))
			}
			b.log.await(t, "serving a new certificate")
			b.serves("a.example", last)
		})
	}
}

func TestPollFindsWhatNoEventTells(t *testing.T) {
	ca := authority(t)
	b := newWatchBed(t, &ca, func(o *WatchOptions) { o.Poll, o.Settle = time.Millisecond, time.Hour }, []string{"a.example"})
	b.start()
	next := b.putPair(0, &ca, "a.example")
	b.log.await(t, "serving a new certificate")
	b.serves("a.example", next)
}

func TestReloadByHand(t *testing.T) {
	ca := authority(t)
	b := newWatchBed(t, &ca, func(o *WatchOptions) { o.Poll, o.Settle = time.Hour, time.Hour }, []string{"a.example"})
	b.start()
	next := b.putPair(0, &ca, "a.example")
	b.Reload()
	b.Reload()
	b.log.await(t, "serving a new certificate")
	b.serves("a.example", next)
}

// Files in a directory that is busy with others are not read for each of its events.
func TestConcerns(t *testing.T) {
	ca := authority(t)
	b := newWatchBed(t, &ca, nil, []string{"a.example"})
	events, _, follow, unwatch := b.open()
	defer unwatch()
	follow()
	dir, err := filepath.EvalSymlinks(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"0.crt": true, "0.key": true, "0.crt.new": false, "access.log": false, ".": true} {
		if got := b.concerns(filepath.Join(dir, path)); got != want {
			t.Errorf("%s concerns: %v", path, got)
		}
	}
	write(t, filepath.Join(b.dir, "0.key"), "x")
	if e := <-events; !b.concerns(e.Name) {
		t.Errorf("event of %s", e.Name)
	}
}

func TestWatchOfNothing(t *testing.T) {
	ca := authority(t)
	b := newWatchBed(t, &ca, nil, []string{"a.example"})
	b.start()
	if err := os.RemoveAll(b.dir); err != nil {
		t.Fatal(err)
	}
	b.Reload()
	if text := b.log.await(t, "refused"); !strings.Contains(text, "no such file") && !strings.Contains(text, "cannot find") {
		t.Errorf("logged:\n%s", text)
	}
}
