package admit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Bounds of guests.
const (
	// MaxGuests is how many keys are guests at once.
	MaxGuests = 16
	// ownGuests is how many of these places are kept for the relay's own probes.
	ownGuests = 4
	// MaxGuestTime is how long a key is a guest at most, unless it is asked for again.
	MaxGuestTime = 24 * time.Hour
	// guestRealms is the first realm of guests. Tenants number theirs from 1.
	guestRealms = 1 << 31
)

// GuestTenant is the label of guests in place of a tenant's name, which never looks
// like this.
const GuestTenant = "(probe)"

// Guests are keys that a Gate lets in for a time, whatever the sources say: those
// of probes.
type Guests struct {
	Keys []key.Public  // at most MaxGuests of all guests
	For  time.Duration // at most MaxGuestTime
	// Own: they are the relay's own, for which some places are kept, and which
	// EndGuests leaves alone.
	Own bool
}

// Guest is one of them.
type Guest struct {
	Key   key.Public `json:"key"`
	Until time.Time  `json:"until"`
	Own   bool       `json:"own,omitempty"`
}

// guests are kept in memory alone.
type guests struct {
	wake chan struct{} // holds one at most: a guest was added

	mu     sync.Mutex
	known  map[key.Public]guest // guarded by mu; those whose time is over included until they are swept
	realms uint32               // guarded by mu; how many were given
	logins uint64               // guarded by mu
}

type guest struct {
	until time.Time
	realm uint32
	own   bool
}

func newGuests() *guests {
	return &guests{wake: make(chan struct{}, 1), known: make(map[key.Public]guest)}
}

// Invite lets keys in for a time: before all sources, from any address, and whether
// or not it is banned; a rule or ban of the key itself stands above it. Guests are
// no members: they exchange packets with those of the same Invite alone, and no
// other relay is told of them. When the time is over they are cut off. A key that is
// a guest already stays one for the new time, in the company that it was in.
func (g *Gate) Invite(v Guests) error {
	switch {
	case len(v.Keys) == 0 || slices.ContainsFunc(v.Keys, key.Public.IsZero):
		return errors.New("no key to let in; hint: give the probes' node keys")
	case v.For <= 0 || v.For > MaxGuestTime:
		return fmt.Errorf("%v is not how long a probe may be let in; hint: give more than nothing, and %v at most", v.For, MaxGuestTime)
	}
	if err := g.guests.add(v, g.now()); err != nil {
		return err
	}
	g.Changed()
	return nil
}

func (s *guests) add(v Guests, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	places, taken := MaxGuests, 0
	if !v.Own {
		places -= ownGuests
	}
	for k, one := range s.known {
		if now.Before(one.until) && !slices.Contains(v.Keys, k) && (v.Own || !one.own) {
			taken++
		}
	}
	if taken+len(v.Keys) > places {
		return fmt.Errorf("%d probes' keys are let in already, and there is room for %d; hint: wait until the time of some is over, or end them with "+
			"detour admit probe-token --end", taken, places)
	}
	s.realms++
	realm := guestRealms | s.realms
	for _, k := range v.Keys {
		if old, ok := s.known[k]; ok && now.Before(old.until) {
			realm = old.realm
		}
	}
	for _, k := range v.Keys {
		s.known[k] = guest{until: now.Add(v.For), realm: realm, own: v.Own}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// EndGuests ends the time of all guests but the relay's own. It returns how many
// there were.
func (g *Gate) EndGuests() int {
	n := g.guests.drop(func(one guest) bool { return !one.own })
	g.Changed()
	return n
}

// Guests returns who is a guest now, the first to go first.
func (g *Gate) Guests() []Guest {
	now := g.now()
	g.guests.mu.Lock()
	list := make([]Guest, 0, len(g.guests.known))
	for k, one := range g.guests.known {
		if now.Before(one.until) {
			list = append(list, Guest{k, one.until, one.own})
		}
	}
	g.guests.mu.Unlock()
	slices.SortFunc(list, func(a, b Guest) int {
		return cmp.Or(a.Until.Compare(b.Until), cmp.Compare(a.Key.Hex(), b.Key.Hex()))
	})
	return list
}

// invited is the decision about a guest; it reports false for others.
func (g *Gate) invited(k key.Public) (Decision, bool) {
	one, ok := g.guests.get(k, g.now())
	if !ok || g.rules != nil && g.rules.Bars(Request{Key: k}) != "" {
		return Decision{}, false
	}
	return Decision{Admitted: true, Tenant: GuestTenant, Realm: one.realm, tenant: noTenant}, true
}

func (s *guests) get(k key.Public, now time.Time) (guest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.known[k]
	return one, ok && now.Before(one.until)
}

func (s *guests) drop(which func(guest) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, one := range s.known {
		if which(one) {
			delete(s.known, k)
			n++
		}
	}
	return n
}

// came counts a login.
func (s *guests) came() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins++
}

func (s *guests) stats() (now int, logins uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.known), s.logins
}

// untilEnd is when the next guest's time is over; false when there is none.
func (s *guests) untilEnd(now time.Time) (next time.Duration, some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.known {
		left := max(one.until.Sub(now), 0)
		if !some || left < next {
			next, some = left, true
		}
	}
	return next, some
}

// endGuests has those whose time is over cut off, until ctx is done.
func (g *Gate) endGuests(ctx context.Context) {
	for {
		var over <-chan time.Time
		stop := func() bool { return true }
		if left, some := g.guests.untilEnd(g.now()); some {
			timer := time.NewTimer(left)
			over, stop = timer.C, timer.Stop
		}
		select {
		case <-ctx.Done():
			stop()
			return
		case <-g.guests.wake:
			stop()
		case <-over:
			now := g.now()
			if g.guests.drop(func(one guest) bool { return !now.Before(one.until) }) > 0 {
				g.Changed()
			}
		}
	}
}
