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

// rechecker looks at everybody after each change and from time to time, until ctx
// is done. It carries out at once what takes no waiting. Who has to be asked about
// is left to a few askers, so that a source that is slow delays nobody but those
// whom it has to be asked about.
func (g *Gate) rechecker(ctx context.Context) {
	due := newBacklog()
	var askers sync.WaitGroup
	defer askers.Wait()
	for range rechecks {
		askers.Go(func() { g.askAgain(ctx, due) })
	}
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
		due.put(g.glance())
	}
}

// glance looks at everybody, and returns those who have to be asked about.
func (g *Gate) glance() (unsure []Present) {
	for _, p := range g.roster.Present() {
		if _, guest := g.invited(p.Key); p.Tenant == GuestTenant && !guest {
			g.dismiss(p, ReasonOver) // whoever else would let it in: it is in the guests' company
			continue
		}
		if d, sure := g.peek(p.request()); sure {
			g.apply(p, d)
		} else {
			unsure = append(unsure, p)
		}
	}
	return unsure
}

// askAgain asks about those who are due until ctx is done.
func (g *Gate) askAgain(ctx context.Context, due *backlog) {
	for {
		p, ok := due.take()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-due.more:
			}
			continue
		}
		d := g.decide(ctx, p.request())
		if ctx.Err() != nil {
			return
		}
		// What was settled meanwhile, as by the operator, outdoes an answer that was asked for before.
		if now, sure := g.peek(p.request()); sure {
			d = now
		}
		g.apply(p, d)
		g.Seated(d.Ticket)
		due.done(p)
	}
}

func (p Present) request() Request { return Request{Key: p.Key, Addr: p.Addr.Unmap()} }

// apply carries out what another look has found.
func (g *Gate) apply(p Present, d Decision) {
	switch {
	case p.Waiting:
		if d.Admitted {
			g.pending.forget(p.Key)
			g.promoted.Add(1)
			g.tell(func(m *minute) *quota { return &m.promoted }, "a waiting peer is admitted",
				slog.String("peer", p.Key.String()), slog.String("addr", p.Addr.String()), slog.String("tenant", d.Tenant))
		}
		g.roster.Judge(p, d)
	case d.Admitted && (d.Tenant == p.Tenant || d.unsure[p.Tenant]):
	case !d.Admitted && (d.Reason == ReasonUnavailable || d.doubtful):
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
	g.tell(func(m *minute) *quota { return &m.dismissed }, "a connected peer is not admitted any more and was disconnected",
		slog.String("peer", p.Key.String()), slog.String("addr", p.Addr.String()), slog.String("tenant", p.Tenant),
		slog.String("reason", reason))
	g.roster.Dismiss(p, reason)
}

// tell logs what the minute has room for.
func (g *Gate) tell(which func(*minute) *quota, words string, attrs ...slog.Attr) {
	now := g.now()
	g.mu.Lock()
	before := g.minute.roll(now)
	line := which(&g.minute).note()
	g.mu.Unlock()
	g.log(before)
	if line {
		g.logger.LogAttrs(context.Background(), slog.LevelInfo, words, attrs...)
	}
}
