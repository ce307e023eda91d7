package admit

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Times of looking again.
const (
	// DefaultRecheck is how often everybody is looked at again when
	// Options.Recheck is zero.
	DefaultRecheck = time.Minute
	// settleTime gathers changes that come together.
	settleTime = 50 * time.Millisecond
	// rechecks is how many peers are looked at at once.
	rechecks = 16
)

// Present is one connection that admission is about.
type Present struct {
	ID      uint64 // of the connection
	Key     key.Public
	Addr    netip.Addr
	Tenant  string
	Waiting bool // refused so far, and connected
}

// Roster knows who is connected. It is safe for concurrent use.
type Roster interface {
	Present() []Present
	// Judge gives a connection that waits another decision.
	Judge(p Present, d Decision)
	// Dismiss ends a connection.
	Dismiss(p Present, reason string)
}

// Changed tells that answers may have become other ones: everybody who is
// connected or waits is looked at again soon. It never blocks.
func (g *Gate) Changed() {
	g.generation.Add(1)
	select {
	case g.changes <- struct{}{}:
	default: // a look is due already
	}
}

// Seated tells that the peer of d is in the roster by now. If something changed
// after it was decided about, it is looked at again.
func (g *Gate) Seated(ticket uint64) {
	if ticket == g.generation.Load() {
		return
	}
	select {
	case g.changes <- struct{}{}:
	default:
	}
}

// rechecker looks again until ctx is done.
func (g *Gate) rechecker(ctx context.Context) {
	tick := time.NewTicker(g.recheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-g.changes:
			settle := time.NewTimer(settleTime)
			select {
			case <-settle.C:
			case <-ctx.Done():
				settle.Stop()
				return
			}
			select { // what came meanwhile is looked at with the rest
			case <-g.changes:
			default:
			}
		}
		g.recheck(ctx)
	}
}

// recheck looks at everybody once.
func (g *Gate) recheck(ctx context.Context) {
	room := make(chan struct{}, rechecks)
	var looks sync.WaitGroup
	defer looks.Wait()
	for _, p := range g.roster.Present() {
		r := Request{Key: p.Key, Addr: p.Addr.Unmap()}
		if _, guest := g.invited(p.Key); p.Tenant == GuestTenant && !guest {
			g.dismiss(p, ReasonOver) // whoever else would let it in: it is in the guests' company
			continue
		}
		if d, sure := g.peek(r); sure {
			g.apply(p, d)
			continue
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		looks.Go(func() {
			defer func() { <-room }()
			d := g.decide(ctx, r)
			if ctx.Err() == nil {
				g.apply(p, d)
			}
		})
	}
}

// apply carries out what another look has found.
func (g *Gate) apply(p Present, d Decision) {
	switch {
	case p.Waiting:
		if d.Admitted {
			g.pending.forget(p.Key)
			g.promoted.Add(1)
			g.logger.LogAttrs(context.Background(), slog.LevelInfo, "a waiting peer is admitted",
				slog.String("peer", p.Key.String()), slog.String("addr", p.Addr.String()), slog.String("tenant", d.Tenant))
		}
		g.roster.Judge(p, d)
	case d.Admitted && (d.Tenant == p.Tenant || d.unsure[p.Tenant]):
	case !d.Admitted && d.Reason == ReasonUnavailable:
		// Nobody is dropped because a source is down.
	default:
		reason := d.Reason
		if d.Admitted {
			reason = ReasonMoved
		}
		g.dismiss(p, reason)
	}
}

// dismiss ends a connection that is not admitted any more.
func (g *Gate) dismiss(p Present, reason string) {
	g.dismissed.Add(1)
	g.logger.LogAttrs(context.Background(), slog.LevelInfo, "a connected peer is not admitted any more and was disconnected",
		slog.String("peer", p.Key.String()), slog.String("addr", p.Addr.String()), slog.String("tenant", p.Tenant),
		slog.String("reason", reason))
	g.roster.Dismiss(p, reason)
}
