package relay

import (
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// peer is one logged-in connection.
type peer struct {
	// Set at login and never changed.
	server       *Server
	id           uint64 // not 0, and no other peer's
	key          key.Public
	link         Link
	addr         netip.AddrPort
	app          string
	flags        derp.PresentFlags
	mesh         bool // it proved the mesh key
	verdict      Verdict
	since        time.Time
	writeTimeout time.Duration
	beatPeriod   time.Duration

	// Set before anyone else sees the peer in the directory.
	entry  *entry
	tenant string // as admitted
	name   string // the same; for people
	realm  uint32

	seat seat // locks itself; see lobby.go

	// Owned by the sweeper, once the peer has joined. Since Server.start.
	nextBeat time.Duration

	// Owned by the read loop.
	skip      int           // bytes of an unwanted frame that are still to come
	touched   []*peer       // whose outboxes this batch made non-empty
	last      route         // where the last packet went
	notHere   *rate.Limiter // of PeerGone answers; nil until the first
	tally     tally         // of this batch
	home      bool          // the client calls this its home region
	uncounted bool          // home is not in the figures: it was said in the lobby
	idle      *rate.Limiter // of bytes in the lobby; nil until the first
	pause     time.Duration // until its next turn in the lobby

	// Owned by the flusher: what was sealed and is not all written yet.
	inFlight [classes]load

	out      outbox // locks itself
	contacts contacts

	ended atomic.Pointer[error] // the first reason to end the connection
}

// contacts is the side of "who has heard from whom" that is kept with the
// hearer; the other side is entry.heard.
type contacts struct {
	mu     sync.Mutex
	closed bool
	from   map[*entry]struct{} // Guarded by mu.
}

// end records why the connection ends and dooms it. The first reason stays.
func (p *peer) end(reason error) {
	p.ended.CompareAndSwap(nil, &reason)
	p.link.Doom()
}

// why returns the first reason for the end of the connection, which is err when
// none was recorded before, and nil when the peer just left.
func (p *peer) why(err error) error {
	p.ended.CompareAndSwap(nil, &err)
	if err = *p.ended.Load(); errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// meet notes that dst has a packet from e's key, so that it is told when the key
// is gone.
func meet(e *entry, dst *peer) {
	e.mu.Lock()
	_, known := e.heard[dst]
	if !known {
		if e.heard == nil {
			e.heard = make(map[*peer]struct{})
		}
		e.heard[dst] = struct{}{}
	}
	e.mu.Unlock()
	if known {
		return
	}
	dst.contacts.mu.Lock()
	closed := dst.contacts.closed
	if !closed {
		if dst.contacts.from == nil {
			dst.contacts.from = make(map[*entry]struct{})
		}
		dst.contacts.from[e] = struct{}{}
	}
	dst.contacts.mu.Unlock()
	if closed {
		e.unhear(dst)
	}
}

func (e *entry) unhear(p *peer) {
	e.mu.Lock()
	delete(e.heard, p)
	e.mu.Unlock()
}

// forgetContacts takes p out of every list of hearers.
func (p *peer) forgetContacts() {
	p.contacts.mu.Lock()
	p.contacts.closed = true
	from := p.contacts.from
	p.contacts.from = nil
	p.contacts.mu.Unlock()
	for e := range from {
		e.unhear(p)
	}
}

// tellGone tells those who heard from p's key that it has left for good. p was
// the last connection of its key.
func (s *Server) tellGone(p *peer) {
	e := p.entry
	e.mu.Lock()
	heard := e.heard
	e.heard = nil
	e.mu.Unlock()
	var frame []byte
	for dst := range heard {
		dst.contacts.mu.Lock()
		delete(dst.contacts.from, e)
		dst.contacts.mu.Unlock()
		frame = derp.AppendPeerGone(frame[:0], p.key, derp.GoneDisconnected)
		if dst.out.pushNews(frame, controlLimit) {
			s.counts.goneDisconnected.Add(1)
		}
		dst.flush()
	}
}
