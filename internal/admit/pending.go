package admit

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/crowd"
	"github.com/detour-relay/detour/internal/key"
)

// Bounds of what is remembered of refused keys.
const (
	maxPending       = 1024
	pendingPerSource = 8
)

// Pending is a key that was refused and that no rule speaks of.
type Pending struct {
	Key    key.Public `json:"key"`
	Addr   netip.Addr `json:"addr"` // of the last try
	First  time.Time  `json:"first"`
	Last   time.Time  `json:"last"`
	Tries  uint64     `json:"tries"`
	Reason string     `json:"reason"` // of the last try
}

// pending remembers the last of them in bounded memory.
type pending struct {
	mu     sync.Mutex
	places *crowd.Set[key.Public] // guarded by mu
	known  map[key.Public]Pending // guarded by mu; the same keys
}

func newPending() *pending {
	return &pending{places: crowd.New[key.Public](maxPending, pendingPerSource), known: make(map[key.Public]Pending)}
}

func (p *pending) note(r Request, reason string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen, ok := p.known[r.Key]
	if !ok {
		seen = Pending{Key: r.Key, First: now}
	}
	seen.Addr, seen.Last, seen.Reason = r.Addr, now, reason
	seen.Tries++
	if loser, some := p.places.Add(r.Key, crowd.Source(r.Addr)); some {
		delete(p.known, loser)
	}
	p.known[r.Key] = seen
}

func (p *pending) forget(k key.Public) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.places.Remove(k)
	delete(p.known, k)
}

func (p *pending) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.known)
}

// list returns them, the last to try first.
func (p *pending) list() []Pending {
	p.mu.Lock()
	all := make([]Pending, 0, len(p.known))
	for _, one := range p.known {
		all = append(all, one)
	}
	p.mu.Unlock()
	slices.SortFunc(all, func(a, b Pending) int { return b.Last.Compare(a.Last) })
	return all
}
