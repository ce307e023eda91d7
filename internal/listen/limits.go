package listen

import (
	"container/list"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/crowd"
)

// The limits of one source, an IPv4 address or IPv6 /64, where Options.Limits is nil.
const (
	DefaultSourcePending = 64  // unfinished connections
	DefaultSourceRate    = 30  // new connections a second
	DefaultSourceBurst   = 200 // new connections at once
)

const (
	// maxSources is how many sources are known at once. A source is known while it
	// has unfinished connections or has lately made some.
	maxSources = 8192
	// restShare is how many sources those count for, all together, that find every
	// place taken.
	restShare = 16
	// maxLooks is how many known sources are looked at for one that can be forgotten.
	maxLooks = 8
)

// LimitOptions are what connections may cost before they are admitted. 0 is no limit.
type LimitOptions struct {
	Pending int // unfinished connections of one source
	Rate    int // new connections of one source in a second
	Burst   int // new connections of one source at once; at least Rate
	// AcceptRate and AcceptBurst are the same for all sources together, those that are
	// exempt too, in connections a second and at once.
	AcceptRate  float64
	AcceptBurst int
	Exempt      []netip.Prefix // not counted: of proxies, behind each of which are many clients
}

// Limits bound what one source, and all together, may bring to the doors that share
// them. Loopback is exempt, and what has no IP address.
//
// What is over a limit is refused, and nothing is remembered of it: nobody is shut
// out for longer than the flood lasts. A connection that comes to be admitted has
// its share of Rate given back, so that any number of clients may come from one
// address of a carrier's.
type Limits struct {
	o LimitOptions

	mu      sync.Mutex
	sources map[netip.Prefix]*source // Guarded by mu. At most maxSources.
	oldest  *list.List               // Guarded by mu. Of *source, the one seen last at the back.
	rest    source                   // Guarded by mu. Of whoever finds no place.
	all     bucket                   // Guarded by mu. Of AcceptRate.
}

// source is who has connected lately.
type source struct {
	from    netip.Prefix
	at      *list.Element // in Limits.oldest; nil for the rest
	pending int
	bucket  bucket
}

// bucket holds the connections that may come now. Its zero value is full.
type bucket struct {
	used float64 // as of at
	at   time.Time
}

// drain lets out what rate, a second, has given back until now.
func (b *bucket) drain(now time.Time, rate float64) {
	if passed := now.Sub(b.at).Seconds(); passed > 0 {
		b.used = max(0, b.used-passed*rate)
	}
	b.at = now
}

// take uses one up, unless the bucket is empty.
func (b *bucket) take(now time.Time, rate, burst float64) bool {
	b.drain(now, rate)
	if b.used+1 > burst {
		return false
	}
	b.used++
	return true
}

// NewLimits returns limits for the doors that are given them.
func NewLimits(o LimitOptions) *Limits {
	o.Burst = max(o.Burst, o.Rate)
	o.AcceptBurst = max(o.AcceptBurst, 1)
	return &Limits{o: o, sources: make(map[netip.Prefix]*source), oldest: list.New()}
}

// defaultLimits are those of a door that was given none.
func defaultLimits() *Limits {
	return NewLimits(LimitOptions{Pending: DefaultSourcePending, Rate: DefaultSourceRate, Burst: DefaultSourceBurst})
}

// refusal says why a connection is not taken.
type refusal uint8

const (
	taken          refusal = iota
	refusedFull            // too many are unfinished
	refusedPending         // too many of its source are
	refusedRate            // its source makes too many
	refusedAccept          // all together make too many
	refusals               // how many there are
)

// String tells the operator.
func (r refusal) String() string {
	return [refusals]string{
		"", "too many connections are unfinished", "too many connections of its address are unfinished",
		"its address connects too often", "more connections a second than accept_rate come",
	}[r]
}

// admitRate asks whether one more connection of all may come.
func (l *Limits) admitRate() bool {
	if l.o.AcceptRate <= 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.take(time.Now(), l.o.AcceptRate, float64(l.o.AcceptBurst))
}

// stay is a connection's part of its source's limits. The zero value has none.
// Guarded by its Limits.
type stay struct {
	limits *Limits
	source *source
	left   bool // it is not unfinished any more
	back   bool // its share of the rate was given back
}

// enter counts c in, unless its source has its share already. leave must be called
// when the connection is not unfinished any more.
func (l *Limits) enter(c net.Conn) (*stay, refusal) {
	from := l.sourceOf(c.RemoteAddr())
	if !from.IsValid() || (l.o.Pending <= 0 && l.o.Rate <= 0) {
		return &stay{}, taken
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	s, share := l.known(from, now), 1
	if s == nil {
		s, share = &l.rest, restShare
	}
	switch {
	case l.o.Pending > 0 && s.pending >= share*l.o.Pending:
		return nil, refusedPending
	case l.o.Rate > 0 && !s.bucket.take(now, float64(share*l.o.Rate), float64(share*l.o.Burst)):
		return nil, refusedRate
	}
	s.pending++
	return &stay{limits: l, source: s}, taken
}

// known returns what is known of a source, making room for it if it is new. nil:
// there is none. Called with mu held.
func (l *Limits) known(from netip.Prefix, now time.Time) *source {
	s := l.sources[from]
	if s != nil {
		l.oldest.MoveToBack(s.at)
		return s
	}
	if len(l.sources) >= maxSources && !l.forget(now) {
		return nil
	}
	s = &source{from: from}
	s.at = l.oldest.PushBack(s)
	l.sources[from] = s
	return s
}

// forget makes room by taking out a source about which there is nothing to know: it
// has no unfinished connection, and its bucket is full. Those of the oldest that are
// busy go to the back, so that the next to ask looks at others. Called with mu held.
func (l *Limits) forget(now time.Time) bool {
	for range maxLooks {
		first := l.oldest.Front()
		s := first.Value.(*source)
		s.bucket.drain(now, float64(l.o.Rate))
		if s.pending == 0 && (l.o.Rate <= 0 || s.bucket.used == 0) {
			l.oldest.Remove(first)
			delete(l.sources, s.from)
			return true
		}
		l.oldest.MoveToBack(first)
	}
	return false
}

// leave ends the unfinished part of a connection. If it was admitted, it has not
// counted. It may be called again, to say that it is admitted now.
func (s *stay) leave(admitted bool) {
	if s.limits == nil {
		return
	}
	s.limits.mu.Lock()
	defer s.limits.mu.Unlock()
	if !s.left {
		s.left = true
		s.source.pending--
	}
	if admitted && !s.back {
		s.back = true
		s.source.bucket.used = max(0, s.source.bucket.used-1)
	}
}

// sourceOf returns what is counted as one source; the zero prefix for who is exempt.
func (l *Limits) sourceOf(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if !ip.IsValid() || ip.IsLoopback() || slices.ContainsFunc(l.o.Exempt, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return netip.Prefix{}
	}
	return crowd.Source(ip)
}
