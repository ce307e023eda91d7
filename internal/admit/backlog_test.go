package admit

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// operator is rules and a source, both of which never have to be waited for.
type operator struct {
	mu     sync.Mutex
	allows map[key.Public]bool // guarded by mu; false: denied
}

func (o *operator) Name() string { return "operator" }

func (o *operator) say(k key.Public, allow bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.allows[k] = allow
}

func (o *operator) Bars(r Request) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if allowed, said := o.allows[r.Key]; said && !allowed {
		return ReasonDenied
	}
	return ""
}

func (o *operator) Peek(r Request) (Verdict, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.allows[r.Key] {
		return Verdict{Answer: Allow}, true
	}
	return Verdict{}, true
}

func (o *operator) Decide(_ context.Context, r Request) (Verdict, error) {
	v, _ := o.Peek(r)
	return v, nil
}

// sluggish takes its time, and writes down whom it was asked about.
type sluggish struct {
	takes  time.Duration
	answer Answer

	mu    sync.Mutex
	asked []key.Public // guarded by mu
}

func (s *sluggish) Name() string { return "sluggish" }

func (s *sluggish) Decide(ctx context.Context, r Request) (Verdict, error) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Key)
	s.mu.Unlock()
	select {
	case <-time.After(s.takes):
		return Verdict{Answer: s.answer}, nil
	case <-ctx.Done():
		return Verdict{Answer: Unavailable}, ctx.Err()
	}
}

// before is how many have been asked about before k, and whether k has.
func (s *sluggish) before(k key.Public) (n int, asked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = slices.Index(s.asked, k)
	return n, n >= 0
}

// What takes no waiting is carried out at once, however many have to be asked about
// at a source that is slow; and of those, members come first.
func TestSlowSourceDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hall{peers: map[uint64]Present{1: {ID: 1, Key: numbered(1), Addr: somewhere}}}
		for n := range 1000 {
			h.peers[uint64(10+n)] = Present{ID: uint64(10 + n), Key: numbered(10 + n), Addr: somewhere, Waiting: true}
		}
		o := &operator{allows: map[key.Public]bool{numbered(1): true}}
		s := &sluggish{takes: 4 * time.Second, answer: Unavailable}
		j := &journal{}
		g := NewGate(Options{Tenants: one(s, o), Rules: o, Roster: h, Lobby: true, Recheck: time.Hour, Logger: slog.New(j)})
		defer serve(t, g)()
		g.Changed()
		time.Sleep(time.Second)
		h.want(t) // all askers are waiting
		o.say(numbered(1), false)
		o.say(numbered(500), true)
		g.Changed()
		time.Sleep(settleTime)
		synctest.Wait()
		slices.Sort(h.events)
		h.want(t, "dismiss "+ReasonDenied, "promote to ")

		h.mu.Lock()
		h.peers[5] = Present{ID: 5, Key: numbered(5), Addr: somewhere} // a member, of the slow source
		h.mu.Unlock()
		g.Changed()
		time.Sleep(4 * time.Second)
		if n, asked := s.before(numbered(5)); !asked || n > 2*rechecks {
			t.Errorf("a member's turn came after %d others: %v", n, asked)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		if n := len(h.events); n < 998 {
			t.Errorf("%d of those who wait were told", n)
		}
		for n := range 1000 {
			o.say(numbered(10+n), true)
		}
		j.take()
		h.mu.Unlock()
		g.Changed()
		time.Sleep(time.Minute)
		synctest.Wait()
		h.mu.Lock()
		if lines := j.take(); len(lines) != maxLines+1 || !strings.Contains(lines[maxLines], "989 more waiting peers were admitted") {
			t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
		}
	})
}

// An answer that was asked for before the operator spoke does not outdo the operator.
func TestDeniedWhileAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hall{peers: map[uint64]Present{1: {ID: 1, Key: numbered(1), Addr: somewhere, Waiting: true}}}
		o := &operator{allows: map[key.Public]bool{}}
		g := NewGate(Options{Tenants: one(&sluggish{takes: 3 * time.Second, answer: Allow}), Rules: o, Roster: h, Lobby: true})
		defer serve(t, g)()
		g.Changed()
		time.Sleep(time.Second)
		o.say(numbered(1), false)
		g.Changed()
		time.Sleep(settleTime)
		h.want(t, "tell "+ReasonDenied)
		time.Sleep(4 * time.Second)
		h.want(t, "tell "+ReasonDenied)
	})
}

// A backlog holds each once, forgets who has left, and takes back who changed while
// being asked about.
func TestBacklog(t *testing.T) {
	b := newBacklog()
	at := func(id uint64, waiting bool) Present { return Present{ID: id, Waiting: waiting} }
	take := func(want uint64) {
		t.Helper()
		if p, ok := b.take(); !ok || p.ID != want {
			t.Errorf("next is %d, %v, want %d", p.ID, ok, want)
		}
	}
	b.put([]Present{at(3, true), at(1, true), at(2, false)})
	take(2)
	b.put([]Present{at(1, false), at(2, false), at(4, true), at(3, true)})
	take(1) // promoted, as somebody else's
	take(3)
	b.done(at(2, false))
	take(2)                       // changed while it was asked about
	b.put([]Present{at(4, true)}) // the others have left
	b.done(at(2, false))
	b.done(at(1, false))
	b.done(at(3, true))
	take(4)
	b.done(at(4, true))
	if p, ok := b.take(); ok || len(b.asked)+len(b.again) != 0 {
		t.Errorf("left over: %+v, %v, %v", p, b.asked, b.again)
	}
}
