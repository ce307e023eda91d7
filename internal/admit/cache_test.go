package admit

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

var errDown = errors.New("down; hint: wait")

// oracle is a source whose answers the test sets.
type oracle struct {
	mu      sync.Mutex
	answers map[key.Public]Verdict // guarded by mu; without one: Refuse
	down    bool                   // guarded by mu
	delay   time.Duration          // guarded by mu
	asked   map[key.Public]int     // guarded by mu
	now     int                    // guarded by mu; being asked
	most    int                    // guarded by mu; at once
}

func newOracle(members ...int) *oracle {
	o := &oracle{answers: map[key.Public]Verdict{}, asked: map[key.Public]int{}}
	for _, n := range members {
		o.set(n, Allow)
	}
	return o
}

func (o *oracle) Name() string { return "oracle" }

func (o *oracle) Decide(ctx context.Context, r Request) (Verdict, error) {
	o.mu.Lock()
	o.asked[r.Key]++
	o.now++
	o.most = max(o.most, o.now)
	delay := o.delay
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.now--
		o.mu.Unlock()
	}()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return Verdict{Answer: Unavailable}, errDown
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down {
		return Verdict{Answer: Unavailable}, errDown
	}
	return o.answers[r.Key], nil
}

func (o *oracle) set(n int, a Answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answers[numbered(n)] = Verdict{Answer: a, Member: Member{Name: "of the oracle"}}
}

func (o *oracle) be(down bool, delay time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down, o.delay = down, delay
}

func (o *oracle) want(t *testing.T, n, asks int) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if got := o.asked[numbered(n)]; got != asks {
		t.Errorf("asked %d times about key %d, want %d", got, n, asks)
	}
}

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

// wantAnswer has s decide about key n.
func wantAnswer(t *testing.T, s Source, n int, want Answer) {
	t.Helper()
	v, err := s.Decide(t.Context(), Request{Key: numbered(n), Addr: somewhere})
	if v.Answer != want || (err != nil) != (want == Unavailable) {
		t.Errorf("key %d: %v, %v; want %v", n, v.Answer, err, want)
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

func report(c *CachedSource) CacheReport { return c.Report().(CacheReport) }

func TestCacheAges(t *testing.T) {
	for _, test := range []struct {
		name          string
		o             CacheOptions
		allow, refuse time.Duration
	}{
		{"by default", CacheOptions{}, 5 * time.Minute, 30 * time.Second},
		{"set", CacheOptions{Allow: time.Hour, Refuse: time.Second}, time.Hour, time.Second},
		{"not at all", CacheOptions{Allow: -1, Refuse: -1}, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOracle(1)
				c := Cached(o, test.o)
				for n, age := range map[int]time.Duration{1: test.allow, 2: test.refuse} {
					want := Refuse
					if n == 1 {
						want = Allow
					}
					r := Request{Key: numbered(n)}
					if _, known := c.Peek(r); known {
						t.Fatalf("key %d is known before it was asked about", n)
					}
					wantAnswer(t, c, n, want)
					if age > 0 {
						time.Sleep(age - 1)
						if v, known := c.Peek(r); !known || v.Answer != want {
							t.Errorf("key %d just before its age: %v, %v", n, v, known)
						}
						wantAnswer(t, c, n, want)
						o.want(t, n, 1)
						time.Sleep(1)
					}
					if _, known := c.Peek(r); known {
						t.Errorf("key %d is known at its age", n)
					}
					wantAnswer(t, c, n, want)
					o.want(t, n, 2)
				}
			})
		})
	}
}

func TestCacheKeepsTheMember(t *testing.T) {
	c := Cached(newOracle(1), CacheOptions{})
	wantAnswer(t, c, 1, Allow)
	v, known := c.Peek(Request{Key: numbered(1)})
	if !known || v.Member.Name != "of the oracle" {
		t.Errorf("%+v, %v", v, known)
	}
}

func TestOneQuestionForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(1)
		o.be(false, time.Second)
		c := Cached(o, CacheOptions{})
		hasty, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		v, err := c.Decide(hasty, Request{Key: numbered(1)})
		if v.Answer != Unavailable || !errors.Is(err, errNoAnswer) {
			t.Errorf("who gives up hears %v, %v", v, err)
		}
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { wantAnswer(t, c, 1, Allow) })
		}
		all.Wait()
		o.want(t, 1, 1)
	})
}

func TestQuestionOutlivesItsAsker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(1)
		o.be(false, time.Second)
		c := Cached(o, CacheOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c.Decide(ctx, Request{Key: numbered(1)})
		time.Sleep(2 * time.Second)
		if v, known := c.Peek(Request{Key: numbered(1)}); !known || v.Answer != Allow {
			t.Errorf("the answer that nobody waited for is %v, %v", v, known)
		}
	})
}

func TestQuestionsAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(1)
		c := Cached(o, CacheOptions{Concurrency: 4, Allow: time.Second})
		wantAnswer(t, c, 1, Allow)
		time.Sleep(time.Second)
		o.be(false, 2*time.Second)
		var all sync.WaitGroup
		for n := range 2 * maxFlights {
			all.Go(func() { c.Decide(t.Context(), Request{Key: numbered(100 + n)}) })
		}
		synctest.Wait()
		if r := report(c); r.Waiting != maxFlights {
			t.Errorf("%d questions wait", r.Waiting)
		}
		all.Wait()
		if o.most != 3 { // one place is for members
			t.Errorf("%d strangers asked about at once", o.most)
		}
		if r := report(c); r.Waiting != 0 || !r.Up || r.Asked != 1+6 { // three in each 2 of 5 s; the last three had too little time to count
			t.Errorf("%+v", r)
		}
	})
}

func TestMembersPassAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(1)
		c := Cached(o, CacheOptions{Concurrency: 4, Allow: time.Second})
		wantAnswer(t, c, 1, Allow)
		time.Sleep(time.Second)
		o.be(false, time.Second)
		var all sync.WaitGroup
		for n := range 100 {
			all.Go(func() { c.Decide(t.Context(), Request{Key: numbered(100 + n)}) })
		}
		synctest.Wait()
		start := time.Now()
		wantAnswer(t, c, 1, Allow)
		if took := time.Since(start); took != time.Second {
			t.Errorf("a member waited %v", took)
		}
		all.Wait()
	})
}

func TestUnavailable(t *testing.T) {
	for _, test := range []struct {
		fallback         Fallback
		member, stranger Answer // once the source is down and answers have aged
	}{
		{FallbackCached, Allow, Unavailable},
		{FallbackRefuse, Unavailable, Unavailable},
		{FallbackAdmit, Allow, Allow},
	} {
		synctest.Test(t, func(t *testing.T) {
			o := newOracle(1)
			c := Cached(o, CacheOptions{OnUnavailable: test.fallback})
			wantAnswer(t, c, 1, Allow)
			wantAnswer(t, c, 2, Refuse)
			o.be(true, 0)
			wantAnswer(t, c, 1, Allow) // is young enough in any case
			wantAnswer(t, c, 2, Refuse)
			time.Sleep(time.Hour)
			wantAnswer(t, c, 1, test.member)
			wantAnswer(t, c, 2, test.stranger)
			wantAnswer(t, c, 3, test.stranger)
			time.Sleep(7 * 24 * time.Hour)
			if want := test.stranger; test.fallback == FallbackCached {
				wantAnswer(t, c, 1, want)
			}
			if r := report(c); r.Up || r.LastError != errDown.Error() || r.LastErrorAt.IsZero() {
				t.Errorf("%+v", r)
			}
		})
	}
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

func TestCacheIsBounded(t *testing.T) {
	o := newOracle(1, 2, 3)
	c := Cached(o, CacheOptions{Refuse: time.Hour})
	for n := range maxAnswers + 1000 {
		if _, err := c.Decide(t.Context(), Request{Key: numbered(n)}); err != nil {
			t.Fatal(err)
		}
	}
	if r := report(c); r.Entries != maxAnswers || r.Members != 3 {
		t.Errorf("%d entries, %d members", r.Entries, r.Members)
	}
	for n, want := range map[int]bool{1: true, 3: true, 4: false, 900: false, 2000: true} {
		if _, known := c.Peek(Request{Key: numbered(n)}); known != want {
			t.Errorf("key %d: known %v, want %v", n, known, want)
		}
	}
}

func TestTableFullOfMembers(t *testing.T) {
	c := newTable(2)
	c.put(numbered(1), kept{allow: true})
	c.put(numbered(2), kept{allow: true})
	c.put(numbered(3), kept{})
	if c.get(numbered(3)) != nil || c.len() != 2 {
		t.Error("a stranger took a member's place")
	}
	if gone := c.put(numbered(4), kept{allow: true}); !reflect.DeepEqual(gone, []key.Public{numbered(1)}) {
		t.Errorf("gone: %v", gone)
	}
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

// forwarding is a source that may ask another relay.
type forwarding struct{ Source }

func (forwarding) Forwards() bool { return true }

func TestVouchLeavesForwardersOut(t *testing.T) {
	plain, asks := Cached(Keys(numbered(1)), CacheOptions{}), Cached(forwarding{Keys(numbered(2))}, CacheOptions{})
	g := NewGate(Options{Tenants: one(plain, asks)})
	for n, want := range map[int]bool{1: true, 2: false} {
		if got, err := g.Vouch(t.Context(), numbered(n), somewhere); got != want || err != nil {
			t.Errorf("key %d: %v, %v", n, got, err)
		}
		if d := g.Admit(t.Context(), numbered(n), somewhere); !d.Admitted {
			t.Errorf("key %d is not admitted", n)
		}
	}
}

// No peer that is connected is dropped while a source is down, whatever is to
// become of others; and who was let in unchecked goes when it says no.
func TestGateOverACache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(1)
		h := &hall{peers: map[uint64]Present{
			1: {ID: 1, Key: numbered(1), Addr: somewhere},
			2: {ID: 2, Key: numbered(2), Addr: somewhere},
		}}
		o.be(true, 0)
		g := NewGate(Options{Tenants: one(Cached(o, CacheOptions{OnUnavailable: FallbackAdmit})), Roster: h})
		stop := serve(t, g)
		time.Sleep(5 * time.Minute)
		h.want(t)
		o.be(false, 0)
		time.Sleep(time.Minute)
		h.want(t, "dismiss "+ReasonNotListed)
		stop()
	})
}
