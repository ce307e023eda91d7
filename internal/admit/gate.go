package admit

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// The reasons of a refusal, as they stand in logs and counters.
const (
	ReasonClosed      = "closed"      // there is no source: nobody may connect
	ReasonNotListed   = "not_listed"  // every source was asked and refused
	ReasonUnavailable = "unavailable" // no source allowed, and at least one could not tell
)

// DefaultHint tells the operator how to let a refused peer in. KeyInHint in it
// stands for the peer's key.
const DefaultHint = "let this peer in with --admit-key " + KeyInHint + ", or everyone with --admit any"

// KeyInHint is replaced by "nodekey:" and 64 hex digits wherever it occurs in a hint.
const KeyInHint = "{key}"

// Options configure a Gate. Everything in it may be left zero: that gate is
// closed and silent.
type Options struct {
	Sources []Source         // asked in this order until one allows; none: closed
	Logger  *slog.Logger     // hears of refusals; nil: nobody does
	Hint    string           // how to let a peer in, see KeyInHint; empty: DefaultHint
	Now     func() time.Time // must not go backwards; nil: time.Now
}

// Gate admits a peer when any of its sources allows it. It reports a refused
// key with one line, ten keys a minute at most, and what is beyond with one
// summary for that minute. It is safe for concurrent use.
type Gate struct {
	sources []Source
	logger  *slog.Logger
	hint    string
	now     func() time.Time

	admitted atomic.Uint64 // outside mu: the way in takes no lock

	mu      sync.Mutex
	refused map[string]uint64 // guarded by mu; by reason
	minute  minute            // guarded by mu
}

// NewGate returns a gate whose first minute of reports begins now. It starts no
// goroutine: run Serve next to it.
func NewGate(o Options) *Gate {
	g := &Gate{
		sources: slices.Clone(o.Sources),
		logger:  o.Logger,
		hint:    o.Hint,
		now:     o.Now,
		// Every reason is there from the start, so that a counter does not
		// appear only at its first event.
		refused: map[string]uint64{ReasonClosed: 0, ReasonNotListed: 0, ReasonUnavailable: 0},
	}
	if g.logger == nil {
		g.logger = slog.New(slog.DiscardHandler)
	}
	if g.hint == "" {
		g.hint = DefaultHint
	}
	if g.now == nil {
		g.now = time.Now
	}
	g.minute = newMinute(g.now())
	return g
}

// Admit decides about one peer. When it is refused, reason is one of the Reason
// constants; otherwise reason is empty. It takes as long as the sources take,
// and they stop when ctx is done.
func (g *Gate) Admit(ctx context.Context, peer key.Public, addr netip.Addr) (admitted bool, reason string) {
	r := Request{Key: peer, Addr: addr.Unmap()}
	reason, failure := g.decide(ctx, r)
	if reason == "" {
		g.admitted.Add(1)
		return true, ""
	}
	g.refuse(r, reason, failure)
	return false, reason
}

// decide returns an empty reason for a peer that is allowed. failure says which
// sources could not tell, and why.
func (g *Gate) decide(ctx context.Context, r Request) (reason, failure string) {
	if len(g.sources) == 0 {
		return ReasonClosed, ""
	}
	var failures []string
	for _, s := range g.sources {
		answer, err := s.Decide(ctx, r)
		switch {
		case err != nil: // whatever the answer: an Allow that failed is none
			failures = append(failures, s.Name()+": "+err.Error())
		case answer == Unavailable:
			failures = append(failures, s.Name()+": unavailable")
		case answer == Allow:
			return "", ""
		}
	}
	if len(failures) > 0 {
		return ReasonUnavailable, strings.Join(failures, "; ")
	}
	return ReasonNotListed, ""
}

// refuse counts a refusal and logs what the minute has room for.
func (g *Gate) refuse(r Request, reason, failure string) {
	g.mu.Lock()
	g.refused[reason]++
	before := g.minute.roll(g.now())
	line := g.minute.note(r.Key)
	g.mu.Unlock()

	g.log(before)
	if !line {
		return
	}
	peer := r.Key.String()
	attrs := []slog.Attr{
		slog.String("peer", peer),
		slog.String("addr", r.Addr.String()),
		slog.String("reason", reason),
		slog.String("hint", strings.ReplaceAll(g.hint, KeyInHint, peer)),
	}
	if failure != "" {
		attrs = append(attrs, slog.String("err", failure))
	}
	g.logger.LogAttrs(context.Background(), slog.LevelWarn, "peer refused", attrs...)
}

func (g *Gate) log(s summary) {
	if s.refusals == 0 {
		return
	}
	g.logger.LogAttrs(context.Background(), slog.LevelWarn, s.String(),
		slog.Uint64("refusals", s.refusals), slog.Int("keys", s.keys))
}

// Serve ends each minute on time, so that its summary comes even when nobody
// connects any more. It blocks until ctx is done, then logs the summary of the
// unfinished minute and returns nil. Without it a summary waits for the next
// refusal.
func (g *Gate) Serve(ctx context.Context) error {
	timer := time.NewTimer(g.untilNextMinute())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			g.mu.Lock()
			last := g.minute.end()
			g.mu.Unlock()
			g.log(last)
			return nil
		case <-timer.C:
			g.mu.Lock()
			before := g.minute.roll(g.now())
			g.mu.Unlock()
			g.log(before)
			timer.Reset(g.untilNextMinute())
		}
	}
}

func (g *Gate) untilNextMinute() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.minute.left(g.now())
}

// Stats are the gate's counts since it was made.
type Stats struct {
	Admitted uint64            `json:"admitted"` // calls of Admit, not distinct peers
	Refused  map[string]uint64 `json:"refused"`  // by reason; every reason is present
	Sources  []string          `json:"sources"`  // names, in the order they are asked; empty when closed
}

// Stats returns a copy that the caller owns.
func (g *Gate) Stats() Stats {
	names := make([]string, 0, len(g.sources))
	for _, s := range g.sources {
		names = append(names, s.Name())
	}
	g.mu.Lock()
	refused := maps.Clone(g.refused)
	g.mu.Unlock()
	return Stats{Admitted: g.admitted.Load(), Refused: refused, Sources: names}
}
