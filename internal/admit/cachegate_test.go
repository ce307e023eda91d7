package admit

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// dismissals is a Roster with one connected peer, that tells of its end.
type dismissals struct {
	peer  Present
	looks chan struct{}
	ended chan string
}

func (d *dismissals) Present() []Present {
	select {
	case d.looks <- struct{}{}:
	default:
	}
	return []Present{d.peer}
}

func (d *dismissals) Judge(Present, Decision) {}

func (d *dismissals) Dismiss(_ Present, reason string) {
	select {
	case d.ended <- reason:
	default:
	}
}

// A connected peer stays while the server fails in any way, and goes when it is revoked.
func TestRevokedWhileConnected(t *testing.T) {
	var mood atomic.Value
	mood.Store("allow")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch mood.Load() {
		case "allow":
			io.WriteString(w, `{"Allow":true}`)
		case "refuse":
			io.WriteString(w, `{"Allow":false}`)
		case "broken":
			http.Error(w, "broken", http.StatusInternalServerError)
		case "dead":
			hangUp(w, r)
		}
	}))
	defer server.Close()
	for _, fallback := range []Fallback{FallbackCached, FallbackRefuse, FallbackAdmit} {
		roster := &dismissals{
			peer:  Present{ID: 1, Key: numbered(1), Addr: somewhere},
			looks: make(chan struct{}), ended: make(chan string, 1),
		}
		c := Cached(newSource(t, URLOptions{URL: server.URL}), CacheOptions{Allow: -1, Refuse: -1, OnUnavailable: fallback})
		g := NewGate(Options{Tenants: one(c), Roster: roster, Recheck: time.Millisecond})
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- g.Serve(ctx) }()
		for _, now := range []string{"allow", "broken", "dead", "allow", "dead"} {
			mood.Store(now)
			for range 3 { // looks that begin after that
				<-roster.looks
			}
			select {
			case reason := <-roster.ended:
				t.Fatalf("fallback %d: dismissed as %s while the server is %s", fallback, reason, now)
			default:
			}
		}
		mood.Store("refuse")
		go func() { // the looks go on
			for range roster.looks {
				continue
			}
		}()
		if reason := <-roster.ended; reason != ReasonNotListed {
			t.Errorf("fallback %d: dismissed as %s", fallback, reason)
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		close(roster.looks)
	}
}

func TestSlowSourceDelaysOnlyThoseWhoNeedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(2)
		o.be(false, 3*time.Second)
		g := NewGate(Options{Tenants: one(Cached(o, CacheOptions{}), Keys(numbered(1)))})
		for n, want := range map[int]time.Duration{1: 0, 2: 3 * time.Second} {
			start := time.Now()
			d := g.Admit(t.Context(), numbered(n), somewhere)
			if took := time.Since(start); !d.Admitted || took != want {
				t.Errorf("key %d: %+v after %v, want %v", n, d, took, want)
			}
		}
	})
}

func TestPeekDoesNotAllocate(t *testing.T) {
	c := Cached(newOracle(1), CacheOptions{})
	wantAnswer(t, c, 1, Allow)
	r := Request{Key: numbered(1), Addr: somewhere}
	if n := testing.AllocsPerRun(100, func() { c.Peek(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPeek(b *testing.B) {
	c := Cached(newOracle(1), CacheOptions{})
	r := Request{Key: numbered(1), Addr: somewhere}
	c.Decide(b.Context(), r)
	for b.Loop() {
		c.Peek(r)
	}
}
