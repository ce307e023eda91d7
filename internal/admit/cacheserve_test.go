package admit

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// notebook is a Memory in memory.
type notebook struct {
	mu    sync.Mutex
	kept  map[key.Public]Stored // guarded by mu
	saves int                   // guarded by mu
	fails error                 // guarded by mu
}

func (b *notebook) Load() (map[key.Public]Stored, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.kept), b.fails
}

func (b *notebook) Save(allowed map[key.Public]Stored, gone []key.Public) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saves++
	if b.fails != nil {
		return b.fails
	}
	if b.kept == nil {
		b.kept = map[key.Public]Stored{}
	}
	maps.Copy(b.kept, allowed)
	for _, k := range gone {
		delete(b.kept, k)
	}
	return nil
}

func (b *notebook) want(t *testing.T, saves int, members ...int) {
	t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if saves >= 0 && b.saves != saves || len(b.kept) != len(members) {
		t.Errorf("saved %d times, holds %d; want %d times and %v", b.saves, len(b.kept), saves, members)
	}
	for _, n := range members {
		if _, ok := b.kept[numbered(n)]; !ok {
			t.Errorf("key %d is not saved", n)
		}
	}
}

// attend runs c.Serve until the returned stop, and counts its calls of changed.
func attend(t *testing.T, c *CachedSource) (changes func() int, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var mu sync.Mutex
	n := 0
	go func() {
		ended <- c.Serve(ctx, func() {
			mu.Lock()
			defer mu.Unlock()
			n++
		})
	}()
	synctest.Wait()
	changes = func() int {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		defer func() { n = 0 }()
		return n
	}
	stop = func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	return changes, stop
}

func TestStaleServesAtOnceWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(1)
		c := Cached(o, CacheOptions{})
		changes, stop := attend(t, c)
		wantAnswer(t, c, 1, Allow)
		time.Sleep(time.Hour)
		o.be(true, 3*time.Second)
		start := time.Now()
		wantAnswer(t, c, 1, Allow) // was up so far: asked first
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("the first answer took %v", took)
		}
		o.want(t, 1, 2)
		if v, known := c.Peek(Request{Key: numbered(1)}); !known || v.Answer != Allow {
			t.Errorf("while down: %v, %v", v, known)
		}
		if n := changes(); n != 0 {
			t.Errorf("%d changes when the source went", n)
		}
		o.set(1, Refuse)
		o.be(false, 0)
		time.Sleep(time.Minute) // it is asked by itself
		if n := changes(); n != 1 {
			t.Errorf("%d changes when the source came back", n)
		}
		if v, known := c.Peek(Request{Key: numbered(1)}); known || v.Answer != Refuse {
			t.Errorf("after its return: %v, %v", v, known)
		}
		stop()
	})
}

func TestReaskBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(1)
		o.be(true, 0)
		logged := &journal{}
		c := Cached(o, CacheOptions{Logger: slog.New(logged)})
		changes, stop := attend(t, c)
		wantAnswer(t, c, 1, Unavailable)
		time.Sleep(10 * time.Minute)
		o.mu.Lock()
		asked := o.asked[numbered(1)]
		o.mu.Unlock()
		if asked < 20 || asked > 30 { // after 1, 2, 4, 8, 16 and then each 30 seconds
			t.Errorf("asked %d times in ten minutes", asked)
		}
		o.be(false, 0)
		time.Sleep(31 * time.Second)
		if n := changes(); n != 1 {
			t.Errorf("%d changes", n)
		}
		if v, known := c.Peek(Request{Key: numbered(1)}); !known || v.Answer != Allow {
			t.Errorf("after its return: %v, %v", v, known)
		}
		stop()
		logged.want(t, "a source of admission cannot tell", "a source of admission answers again")
	})
}

func TestFlipsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(1)
		c := Cached(o, CacheOptions{Allow: -1, Refuse: -1})
		changes, stop := attend(t, c)
		for i, step := range []struct {
			answer  Answer
			changes int
		}{{Allow, 0}, {Allow, 0}, {Refuse, 1}, {Refuse, 0}, {Allow, 1}} {
			o.set(1, step.answer)
			wantAnswer(t, c, 1, step.answer)
			time.Sleep(2 * time.Second)
			if n := changes(); n != step.changes {
				t.Errorf("step %d: %d changes, want %d", i, n, step.changes)
			}
		}
		for i := range 100 { // no storm of looks at everybody
			o.set(1, Answer(i%2))
			wantAnswer(t, c, 1, Answer(i%2))
		}
		time.Sleep(10 * time.Second)
		if n := changes(); n > 2 {
			t.Errorf("%d changes at once", n)
		}
		stop()
	})
}

func TestMemoryIsLoadedAndSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		book := &notebook{kept: map[key.Public]Stored{
			numbered(1): {At: now.Add(-time.Hour), Member: Member{Name: "one"}},
			numbered(2): {At: now.Add(-time.Hour)},
			numbered(3): {At: now.Add(-8 * 24 * time.Hour)}, // too old
			numbered(4): {At: now.Add(time.Hour)},           // from the future
		}}
		o := newOracle(1, 4, 5)
		o.be(true, time.Second)
		c := Cached(o, CacheOptions{Memory: book})
		for _, n := range []int{1, 2, 4} { // at once, although the source is down with the relay
			if v, known := c.Peek(Request{Key: numbered(n)}); !known || v.Answer != Allow {
				t.Errorf("key %d after the start: %v, %v", n, v, known)
			}
		}
		if v, _ := c.Peek(Request{Key: numbered(1)}); v.Member.Name != "one" {
			t.Errorf("%+v", v)
		}
		changes, stop := attend(t, c)
		wantAnswer(t, c, 3, Unavailable)
		book.want(t, 1, 1, 2, 4)
		time.Sleep(time.Minute)
		o.be(false, 0)
		time.Sleep(time.Minute)
		if changes() == 0 {
			t.Error("no change when the source answered: one was revoked meanwhile")
		}
		book.want(t, -1, 1, 4) // 2 was revoked
		book.saves = 0
		for range 10 {
			wantAnswer(t, c, 5, Allow)
			time.Sleep(time.Minute) // what serves as well is not written again
		}
		book.want(t, 1, 1, 4, 5)
		o.set(6, Allow)
		wantAnswer(t, c, 6, Allow)
		stop()
		book.want(t, 2, 1, 4, 5, 6)
	})
}

func TestMemoryFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logged := &journal{}
		book := &notebook{fails: errors.New("disk is full; hint: make room")}
		c := Cached(newOracle(1), CacheOptions{Memory: book, Logger: slog.New(logged)})
		logged.want(t, "the stored answers of a source cannot be read; it starts without them")
		c.report.MemoryError = ""
		_, stop := attend(t, c)
		wantAnswer(t, c, 1, Allow)
		time.Sleep(3 * time.Minute)
		logged.want(t, "the answers of a source cannot be saved; after a restart they are missing")
		if report(c).MemoryError == "" {
			t.Error("not reported")
		}
		book.mu.Lock()
		book.fails, book.saves = nil, 0
		book.mu.Unlock()
		time.Sleep(2 * time.Minute)
		book.want(t, 1, 1)
		if r := report(c); r.MemoryError != "" {
			t.Errorf("reports %s", r.MemoryError)
		}
		stop()
	})
}

func TestServeEndsQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(1)
		o.be(false, time.Hour)
		c := Cached(o, CacheOptions{Timeout: 2 * time.Hour})
		_, stop := attend(t, c)
		heard := make(chan error, 1)
		go func() {
			_, err := c.Decide(t.Context(), Request{Key: numbered(1)})
			heard <- err
		}()
		synctest.Wait()
		stop()
		if err := <-heard; !errors.Is(err, errStopped) {
			t.Errorf("the asker heard %v", err)
		}
		if _, err := c.Decide(t.Context(), Request{Key: numbered(2)}); !errors.Is(err, errStopped) {
			t.Errorf("after the end: %v", err)
		}
		if r := report(c); !r.Up {
			t.Error("the end counts as a failure of the source")
		}
	})
}

func TestOldAnswersGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := &notebook{}
		c := Cached(newOracle(1), CacheOptions{MaxAge: time.Hour, Memory: book})
		_, stop := attend(t, c)
		wantAnswer(t, c, 1, Allow)
		wantAnswer(t, c, 2, Refuse)
		book.want(t, 1, 1)
		time.Sleep(2 * time.Minute)
		if r := report(c); r.Entries != 1 {
			t.Errorf("%d entries after the age of refusals", r.Entries)
		}
		time.Sleep(time.Hour)
		if r := report(c); r.Entries != 0 {
			t.Errorf("%d entries after all ages", r.Entries)
		}
		book.want(t, 2)
		stop()
	})
}
