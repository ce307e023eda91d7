package admit

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// roll is a Lister whose list the test sets.
type roll struct {
	mu      sync.Mutex
	entries []Entry
	err     error
	slow    time.Duration
	asked   int
}

func (r *roll) Name() string { return "roll" }

func (r *roll) List(ctx context.Context) ([]Entry, error) {
	r.mu.Lock()
	r.asked++
	slow := r.slow
	r.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.entries, r.err
}

func (r *roll) set(err error, keys ...int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.entries = err, nil
	for _, n := range keys {
		r.entries = append(r.entries, Entry{Key: numbered(n), Member: Member{Name: "node"}})
	}
}

func (r *roll) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// shelf is a Memory.
type shelf struct {
	mu   sync.Mutex
	kept map[key.Public]Stored
	err  error
}

func (s *shelf) Load() (map[key.Public]Stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	copied := map[key.Public]Stored{}
	for k, v := range s.kept {
		copied[k] = v
	}
	return copied, s.err
}

func (s *shelf) Save(allowed map[key.Public]Stored, gone []key.Public) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if s.kept == nil {
		s.kept = map[key.Public]Stored{}
	}
	for k, v := range allowed {
		s.kept[k] = v
	}
	for _, k := range gone {
		delete(s.kept, k)
	}
	return nil
}

func (s *shelf) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// running is a ListSource at work.
type running struct {
	*ListSource
	t       *testing.T
	changes atomic.Int64
	stop    func()
}

func runList(t *testing.T, l Lister, o ListOptions) *running {
	t.Helper()
	x := &running{ListSource: NewList(l, o), t: t}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Serve(ctx, func() { x.changes.Add(1) }) }()
	x.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return x
}

func (x *running) want(n int, want Answer) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), decideLimit)
	defer cancel()
	v, err := x.Decide(ctx, Request{Key: numbered(n)})
	if v.Answer != want || (err != nil) != (want == Unavailable) {
		x.t.Errorf("key %d: %v, %v, want %v", n, v.Answer, err, want)
	}
}

func TestList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &roll{}
		l.set(nil, 1, 2)
		x := runList(t, l, ListOptions{})
		defer x.stop()
		x.want(1, Allow)
		x.want(3, Refuse) // the list is fresh: nobody is asked
		if l.count() != 1 || x.changes.Load() != 1 {
			t.Errorf("asked %d times, %d changes", l.count(), x.changes.Load())
		}
		time.Sleep(10 * time.Second)
		l.set(nil, 1, 2, 3) // somebody joins
		x.want(3, Allow)    // at once
		if l.count() != 2 {
			t.Errorf("asked %d times", l.count())
		}
		synctest.Wait()
		x.want(4, Refuse)
		time.Sleep(DefaultMinGap)
		var askers sync.WaitGroup
		for n := range 50 { // a flood of unknown keys shares one list
			askers.Go(func() { x.want(100+n, Refuse) })
		}
		askers.Wait()
		if l.count() > 4 {
			t.Errorf("asked %d times", l.count())
		}
		l.set(nil, 2)
		before := x.changes.Load()
		time.Sleep(DefaultRefresh)
		synctest.Wait()
		x.want(1, Refuse)
		if x.changes.Load() == before {
			t.Error("nobody was told that a member is gone")
		}
		before = x.changes.Load()
		time.Sleep(3 * DefaultRefresh)
		synctest.Wait()
		if x.changes.Load() != before {
			t.Error("told of a change that is none")
		}
	})
}

func TestListDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &roll{}
		l.set(nil, 1)
		j := &journal{}
		x := runList(t, l, ListOptions{Logger: slog.New(j), MaxAge: time.Hour})
		defer x.stop()
		l.set(errors.New("no route"), 0)
		time.Sleep(2 * DefaultRefresh)
		synctest.Wait()
		x.want(1, Allow)
		x.want(2, Unavailable)
		if got := j.take(); len(got) != 1 {
			t.Errorf("logged %q", got)
		}
		if r := x.Report().(ListReport); r.Error != "no route" || r.Members != 1 || r.Failures == 0 {
			t.Errorf("report %+v", r)
		}
		time.Sleep(time.Hour)
		x.want(1, Unavailable) // too old
		asked := l.count()
		time.Sleep(time.Hour)
		if n := l.count() - asked; n > 20 || n < 8 {
			t.Errorf("asked %d times in an hour", n)
		}
		before := x.changes.Load()
		l.set(nil, 1, 2)
		time.Sleep(2 * longestBackoff)
		synctest.Wait()
		x.want(1, Allow)
		x.want(2, Allow)
		if x.changes.Load() == before {
			t.Error("nobody was told that it is back")
		}
	})
}

func TestListFallbacks(t *testing.T) {
	for fallback, want := range map[Fallback][2]Answer{
		FallbackCached: {Allow, Unavailable}, FallbackRefuse: {Unavailable, Unavailable}, FallbackAdmit: {Allow, Allow},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &roll{}
			l.set(nil, 1)
			x := runList(t, l, ListOptions{OnUnavailable: fallback})
			defer x.stop()
			x.want(1, Allow)
			l.set(errors.New("down"))
			time.Sleep(2 * DefaultRefresh)
			x.want(1, want[0])
			x.want(2, want[1])
		})
	}
}

// A relay that starts together with a source that is down admits those whom it had
// on its list before.
func TestListAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m := &roll{}, &shelf{}
		l.set(nil, 1, 2)
		x := runList(t, l, ListOptions{Memory: m})
		x.stop()
		if kept, _ := m.Load(); len(kept) != 2 {
			t.Errorf("kept %v", kept)
		}
		l.slow = 20 * time.Second
		x = runList(t, l, ListOptions{Memory: m})
		defer x.stop()
		if v, known := x.Peek(Request{Key: numbered(1)}); !known || v.Answer != Allow || v.Member.Name != "node" {
			t.Errorf("at once: %+v, %v", v, known)
		}
		x.want(3, Unavailable) // the first list has not come
		time.Sleep(30 * time.Second)
		l.mu.Lock()
		l.slow = 0
		l.mu.Unlock()
		l.set(nil, 2)
		time.Sleep(2 * DefaultRefresh)
		synctest.Wait()
		x.want(1, Refuse)
		kept, _ := m.Load()
		if _, ok := kept[numbered(1)]; ok {
			t.Error("who is gone is still kept")
		}
		before := kept[numbered(2)].At
		time.Sleep(3 * time.Hour)
		if kept, _ = m.Load(); !kept[numbered(2)].At.After(before.Add(time.Hour)) {
			t.Error("what is kept grows old though the source still says it")
		}
	})
}

// What is kept is written often enough for the age that it may have.
func TestListKeptForAShortAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m := &roll{}, &shelf{}
		l.set(nil, 1)
		o := ListOptions{Memory: m, Refresh: 2 * time.Second, MaxAge: 20 * time.Second}
		x := runList(t, l, o)
		time.Sleep(10 * time.Minute)
		x.stop()
		l.set(errors.New("down"))
		x = runList(t, l, o)
		defer x.stop()
		x.want(1, Allow)
	})
}

func TestRetryAfter(t *testing.T) {
	for failure, want := range map[error][2]time.Duration{
		&RetryError{After: 20 * time.Minute, Err: errors.New("busy")}: {20 * time.Minute, 20 * time.Minute},
		&RetryError{After: 99 * time.Hour, Err: errors.New("busy")}:   {time.Hour, time.Hour},
		errors.New("down"): {1 * time.Second, 2 * time.Second},
	} {
		if d := backoff(DefaultRefresh, 1, failure); d < want[0] || d > want[1] {
			t.Errorf("%v: waits %v", failure, d)
		}
	}
	if d := backoff(time.Second, 1000, errors.New("down")); d > 5*time.Second || d < 4*time.Second {
		t.Errorf("waits %v where a list is wanted every second", d)
	}
	if d := backoff(DefaultRefresh, 1000, errors.New("down")); d > longestBackoff || d < longestBackoff/2 {
		t.Errorf("waits %v", d)
	}
}

func TestSameKeys(t *testing.T) {
	a := map[key.Public]Member{numbered(1): {Name: "x"}}
	if !sameKeys(a, map[key.Public]Member{numbered(1): {}}) || sameKeys(a, nil) {
		t.Error("sameKeys is wrong")
	}
	if !reflect.DeepEqual(a[numbered(1)], Member{Name: "x"}) {
		t.Error("changed")
	}
}

// Who logs in while the first list is under way is on it, or waits for no other.
func TestListUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &roll{slow: time.Second}
		l.set(nil, 1)
		x := runList(t, l, ListOptions{})
		defer x.stop()
		began := time.Now()
		x.want(1, Allow)
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %v", took)
		}
		time.Sleep(30 * time.Second)
		l.set(nil, 1, 2)
		go x.want(9, Refuse) // a stranger has a list fetched
		synctest.Wait()
		x.want(2, Allow) // who has just joined is not refused by the old one
		time.Sleep(20 * time.Second)
	})
}

// Strangers do not overrule a server that wants to be left alone, and hear at once
// that it cannot tell.
func TestListLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &roll{}
		l.set(&RetryError{After: 20 * time.Minute, Err: errors.New("busy")})
		x := runList(t, l, ListOptions{})
		defer x.stop()
		for n := range 120 {
			began := time.Now()
			x.want(n, Unavailable)
			if took := time.Since(began); took > 0 {
				t.Fatalf("stranger %d waits for %v", n, took)
			}
			time.Sleep(time.Second)
		}
		if l.count() != 1 {
			t.Errorf("asked %d times in two minutes, told to come again after 20", l.count())
		}
	})
}

// A removal that cannot be written is tried again; and should it never be, the entry
// grows old beside the others.
func TestListRemovalIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, m := &roll{}, &shelf{}
		l.set(nil, 1, 2)
		x := runList(t, l, ListOptions{Memory: m})
		m.fail(errors.New("disk full"))
		l.set(nil, 2)
		time.Sleep(2 * time.Minute)
		m.fail(nil)
		time.Sleep(2 * time.Minute)
		x.stop()
		if kept, _ := m.Load(); len(kept) != 1 {
			t.Errorf("kept %v", kept)
		}
		must(t, m.Save(map[key.Public]Stored{numbered(1): {At: time.Now().Add(-5 * time.Hour)}}, nil))
		l.set(errors.New("down"))
		x = runList(t, l, ListOptions{Memory: m})
		defer x.stop()
		x.want(2, Allow)
		x.want(1, Unavailable)
	})
}
