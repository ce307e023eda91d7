package admit

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// hall is a Roster that writes down what becomes of its peers.
type hall struct {
	mu     sync.Mutex
	peers  map[uint64]Present // guarded by mu
	events []string           // guarded by mu
}

func (h *hall) Present() (list []Present) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.peers {
		list = append(list, p)
	}
	return list
}

func (h *hall) Judge(p Present, d Decision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.Admitted {
		h.events = append(h.events, "promote to "+d.Tenant)
		p.Waiting, p.Tenant = false, d.Tenant
		h.peers[p.ID] = p
		return
	}
	h.events = append(h.events, "tell "+d.Reason)
}

func (h *hall) Dismiss(p Present, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, "dismiss "+reason)
	delete(h.peers, p.ID)
}

func (h *hall) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !reflect.DeepEqual(h.events, want) {
		t.Errorf("events %q, want %q", h.events, want)
	}
	h.events = nil
}

// moody is a source whose answer the test sets, with or without an announcement.
type moody struct {
	mu      sync.Mutex
	verdict Verdict
	changed func()
	slow    time.Duration
	peeks   bool
}

func (m *moody) Name() string { return "moody" }

func (m *moody) Peek(Request) (Verdict, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.verdict, m.peeks
}

func (m *moody) Decide(ctx context.Context, _ Request) (Verdict, error) {
	m.mu.Lock()
	slow := m.slow
	m.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return Verdict{Answer: Unavailable}, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.verdict, nil
}

func (m *moody) Serve(ctx context.Context, changed func()) error {
	m.mu.Lock()
	m.changed = changed
	m.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (m *moody) set(a Answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.verdict.Answer = a
}

func TestRecheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hall{peers: map[uint64]Present{
			1: {ID: 1, Key: numbered(1), Addr: somewhere},
			2: {ID: 2, Key: numbered(2), Addr: somewhere, Waiting: true},
		}}
		m := &moody{verdict: Verdict{Answer: Unavailable}}
		g := NewGate(Options{Tenants: one(m), Roster: h, Lobby: true, Logger: slog.New(&journal{})})
		defer serve(t, g)()

		m.changed() // down: who is in stays, who waits is told
		time.Sleep(settleTime)
		h.want(t, "tell unavailable")
		m.set(Allow)
		time.Sleep(DefaultRecheck) // without a word from the source
		h.want(t, "promote to ")
		m.set(Refuse)
		m.changed()
		m.changed()
		time.Sleep(settleTime)
		h.want(t, "dismiss not_listed", "dismiss not_listed")
		if st := g.Stats(); st.Promoted != 1 || st.Dismissed != 2 || st.Refused[ReasonNotListed] != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

// A refusal for want of a clear answer keeps out who comes and cuts off nobody, with
// whatever other sources there are.
func TestDoubtfulRefusal(t *testing.T) {
	for name, c := range map[string]struct {
		tenants []Tenant
		stays   bool
	}{
		"alone":                   {one(&moody{verdict: Verdict{Doubtful: true}}), true},
		"remembered":              {one(&moody{verdict: Verdict{Doubtful: true}, peeks: true}), true},
		"beside a clear one":      {one(&moody{verdict: Verdict{Doubtful: true}}, Keys()), true},
		"all must allow":          {[]Tenant{{AllOf: true, Sources: []Source{&moody{verdict: Verdict{Doubtful: true}}, Any()}}}, true},
		"and one clearly refuses": {[]Tenant{{AllOf: true, Sources: []Source{&moody{verdict: Verdict{Doubtful: true}}, Keys()}}}, false},
		"and it is remembered":    {[]Tenant{{AllOf: true, Sources: []Source{&moody{verdict: Verdict{Doubtful: true}, peeks: true}, Keys()}}}, false},
		"another tenant refuses":  {[]Tenant{{Sources: []Source{Keys()}}, {Name: "b", Sources: []Source{&moody{verdict: Verdict{Doubtful: true}}}}}, true},
		"clear":                   {one(&moody{}), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hall{peers: map[uint64]Present{1: {ID: 1, Key: numbered(1), Addr: somewhere}}}
				g := NewGate(Options{Tenants: c.tenants, Roster: h, Lobby: true})
				defer serve(t, g)()
				if d := g.Admit(t.Context(), numbered(2), somewhere); d.Admitted || d.Reason != ReasonNotListed {
					t.Errorf("who comes: %+v", d)
				}
				g.Changed()
				time.Sleep(settleTime)
				if c.stays {
					h.want(t)
				} else {
					h.want(t, "dismiss "+ReasonNotListed)
				}
			})
		})
	}
}

// What changes between a decision and the moment at which the peer can be found
// must not be lost.
func TestSeatedAfterAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hall{peers: map[uint64]Present{}}
		m := &moody{verdict: Verdict{Answer: Allow}, peeks: true}
		g := NewGate(Options{Tenants: one(m), Roster: h})
		defer serve(t, g)()
		d := g.Admit(t.Context(), numbered(1), somewhere)
		m.set(Refuse)
		g.Changed()
		time.Sleep(settleTime)
		h.want(t) // nobody to be seen yet
		h.mu.Lock()
		h.peers[1] = Present{ID: 1, Key: numbered(1)}
		h.mu.Unlock()
		g.Seated(d.Ticket)
		time.Sleep(settleTime)
		h.want(t, "dismiss not_listed")
		g.Seated(g.Admit(t.Context(), numbered(1), somewhere).Ticket)
		time.Sleep(settleTime)
		h.want(t) // nothing has changed: nobody is bothered
	})
}

func TestTenantsInOrder(t *testing.T) {
	me := numbered(1)
	synctest.Test(t, func(t *testing.T) {
		slow := &moody{verdict: Verdict{Answer: Allow}, slow: 3 * time.Second}
		tenants := []Tenant{{Name: "a", Sources: []Source{slow}}, {Name: "b", Sources: []Source{Keys(me)}}}
		g := NewGate(Options{Tenants: tenants, Isolate: true})
		if d := g.Admit(t.Context(), me, somewhere); d.Tenant != "a" || d.Realm != 1 {
			t.Errorf("%+v", d)
		}
		slow.set(Refuse)
		if d := g.Admit(t.Context(), me, somewhere); d.Tenant != "b" || d.Realm != 2 {
			t.Errorf("%+v", d)
		}
		slow.slow = time.Hour
		began := time.Now()
		if d := g.Admit(t.Context(), me, somewhere); d.Tenant != "b" || time.Since(began) != decideLimit {
			t.Errorf("%+v after %v", d, time.Since(began))
		}
		if d := g.Admit(t.Context(), numbered(2), somewhere); d.Reason != ReasonUnavailable {
			t.Errorf("%+v", d)
		}
		if st := g.Stats(); st.Tenants[0].Admitted != 1 || st.Tenants[1].Admitted != 2 || st.Admitted != 3 {
			t.Errorf("stats %+v", st)
		}
	})
}

// A peer stays with its tenant while that one cannot tell, and moves when it can.
func TestTenantDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		me := numbered(1)
		first := &moody{verdict: Verdict{Answer: Unavailable}}
		h := &hall{peers: map[uint64]Present{1: {ID: 1, Key: me, Tenant: "a"}}}
		g := NewGate(Options{Roster: h, Tenants: []Tenant{{Name: "a", Sources: []Source{first}}, {Name: "b", Sources: []Source{Keys(me)}}}})
		defer serve(t, g)()
		g.Changed()
		time.Sleep(settleTime)
		h.want(t)
		first.set(Refuse)
		g.Changed()
		time.Sleep(settleTime)
		h.want(t, "dismiss "+ReasonMoved)
	})
}

func TestAllOf(t *testing.T) {
	down, slowly := &moody{verdict: Verdict{Answer: Unavailable}}, &moody{verdict: Verdict{Answer: Allow}}
	for name, c := range map[string]struct {
		sources []Source
		reason  string
	}{
		"all allow":             {[]Source{Any(), Keys(numbered(1)), slowly}, ""},
		"one refuses":           {[]Source{Any(), Keys()}, ReasonNotListed},
		"one is down":           {[]Source{Any(), down}, ReasonUnavailable},
		"one refuses, one down": {[]Source{down, Keys()}, ReasonNotListed},
		"none":                  {nil, ReasonClosed},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewGate(Options{Tenants: []Tenant{{Sources: c.sources, AllOf: true}}, Lobby: true})
			d := g.Admit(t.Context(), numbered(1), somewhere)
			if d.Admitted != (c.reason == "") || d.Reason != c.reason || (d.Text == "") != d.Admitted {
				t.Errorf("%+v", d)
			}
		})
	}
}

// barring is a set of rules.
type barring map[key.Public]string

func (b barring) Bars(r Request) string { return b[r.Key] }

func TestRulesComeFirst(t *testing.T) {
	g := NewGate(Options{Tenants: one(Any()), Lobby: true, Rules: barring{numbered(1): ReasonDenied, numbered(2): ReasonBanned}})
	if d := g.Admit(t.Context(), numbered(1), somewhere); d.Admitted || d.Reason != ReasonDenied || d.Text == "" {
		t.Errorf("%+v", d)
	}
	if d := g.Admit(t.Context(), numbered(2), somewhere); d.Admitted || d.Reason != ReasonBanned || d.Text != "" {
		t.Errorf("%+v", d)
	}
	if len(g.Pending()) != 0 {
		t.Errorf("pending %v", g.Pending())
	}
}

func TestPending(t *testing.T) {
	now := time.Unix(1e9, 0)
	g := NewGate(Options{Now: func() time.Time { return now }})
	g.Admit(t.Context(), numbered(1), somewhere)
	now = now.Add(time.Minute)
	g.Admit(t.Context(), numbered(2), somewhere)
	g.Admit(t.Context(), numbered(1), netip.MustParseAddr("203.0.113.8"))
	want := Pending{Key: numbered(1), Addr: netip.MustParseAddr("203.0.113.8"), First: time.Unix(1e9, 0), Last: now, Tries: 2, Reason: ReasonClosed}
	list := g.Pending()
	if len(list) != 2 || (list[0] != want && list[1] != want) {
		t.Errorf("pending %+v", list)
	}
	for n := range 50_000 { // one host makes up keys
		g.Admit(t.Context(), numbered(10+n), netip.MustParseAddr("198.51.100.1"))
	}
	if n := len(g.Pending()); n != 10 {
		t.Errorf("%d pending", n)
	}
	for n := range 50_000 { // a network does
		g.Admit(t.Context(), numbered(100_000+n), netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}))
	}
	if n := len(g.Pending()); n != maxPending {
		t.Errorf("%d pending", n)
	}
	g.Forget(list[0].Key)
}
