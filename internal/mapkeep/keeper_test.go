package mapkeep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/detour-relay/detour/internal/derpmap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func region(id int, names ...string) *derpmap.Region {
	r := &derpmap.Region{RegionID: id, RegionCode: fmt.Sprintf("r%d", id), RegionName: "R"}
	for _, n := range names {
		r.Nodes = append(r.Nodes, &derpmap.Node{Name: n, RegionID: id, HostName: n + ".example.org"})
	}
	return r
}

func mapOf(regions ...*derpmap.Region) derpmap.Map {
	m := derpmap.Map{Regions: map[int]*derpmap.Region{}}
	for _, r := range regions {
		m.Regions[r.RegionID] = r
	}
	return m
}

// fake is a source, and how often it was read.
type fake struct {
	mu    sync.Mutex
	m     derpmap.Map
	err   error
	delay time.Duration
	reads int
	asked []derpmap.Version
}

func (f *fake) set(m derpmap.Map, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m, f.err = m, err
}

// count is how often it was read, and last what it was asked for then.
func (f *fake) count() (reads int, last derpmap.Version) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads, f.asked[len(f.asked)-1]
}

func (f *fake) Fetch(ctx context.Context, have derpmap.Version) (derpmap.Fetched, error) {
	f.mu.Lock()
	delay := f.delay
	f.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return derpmap.Fetched{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	f.asked = append(f.asked, have)
	if f.err != nil {
		return derpmap.Fetched{}, f.err
	}
	text, _ := derpmap.JSON(f.m)
	v := derpmap.Version{ETag: etagOf(text)}
	if v == have {
		return derpmap.Fetched{Unchanged: true, Version: have}, nil
	}
	return derpmap.Fetched{Map: f.m, Version: v}, nil
}

// bed is a Keeper under test.
type bed struct {
	*Keeper
	t    *testing.T
	dir  string
	file string
	log  *bytes.Buffer // read it when nothing runs
	mu   sync.Mutex
	own  derpmap.Map
	err  error
}

const (
	urlA = "https://a.example/derpmap.json"
	urlB = "https://b.example/derpmap.json?token=secret"
)

func newBed(t *testing.T, dir string, sources map[string]*fake, places ...string) *bed {
	t.Helper()
	b := &bed{t: t, dir: dir, file: filepath.Join(dir, "derp.yaml"), log: &bytes.Buffer{}, own: mapOf(region(900, "own"))}
	var list []Source
	for _, p := range places {
		list = append(list, Source{Place: p})
	}
	k, err := New(Options{
		Settings: Settings{File: b.file, Sources: list, Refresh: time.Hour}, StateDir: dir,
		Own: func() (derpmap.Map, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.own, b.err
		},
		Logger: slog.New(slog.NewTextHandler(b.log, nil)),
		open: func(s Source) (reader, error) {
			if f, ok := sources[s.Place]; ok {
				return f, nil
			}
			return newReader(s)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Keeper = k
	return b
}

func (b *bed) setOwn(m derpmap.Map, err error) {
	b.mu.Lock()
	b.own, b.err = m, err
	b.mu.Unlock()
	b.Poke()
}

// run serves until the test's end, or until stop.
func (b *bed) run() (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	b.t.Cleanup(stop)
	return stop
}

// regions are those of the file.
func (b *bed) regions() []int {
	b.t.Helper()
	m, err := readMap(b.file)
	if err != nil {
		return nil
	}
	ids := []int{}
	for id := range m.Regions {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (b *bed) want(what string, ids ...int) {
	b.t.Helper()
	synctest.Wait()
	if got := b.regions(); !slices.Equal(got, ids) {
		b.t.Errorf("%s: the file holds %v, want %v", what, got, ids)
	}
}

func TestKeepsTheOwnMap(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, nil)
		stop := b.run()
		b.want("at the start", 900)
		text, _ := os.ReadFile(b.file)
		if !strings.HasPrefix(string(text), "# A DERP map for Headscale, kept by detour serve") {
			t.Errorf("the file begins with %.60q", text)
		}
		before, _ := os.Stat(b.file)
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(b.file, old, old); err != nil {
			t.Fatal(err)
		}
		b.Poke()
		b.want("without a change", 900)
		if after, _ := os.Stat(b.file); !after.ModTime().Equal(old) || !os.SameFile(before, after) {
			t.Error("the same map is written again")
		}
		b.setOwn(mapOf(region(900, "own", "own-b")), nil)
		b.want("after a change", 900)
		if text, _ := os.ReadFile(b.file); !strings.Contains(string(text), "own-b") {
			t.Errorf("the change is not in it: %s", text)
		}
		b.setOwn(derpmap.Map{}, errors.New("no address; hint: set one"))
		b.want("while the own map cannot be made", 900)
		if p := b.Problems(time.Now()); len(p) != 1 || !strings.Contains(p[0], "no address") {
			t.Errorf("problems %q", p)
		}
		if err := os.WriteFile(b.file, []byte("regions: {}"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(safety + time.Second)
		b.want("after somebody has spoilt it", 900)
		stop()
	})
}

func TestKeepsSources(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a, c := &fake{m: mapOf(region(901, "a"))}, &fake{m: mapOf(region(901, "b1"), region(902, "b2")), delay: 3 * time.Second}
		c.m.Regions[903] = nil
		b := newBed(t, dir, map[string]*fake{urlA: a, urlB: c}, urlA, urlB)
		stop := b.run()
		synctest.Wait()
		if b.regions() != nil {
			t.Error("written before all sources have answered")
		}
		time.Sleep(4 * time.Second)
		b.want("all", 900, 901, 902)
		m, _ := readMap(b.file)
		if m.Regions[901].Nodes[0].Name != "b1" {
			t.Error("the later source does not win")
		}
		a.set(mapOf(region(904, "a")), nil)
		c.set(derpmap.Map{}, errors.New("connection refused; hint: x"))
		time.Sleep(time.Hour + time.Minute)
		b.want("one changed, the other is down", 900, 901, 902, 904)
		if p := b.Problems(time.Now()); len(p) != 0 {
			t.Errorf("too early: %q", p)
		}
		time.Sleep(3 * time.Hour)
		p := b.Problems(time.Now())
		if len(p) != 1 || !strings.Contains(p[0], "b.example/derpmap.json has not been read for 4h") || strings.Contains(p[0], "secret") {
			t.Errorf("problems %q", p)
		}
		s := b.Stats()
		if len(s.Sources) != 2 || s.Sources[1].AgeSeconds < 4*3600 || s.Sources[1].Error == "" || s.Sources[1].Regions != 2 || s.Sources[0].Error != "" || s.Regions != 4 {
			t.Errorf("stats %+v", s)
		}
		c.set(mapOf(region(902, "b2")), nil)
		time.Sleep(time.Hour)
		b.want("back", 900, 902, 904)
		if p := b.Problems(time.Now()); len(p) != 0 {
			t.Errorf("problems %q", p)
		}
		stop()
		if strings.Contains(b.log.String(), "secret") {
			t.Error("the log shows a token")
		}
	})
}

// What is kept on disk serves when a source is down at the next start.
func TestLastGoodOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := &fake{m: mapOf(region(901, "a"))}
		b := newBed(t, dir, map[string]*fake{urlA: a}, urlA)
		stop := b.run()
		b.want("first", 900, 901)
		stop()
		a.set(derpmap.Map{}, errors.New("down; hint: x"))
		again := newBed(t, dir, map[string]*fake{urlA: a}, urlA)
		stop = again.run()
		again.want("down at the start", 900, 901)
		a.set(mapOf(region(901, "a")), nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, last := a.count(); last.ETag != "" {
			t.Errorf("after an error it asked for %q", last)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if _, last := a.count(); last.ETag == "" {
			t.Error("it does not say what it has")
		}
		stop()
	})
}

// Of a source that never answered nothing can be kept, but the own map goes on.
func TestSourceThatNeverAnswered(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := &fake{err: errors.New("down; hint: x")}
		slow := &fake{delay: 1000 * time.Hour}
		b := newBed(t, dir, map[string]*fake{urlA: a, urlB: slow}, urlA, urlB)
		stop := b.run()
		time.Sleep(firstWait + safety + time.Second)
		b.want("own alone", 900)
		time.Sleep(grace)
		if p := b.Problems(time.Now()); len(p) != 1 || !strings.Contains(p[0], "nothing is known of the DERP map https://a.example") {
			t.Errorf("problems %q", p)
		}
		reads, _ := a.count()
		if reads < 3 || reads > 6 {
			t.Errorf("tried %d times in three minutes", reads)
		}
		stop()
	})
}

func TestWhatDoesNotGoTogether(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := &fake{m: mapOf(region(901, "a"), region(900, "own", "own-b"))} // with an echo of ours
		c := &fake{m: mapOf(region(902, "c"), region(900, "stranger"))}     // another relay under our id
		b := newBed(t, dir, map[string]*fake{urlA: a, urlB: c}, urlA, urlB)
		stop := b.run()
		b.want("all", 900, 901, 902)
		m, _ := readMap(b.file)
		if len(m.Regions[900].Nodes) != 1 || m.Regions[900].Nodes[0].Name != "own" {
			t.Errorf("our region is %+v", m.Regions[900].Nodes)
		}
		if p := b.Problems(time.Now()); len(p) != 1 || !strings.Contains(p[0], "region 900 of the map https://b.example") {
			t.Errorf("problems %q", p)
		}
		// A new version that cannot be used leaves the old one.
		for name, m := range map[string]derpmap.Map{
			"a name that another source has": mapOf(region(902, "a")),
			"no node":                        mapOf(region(902)),
			"nothing":                        {},
		} {
			c.set(m, nil)
			time.Sleep(time.Hour + time.Minute)
			b.want(name, 900, 901, 902)
			if s := b.Stats().Sources[1]; s.Error == "" || s.Regions != 2 {
				t.Errorf("%s: %+v", name, s)
			}
		}
		b.setOwn(mapOf(region(900, "a")), nil) // our node's new name is that of a source
		b.want("a source is left out for us", 900, 902)
		if p := b.Problems(time.Now()); !strings.Contains(strings.Join(p, "\n"), "the map https://a.example/derpmap.json is left out") {
			t.Errorf("problems %q", p)
		}
		stop()
	})
}

func TestSet(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a, c := &fake{m: mapOf(region(901, "a"))}, &fake{m: mapOf(region(902, "c"))}
		b := newBed(t, dir, map[string]*fake{urlA: a, urlB: c}, urlA)
		stop := b.run()
		b.want("first", 900, 901)
		b.file = filepath.Join(dir, "other.json")
		if err := b.Set(Settings{File: b.file, Sources: []Source{{Place: urlB}, {Place: urlA}}, Refresh: time.Minute}); err != nil {
			t.Fatal(err)
		}
		b.want("after it", 900, 901, 902)
		if text, _ := os.ReadFile(b.file); !bytes.HasPrefix(text, []byte("{")) {
			t.Errorf("other.json holds %.20q", text)
		}
		for _, bad := range []Settings{
			{File: filepath.Join(dir, "none", "derp.yaml")}, {File: dir}, {Sources: []Source{{Place: "https://"}}},
		} {
			if err := b.Set(bad); err == nil || strings.Count(err.Error(), "; hint: ") != 1 {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		b.want("after refused ones", 900, 901, 902)
		if err := b.Set(Settings{Refresh: time.Minute}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		reads, _ := a.count()
		time.Sleep(time.Hour)
		if n, _ := a.count(); n != reads {
			t.Error("a source that was taken out is still read")
		}
		stop()
	})
}

func TestFileSource(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		place := filepath.Join(dir, "sibling.yaml")
		put := func(text string, age time.Duration) {
			if err := os.WriteFile(place, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			at := time.Now().Add(-age)
			if err := os.Chtimes(place, at, at); err != nil {
				t.Fatal(err)
			}
		}
		const text = "regions:\n  901:\n    regionid: 901\n    nodes: [{name: a, regionid: 901, hostname: a.example}]\n"
		put(text, time.Hour)
		b := newBed(t, dir, nil, place)
		stop := b.run()
		b.want("first", 900, 901)
		put(strings.ReplaceAll(text, "901", "905"), 30*time.Minute)
		time.Sleep(fileLook + time.Second)
		b.want("seen once", 900, 901)
		time.Sleep(fileLook)
		b.want("seen twice", 900, 905)
		if err := os.Remove(place); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		b.want("gone", 900, 905)
		if p := b.Problems(time.Now().Add(3 * time.Hour)); len(p) != 1 {
			t.Errorf("problems %q", p)
		}
		put("regions: [", time.Minute)
		time.Sleep(time.Minute)
		b.want("broken", 900, 905)
		stop()
	})
}
