package mapkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
)

const (
	// lookEvery is how often the sources of addresses are asked.
	lookEvery = time.Minute
	// confirmAfter is when they are asked again about what is new.
	confirmAfter = 20 * time.Second
	// lookLimit bounds one look at all of them.
	lookLimit = 15 * time.Second
	// unseenAfter is how long nothing may be seen before that is a problem.
	unseenAfter = 15 * time.Minute
)

// Sight is what a source knows of one family.
type Sight struct {
	Addr  netip.Addr // invalid: none, if Known
	Known bool       // false: the source could not tell
}

// Seen is what one look brought.
type Seen struct{ IPv4, IPv6 Sight }

// AddressSource says at which public addresses this machine is.
type AddressSource struct {
	Name string
	// Look is given what is published now, which it prefers among several that serve
	// as well. What it returns counts even beside an error.
	Look func(ctx context.Context, now derpmap.Addresses) (Seen, error)
}

// FollowOptions are what a Follower needs.
type FollowOptions struct {
	Sources  []AddressSource // the first that knows an address of a family decides
	StateDir string          // keeps the last addresses, in DirName
	// Changed hears of other addresses after they are kept. It must not wait. Nil: nobody does.
	Changed func(before, now derpmap.Addresses)
	Logger  *slog.Logger // nil: silent
}

// Follower knows the public addresses of a machine while they change. A new one
// counts once it was seen at two looks in a row, and what nobody can tell stays.
type Follower struct {
	file    string
	changed func(before, now derpmap.Addresses)
	log     *slog.Logger
	woken   chan struct{}

	mu       sync.Mutex
	sources  []AddressSource   // Guarded by mu.
	now      derpmap.Addresses // Guarded by mu. Private is empty.
	known    bool              // Guarded by mu; now is what was seen once.
	seen     time.Time         // Guarded by mu; when now was last confirmed.
	problem  error             // Guarded by mu; why the last look did not confirm it.
	begun    time.Time         // Guarded by mu.
	ipv4, v6 candidate         // Guarded by mu.
}

// candidate is a new address that was seen once.
type candidate struct {
	addr netip.Addr
	any  bool
}

// kept is the file.
type keptAddresses struct {
	IPv4 netip.Addr `json:"ipv4"`
	IPv6 netip.Addr `json:"ipv6"`
	Seen time.Time  `json:"seen"`
}

func addressFile(stateDir string) string { return filepath.Join(stateDir, DirName, "address.json") }

// KeptAddresses are the last that a relay with this state directory has seen; false:
// it has seen none.
func KeptAddresses(stateDir string) (a derpmap.Addresses, ok bool) {
	var k keptAddresses
	if err := readJSON(addressFile(stateDir), &k); err != nil {
		return derpmap.Addresses{}, false
	}
	return derpmap.Addresses{IPv4: k.IPv4, IPv6: k.IPv6}, true
}

// NewFollower takes up what was last seen. It looks for nothing yet.
func NewFollower(o FollowOptions) *Follower {
	f := &Follower{file: addressFile(o.StateDir), changed: o.Changed, log: o.Logger, woken: make(chan struct{}, 1), sources: o.Sources, begun: time.Now()}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.changed == nil {
		f.changed = func(_, _ derpmap.Addresses) {}
	}
	var k keptAddresses
	if err := readJSON(f.file, &k); err == nil {
		f.now, f.seen, f.known = derpmap.Addresses{IPv4: k.IPv4, IPv6: k.IPv6}, k.Seen, true
	}
	return f
}

// Set puts other sources in the place of those that there are.
func (f *Follower) Set(sources []AddressSource) {
	f.mu.Lock()
	f.sources, f.begun, f.problem = sources, time.Now(), nil
	f.mu.Unlock()
	select {
	case f.woken <- struct{}{}:
	default:
	}
}

// Addresses are those to publish; false: no source is set, or none has told yet.
func (f *Follower) Addresses() (derpmap.Addresses, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now, f.known && len(f.sources) > 0
}

// Serve looks every minute until ctx is done.
func (f *Follower) Serve(ctx context.Context) error {
	for {
		wait := lookEvery
		if f.Look(ctx) {
			wait = confirmAfter
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-f.woken:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// Look asks the sources once. It reports whether something new was seen that a
// second look has to confirm. The very first addresses count at once.
func (f *Follower) Look(ctx context.Context) (again bool) {
	f.mu.Lock()
	sources, now := f.sources, f.now
	f.mu.Unlock()
	if len(sources) == 0 {
		return false
	}
	limited, cancel := context.WithTimeout(ctx, lookLimit)
	seen, err := lookAt(limited, sources, now)
	cancel()
	if ctx.Err() != nil {
		return false
	}
	return f.take(seen, err)
}

// lookAt asks the sources in turn for what those before do not know.
func lookAt(ctx context.Context, sources []AddressSource, now derpmap.Addresses) (all Seen, failed error) {
	for i, s := range sources {
		got, err := s.Look(ctx, now)
		if err != nil && failed == nil {
			failed = fmt.Errorf("%s: %w", s.Name, err)
		}
		all.IPv4, all.IPv6 = join(all.IPv4, got.IPv4, i == 0), join(all.IPv6, got.IPv6, i == 0)
		if all.IPv4.Addr.IsValid() && all.IPv6.Addr.IsValid() {
			break
		}
	}
	return all, failed
}

// join keeps an address that is there. None is known only if all know it.
func join(before, next Sight, first bool) Sight {
	switch {
	case first || next.Addr.IsValid() && !before.Addr.IsValid():
		return next
	case before.Addr.IsValid():
		return before
	}
	return Sight{Known: before.Known && next.Known}
}

// take weighs what was seen, and publishes what is settled.
func (f *Follower) take(seen Seen, err error) (again bool) {
	f.mu.Lock()
	before, had := f.now, f.known
	told := f.problem
	f.problem = err
	if !seen.IPv4.Known && !seen.IPv6.Known && err == nil {
		f.problem = errors.New("nobody knows an address")
	}
	v4, more4 := f.ipv4.weigh(before.IPv4, seen.IPv4, !had)
	v6, more6 := f.v6.weigh(before.IPv6, seen.IPv6, !had)
	if seen.IPv4.Addr.IsValid() || seen.IPv6.Addr.IsValid() {
		f.now, f.known = derpmap.Addresses{IPv4: v4, IPv6: v6}, true
		f.seen = time.Now()
	}
	now, problem := f.now, f.problem
	differs := now.IPv4 != before.IPv4 || now.IPv6 != before.IPv6
	known, at := f.known, f.seen
	f.mu.Unlock()

	if problem != nil && (told == nil || told.Error() != problem.Error()) {
		f.log.Warn("cannot see all of the public address; what is known of it stays", "err", problem)
	}
	if !differs {
		return more4 || more6
	}
	f.log.Info("the public address is another", "ipv4", now.IPv4, "ipv6", now.IPv6, "old_ipv4", before.IPv4, "old_ipv6", before.IPv6)
	if known {
		if err := writeJSON(f.file, keptAddresses{now.IPv4, now.IPv6, at.UTC()}); err != nil {
			f.log.Error("the public address cannot be kept for the next start, nor for detour map", "err", err)
		}
	}
	f.changed(before, now)
	return more4 || more6
}

// weigh returns the address that counts from now on, and whether another look should
// come soon.
func (c *candidate) weigh(now netip.Addr, seen Sight, first bool) (counts netip.Addr, again bool) {
	switch {
	case !seen.Known || seen.Addr == now:
		*c = candidate{}
		return now, false
	case first || c.any && c.addr == seen.Addr:
		*c = candidate{}
		return seen.Addr, false
	}
	*c = candidate{seen.Addr, true}
	return now, true
}

// AddressStats are the facts about the public address.
type AddressStats struct {
	IPv4       string  `json:"ipv4,omitempty"`
	IPv6       string  `json:"ipv6,omitempty"`
	AgeSeconds float64 `json:"age_seconds"` // since it was last seen; -1: never
	Error      string  `json:"error,omitempty"`
}

// Stats are nil without sources.
func (f *Follower) Stats() *AddressStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.sources) == 0 {
		return nil
	}
	s := &AddressStats{AgeSeconds: -1}
	if f.known {
		s.AgeSeconds = time.Since(f.seen).Seconds()
	}
	if f.now.IPv4.IsValid() {
		s.IPv4 = f.now.IPv4.String()
	}
	if f.now.IPv6.IsValid() {
		s.IPv6 = f.now.IPv6.String()
	}
	if f.problem != nil {
		s.Error = f.problem.Error()
	}
	return s
}

// Problems says so when nothing was seen for too long.
func (f *Follower) Problems(now time.Time) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := f.begun
	if f.seen.After(since) {
		since = f.seen
	}
	if len(f.sources) == 0 || now.Sub(since) < unseenAfter {
		return nil
	}
	what := "the last one stays published"
	if !f.known {
		what = "none is known"
	}
	return []string{fmt.Sprintf("the public address has not been seen for %v, and %s: %v", now.Sub(since).Truncate(time.Minute), what, f.problem)}
}

// pick chooses among the addresses of a host: what is published now, if it is still
// among them, and else as derpmap.Choose does. Those that the internet cannot reach
// are no choice.
func pick(addrs []netip.Addr, now derpmap.Addresses) derpmap.Addresses {
	chosen := derpmap.Choose(addrs)
	has := func(ip netip.Addr) bool {
		return ip.IsValid() && slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap().WithZone("") == ip })
	}
	if has(now.IPv4) {
		chosen.IPv4 = now.IPv4
	}
	if has(now.IPv6) {
		chosen.IPv6 = now.IPv6
	}
	return chosen
}
