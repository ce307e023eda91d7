package admit

import (
	"context"
	"errors"
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

// wantAnswer has s decide about key n.
func wantAnswer(t *testing.T, s Source, n int, want Answer) {
	t.Helper()
	v, err := s.Decide(t.Context(), Request{Key: numbered(n), Addr: somewhere})
	if v.Answer != want || (err != nil) != (want == Unavailable) {
		t.Errorf("key %d: %v, %v; want %v", n, v.Answer, err, want)
	}
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
						time.Sleep(time.Nanosecond)
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

// Whoever floods a source that lets people in when it is down is not let in for that.
func TestCrowdsAreNotAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle()
		o.be(false, time.Second)
		c := Cached(o, CacheOptions{OnUnavailable: FallbackAdmit})
		var all sync.WaitGroup
		for n := range 2 * maxFlights {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), decideLimit)
				defer cancel()
				if v, _ := c.Decide(ctx, Request{Key: numbered(n)}); v.Answer == Allow {
					t.Errorf("key %d is allowed", n)
				}
			})
		}
		all.Wait()
		time.Sleep(time.Minute)
		o.be(false, time.Hour) // now it hangs
		for n := range 100 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), decideLimit)
				defer cancel()
				c.Decide(ctx, Request{Key: numbered(5000 + n)})
			})
		}
		all.Wait()
		synctest.Wait()
		if r := report(c); r.Up || r.Unchecked < 6 {
			t.Errorf("%+v", r)
		}
		wantAnswer(t, c, 6000, Allow)
		wantAnswer(t, c, 6001, Allow)
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
