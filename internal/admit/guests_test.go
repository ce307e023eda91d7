package admit

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

func TestGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hall{peers: map[uint64]Present{}}
		g := NewGate(Options{Roster: h, Isolate: true, Logger: slog.New(slog.DiscardHandler)})
		defer serve(t, g)()
		a, b, c := numbered(1), numbered(2), numbered(3)
		if d := g.Admit(t.Context(), a, somewhere); d.Admitted || d.Reason != ReasonClosed {
			t.Fatalf("before: %+v", d)
		}
		if err := g.Invite(Guests{Keys: []key.Public{a, b}, For: time.Minute}); err != nil {
			t.Fatal(err)
		}
		if err := g.Invite(Guests{Keys: []key.Public{c}, For: time.Hour, Own: true}); err != nil {
			t.Fatal(err)
		}
		x, y, z := g.Admit(t.Context(), a, somewhere), g.Admit(t.Context(), b, netip.Addr{}), g.Admit(t.Context(), c, somewhere)
		if !x.Admitted || x.Tenant != GuestTenant || x.Realm < guestRealms || x.Realm != y.Realm || !z.Admitted || x.Realm == z.Realm {
			t.Errorf("guests: %+v, %+v, %+v", x, y, z)
		}
		if d := g.Admit(t.Context(), numbered(4), somewhere); d.Admitted {
			t.Error("a stranger comes from a guest's address")
		}
		if ok, err := g.Vouch(t.Context(), a, somewhere); ok || err != nil {
			t.Errorf("another relay is told of a guest: %v, %v", ok, err)
		}
		if st := g.Stats(); st.Guests != 3 || st.Probes != 3 || st.Admitted != 0 {
			t.Errorf("stats %+v", st)
		}
		if list := g.Guests(); len(list) != 3 || list[0].Own || !list[2].Own || list[2].Key != c {
			t.Errorf("%+v", list)
		}

		h.mu.Lock()
		h.peers[1], h.peers[2] = Present{ID: 1, Key: a, Tenant: GuestTenant}, Present{ID: 2, Key: c, Tenant: GuestTenant}
		h.mu.Unlock()
		time.Sleep(30 * time.Second)
		h.want(t)
		if err := g.Invite(Guests{Keys: []key.Public{a}, For: time.Minute}); err != nil { // once more
			t.Fatal(err)
		}
		if d := g.Admit(t.Context(), a, somewhere); d.Realm != x.Realm {
			t.Errorf("moved to %d", d.Realm)
		}
		time.Sleep(time.Minute - time.Second)
		h.want(t)
		time.Sleep(time.Second + settleTime)
		h.want(t, "dismiss over")
		if d := g.Admit(t.Context(), a, somewhere); d.Admitted {
			t.Error("a guest whose time is over comes in")
		}
		if n := g.EndGuests(); n != 0 || len(g.Guests()) != 1 {
			t.Errorf("%d ended, %d left", n, len(g.Guests()))
		}
		time.Sleep(time.Hour)
		h.want(t, "dismiss over")
	})
}

// A guest that a source knows too is in the guests' company, and leaves with them.
func TestGuestWhoIsAMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hall{peers: map[uint64]Present{1: {ID: 1, Key: numbered(1), Tenant: GuestTenant}}}
		g := NewGate(Options{Tenants: one(Any()), Roster: h})
		defer serve(t, g)()
		if err := g.Invite(Guests{Keys: []key.Public{numbered(1)}, For: time.Minute}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Millisecond)
		h.want(t)
		if n := g.EndGuests(); n != 1 {
			t.Errorf("%d ended", n)
		}
		time.Sleep(settleTime)
		h.want(t, "dismiss over")
		if d := g.Admit(t.Context(), numbered(1), somewhere); !d.Admitted || d.Tenant != "" || d.Realm != 0 {
			t.Errorf("as a member: %+v", d)
		}
	})
}

func TestGuestsAreFew(t *testing.T) {
	g := NewGate(Options{})
	keys := func(from, n int) (list []key.Public) {
		for i := range n {
			list = append(list, numbered(from+i))
		}
		return list
	}
	for _, v := range []Guests{
		{For: time.Minute},
		{Keys: []key.Public{{}}, For: time.Minute},
		{Keys: keys(1, 1)},
		{Keys: keys(1, 1), For: -1},
		{Keys: keys(1, 1), For: MaxGuestTime + 1},
		{Keys: keys(1, MaxGuests-ownGuests+1), For: time.Minute},
	} {
		if err := g.Invite(v); err == nil || !strings.Contains(err.Error(), "; hint: ") {
			t.Errorf("%d keys for %v: %v", len(v.Keys), v.For, err)
		}
	}
	if err := g.Invite(Guests{Keys: keys(1, MaxGuests-ownGuests), For: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if err := g.Invite(Guests{Keys: keys(100, 1), For: time.Minute}); err == nil {
		t.Error("one too many")
	}
	if err := g.Invite(Guests{Keys: keys(1, 2), For: time.Hour}); err != nil {
		t.Errorf("those that are there already: %v", err)
	}
	if err := g.Invite(Guests{Keys: keys(200, ownGuests), For: time.Minute, Own: true}); err != nil {
		t.Errorf("the relay's own: %v", err)
	}
	if err := g.Invite(Guests{Keys: keys(300, 1), For: time.Minute, Own: true}); err == nil {
		t.Error("one too many of its own")
	}
}

// A ban of an address does not reach guests, who are let in wherever they are; a
// word about their key does.
func TestGuestsAndRules(t *testing.T) {
	b, err := OpenBook(filepath.Join(t.TempDir(), "book.db"), BookOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	g := NewGate(Options{Rules: b, Tenants: one(Any())})
	if err := g.Invite(Guests{Keys: []key.Public{numbered(1)}, For: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if err := b.Ban(Ban{Net: netip.PrefixFrom(somewhere, 24)}); err != nil {
		t.Fatal(err)
	}
	if d := g.Admit(context.Background(), numbered(1), somewhere); !d.Admitted {
		t.Errorf("banned by address: %+v", d)
	}
	if err := b.Ban(Ban{Key: numbered(1)}); err != nil {
		t.Fatal(err)
	}
	if d := g.Admit(context.Background(), numbered(1), netip.Addr{}); d.Reason != ReasonBanned {
		t.Errorf("banned by key: %+v", d)
	}
}
