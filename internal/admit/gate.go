package admit

import (
	"context"
	"errors"
	"fmt"
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
	ReasonDenied      = "denied"      // the operator has denied this key
	ReasonBanned      = "banned"      // the operator has banned this key or address
	ReasonMoved       = "moved"       // another tenant's by now: of a disconnection, never of a refusal
	ReasonOver        = "over"        // the time of a guest is over: of a disconnection too
)

// decideLimit bounds one decision. Clients wait 10 seconds for a login.
const decideLimit = 5 * time.Second

// DefaultHint tells the operator how to let a refused peer in. KeyInHint in it
// stands for the peer's key.
const DefaultHint = "let this peer in with --admit-key " + KeyInHint + ", or everyone with --admit any"

// KeyInHint is replaced by "nodekey:" and 64 hex digits wherever it occurs in a hint.
const KeyInHint = "{key}"

// Rules are what the operator has said of single peers; they come before all
// sources. They are safe for concurrent use and never wait.
type Rules interface {
	// Bars returns ReasonDenied or ReasonBanned for a peer that may not connect
	// whatever the sources say, and otherwise "".
	Bars(r Request) (reason string)
}

// Options configure a Gate. Everything in it may be left zero: that gate is
// closed and silent.
type Options struct {
	Tenants []Tenant // asked in this order; none: closed
	Isolate bool     // each tenant is a realm of its own
	Lobby   bool     // refused peers may wait, and are told why
	Rules   Rules    // nil: none
	Roster  Roster   // nil: nobody is looked at again
	Recheck time.Duration
	Logger  *slog.Logger     // hears of refusals; nil: nobody does
	Hint    string           // how to let a peer in, see KeyInHint; empty: DefaultHint
	Now     func() time.Time // must not go backwards; nil: time.Now
}

// Gate admits a peer when one of its tenants does. It reports a refused key with
// one line, ten keys a minute at most, and what is beyond with one summary for
// that minute. It is safe for concurrent use.
type Gate struct {
	tenants      []Tenant
	vouching     []Tenant // what Vouch asks
	isolate      bool
	lobby        bool
	rules        Rules
	roster       Roster
	recheckEvery time.Duration
	logger       *slog.Logger
	hint         string
	now          func() time.Time

	generation atomic.Uint64 // of all that decides: raised with every change
	changes    chan struct{} // holds one at most: a look is due
	pending    *pending
	guests     *guests

	admitted  []atomic.Uint64 // by tenant; outside mu: the way in takes no lock
	promoted  atomic.Uint64
	dismissed atomic.Uint64

	mu      sync.Mutex
	refused map[string]uint64 // guarded by mu; by reason
	minute  minute            // guarded by mu
}

// NewGate returns a gate whose first minute of reports begins now. It starts no
// goroutine: run Serve next to it.
func NewGate(o Options) *Gate {
	g := &Gate{
		tenants: slices.Clone(o.Tenants), isolate: o.Isolate, lobby: o.Lobby, rules: o.Rules, roster: o.Roster,
		recheckEvery: o.Recheck, logger: o.Logger, hint: o.Hint, now: o.Now,
		changes: make(chan struct{}, 1), pending: newPending(), guests: newGuests(), admitted: make([]atomic.Uint64, len(o.Tenants)),
		// Every reason is there from the start, so that a counter does not
		// appear only at its first event.
		refused: map[string]uint64{ReasonClosed: 0, ReasonNotListed: 0, ReasonUnavailable: 0, ReasonDenied: 0, ReasonBanned: 0},
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
	if g.recheckEvery <= 0 {
		g.recheckEvery = DefaultRecheck
	}
	g.vouching = own(g.tenants)
	g.minute = newMinute(g.now())
	return g
}

// Decision is what the Gate says of one peer.
type Decision struct {
	Admitted bool
	Reason   string // of a refusal: one of the Reason constants
	Text     string // for a refused peer that may wait: what it is told; empty: it may not
	Tenant   string // of an admitted peer
	Realm    uint32 // peers of different realms are kept apart
	Member   Member // what is known of an admitted peer
	Ticket   uint64 // for Seated

	unsure   map[string]bool // tenants that could not tell
	failure  string          // which sources could not tell, and why
	doubtful bool            // a refusal that cuts nobody off
	tenant   int             // of an admitted peer; noTenant: it is a guest
}

const noTenant = -1

// Admit decides about one peer. It takes as long as the sources take, at most
// five seconds, and they stop when ctx is done. A refusal is counted, logged and
// remembered among Pending.
func (g *Gate) Admit(ctx context.Context, peer key.Public, addr netip.Addr) Decision {
	r := Request{Key: peer, Addr: addr.Unmap()}
	d, sure := g.peek(r)
	if !sure {
		d = g.decide(ctx, r)
	}
	switch {
	case !d.Admitted:
		g.refuse(r, d)
	case d.tenant == noTenant:
		g.guests.came()
	default:
		g.admitted[d.tenant].Add(1)
	}
	return d
}

// Vouch answers another relay's question about a key. Sources that ask another
// relay themselves (Forwarder) are left out, so that no two relays ask each other
// without end. The error says which sources could not tell, when none allowed.
func (g *Gate) Vouch(ctx context.Context, peer key.Public, addr netip.Addr) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, decideLimit)
	defer cancel()
	r := Request{Key: peer, Addr: addr.Unmap()}
	if _, barred := g.barred(r); barred {
		return false, nil
	}
	o := ask(ctx, g.vouching, r)
	if o.answer == Unavailable {
		return false, fmt.Errorf("cannot tell now: %s", o.failure())
	}
	return o.answer == Allow, nil
}

// own returns the tenants without sources that ask another relay. A tenant of
// which all must allow vouches for nobody without one of them.
func own(tenants []Tenant) (list []Tenant) {
	for _, t := range tenants {
		kept := slices.Clone(t.Sources)
		kept = slices.DeleteFunc(kept, func(s Source) bool { f, ok := s.(Forwarder); return ok && f.Forwards() })
		if len(kept) == len(t.Sources) || !t.AllOf {
			t.Sources = kept
			list = append(list, t)
		}
	}
	return list
}

// decide is a decision without its consequences, within decideLimit.
func (g *Gate) decide(ctx context.Context, r Request) Decision {
	ctx, cancel := context.WithTimeout(ctx, decideLimit)
	defer cancel()
	ticket := g.generation.Load()
	d, settled := g.unasked(r)
	if !settled {
		d = g.decision(r, ask(ctx, g.tenants, r))
	}
	d.Ticket = ticket
	return d
}

// peek is decide as far as it takes no waiting. It reports false where that would
// be needed.
func (g *Gate) peek(r Request) (Decision, bool) {
	ticket := g.generation.Load()
	if d, settled := g.unasked(r); settled {
		d.Ticket = ticket
		return d, true
	}
	o := outcome{}
	for i := range g.tenants {
		o.sources = o.sources || len(g.tenants[i].Sources) > 0
		now, sure := g.tenants[i].peek(r)
		if !sure {
			return Decision{}, false
		}
		if now.answer == Allow {
			o.answer, o.tenant, o.member = Allow, i, now.member
			break
		}
		o.doubt = o.doubt || now.doubt
	}
	d := g.decision(r, o)
	d.Ticket = ticket
	return d, true
}

// unasked is the decision about those whom no source is asked about.
func (g *Gate) unasked(r Request) (Decision, bool) {
	if d, ok := g.invited(r.Key); ok {
		return d, true
	}
	return g.barred(r)
}

// barred is the operator's own refusal of r, if there is one.
func (g *Gate) barred(r Request) (Decision, bool) {
	if g.rules == nil {
		return Decision{}, false
	}
	reason := g.rules.Bars(r)
	if reason == "" {
		return Decision{}, false
	}
	return Decision{Reason: reason, Text: g.text(r, reason)}, true
}

// decision is what the tenants' word comes to.
func (g *Gate) decision(r Request, o outcome) Decision {
	d := Decision{unsure: o.unsure, failure: o.failure(), doubtful: o.doubt && o.answer == Refuse}
	switch {
	case o.answer == Allow:
		d.Admitted, d.Tenant, d.Member, d.tenant = true, g.tenants[o.tenant].Name, o.member, o.tenant
		if g.isolate {
			d.Realm = uint32(o.tenant) + 1
		}
		return d
	case o.answer == Unavailable:
		d.Reason = ReasonUnavailable
	case !o.sources:
		d.Reason = ReasonClosed
	default:
		d.Reason = ReasonNotListed
	}
	d.Text = g.text(r, d.Reason)
	return d
}

// text is what a refused client is told while it waits, or "" where it may not.
// Clients show it to their user, who can do something about it.
func (g *Gate) text(r Request, reason string) string {
	if !g.lobby {
		return ""
	}
	switch reason {
	case ReasonNotListed, ReasonClosed:
		return "This relay does not know your node yet: ask its operator to allow " + r.Key.String()
	case ReasonUnavailable:
		return "This relay cannot check your node right now. It tries again by itself; if this lasts, tell its operator about " + r.Key.String()
	case ReasonDenied:
		return "The operator of this relay has refused your node: ask them about " + r.Key.String()
	}
	return "" // who is banned is not talked to
}

// refuse counts and remembers a refusal, and logs what the minute has room for.
func (g *Gate) refuse(r Request, d Decision) {
	now := g.now()
	if d.Reason != ReasonDenied && d.Reason != ReasonBanned { // those the operator knows
		g.pending.note(r, d.Reason, now)
	}
	g.mu.Lock()
	g.refused[d.Reason]++
	before := g.minute.roll(now)
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
		slog.String("reason", d.Reason),
		slog.String("hint", g.hintFor(d.Reason, peer)),
	}
	if d.failure != "" {
		attrs = append(attrs, slog.String("err", d.failure))
	}
	g.logger.LogAttrs(context.Background(), slog.LevelWarn, "peer refused", attrs...)
}

func (g *Gate) hintFor(reason, peer string) string {
	switch reason {
	case ReasonDenied:
		return "you have denied this key; detour admit revoke " + peer + " takes that back"
	case ReasonBanned:
		return "you have banned this key or address; detour ban --list shows for how long"
	}
	return strings.ReplaceAll(g.hint, KeyInHint, peer)
}

// Pending returns the keys that were refused lately, the last to try first: at
// most 1024, and 8 from one IPv4 address or IPv6 /64.
func (g *Gate) Pending() []Pending { return g.pending.list() }

// Forget takes a key out of Pending, as when the operator has decided about it.
func (g *Gate) Forget(k key.Public) { g.pending.forget(k) }

func (g *Gate) log(s summary) {
	if s.promoted > 0 {
		g.logger.Info(fmt.Sprintf("%d more waiting peers were admitted within a minute", s.promoted))
	}
	if s.dismissed > 0 {
		g.logger.Info(fmt.Sprintf("%d more connected peers were not admitted any more and were disconnected within a minute", s.dismissed))
	}
	if s.refusals == 0 {
		return
	}
	g.logger.LogAttrs(context.Background(), slog.LevelWarn, s.String(),
		slog.Uint64("refusals", s.refusals), slog.Int("keys", s.keys))
}

// Serve runs the sources, looks at everybody again when something has changed and
// from time to time, and ends each minute of refusals on time. It blocks until ctx
// is done, then logs the summary of the unfinished minute and returns nil. When a
// source's own work fails, all ends with that error.
func (g *Gate) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	for _, t := range g.tenants {
		for _, s := range t.Sources {
			runner, ok := s.(Runner)
			if !ok {
				continue
			}
			work.Go(func() {
				if err := runner.Serve(ctx, g.Changed); err != nil {
					cancel(fmt.Errorf("%s: %w", s.Name(), err))
				}
			})
		}
	}
	if g.roster != nil {
		work.Go(func() { g.rechecker(ctx) })
		work.Go(func() { g.endGuests(ctx) })
	}
	g.minutes(ctx)
	work.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// minutes ends each minute on time until ctx is done, and then the last one.
func (g *Gate) minutes(ctx context.Context) {
	timer := time.NewTimer(g.untilNextMinute())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			g.mu.Lock()
			last := g.minute.end()
			g.mu.Unlock()
			g.log(last)
			return
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
	Admitted  uint64            `json:"admitted"`  // logins, not distinct peers
	Promoted  uint64            `json:"promoted"`  // peers admitted while they waited
	Dismissed uint64            `json:"dismissed"` // connected peers that were not admitted any more
	Refused   map[string]uint64 `json:"refused"`   // logins by reason; every reason is present
	Pending   int               `json:"pending"`   // refused keys that are remembered
	Guests    int               `json:"guests"`    // probes' keys that are let in now
	Probes    uint64            `json:"probes"`    // logins of guests; not among Admitted
	Tenants   []TenantStats     `json:"tenants"`   // in the order they are asked; empty when closed
}

// TenantStats are those of one tenant.
type TenantStats struct {
	Name     string         `json:"name"`     // empty: the relay's own
	Admitted uint64         `json:"admitted"` // logins
	Sources  []string       `json:"sources"`  // names, in the order of the settings
	Reports  map[string]any `json:"reports,omitempty"`
	// Troubles says by the source's name what is wrong with it.
	Troubles map[string]string `json:"troubles,omitempty"`
}

// Stats returns a copy that the caller owns.
func (g *Gate) Stats() Stats {
	st := Stats{Promoted: g.promoted.Load(), Dismissed: g.dismissed.Load(), Pending: g.pending.len(), Tenants: []TenantStats{}}
	st.Guests, st.Probes = g.guests.stats()
	for i, t := range g.tenants {
		n := g.admitted[i].Load()
		st.Admitted += n
		ts := TenantStats{Name: t.Name, Admitted: n, Sources: []string{}}
		for _, s := range t.Sources {
			ts.Sources = append(ts.Sources, s.Name())
			if troubled, ok := s.(Troubled); ok {
				if text := troubled.Trouble(); text != "" {
					if ts.Troubles == nil {
						ts.Troubles = make(map[string]string)
					}
					ts.Troubles[s.Name()] = text
				}
			}
			if r, ok := s.(Reporter); ok {
				if ts.Reports == nil {
					ts.Reports = make(map[string]any)
				}
				ts.Reports[s.Name()] = r.Report()
			}
		}
		st.Tenants = append(st.Tenants, ts)
	}
	g.mu.Lock()
	st.Refused = maps.Clone(g.refused)
	g.mu.Unlock()
	return st
}
