package admit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Entry is one member on a list.
type Entry struct {
	Key    key.Public
	Member Member
}

// Lister knows all members at once.
type Lister interface {
	// Name is as Source.Name.
	Name() string
	// List returns the members as they are now, within ctx. A *RetryError says when
	// to come again.
	List(ctx context.Context) ([]Entry, error)
}

// RetryError is a Lister's wish not to be asked again for a while.
type RetryError struct {
	After time.Duration
	Err   error
}

// Error is that of the failure.
func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap returns the failure.
func (e *RetryError) Unwrap() error { return e.Err }

// Times of a ListSource.
const (
	DefaultRefresh = time.Minute
	DefaultMinGap  = 5 * time.Second
	DefaultMaxAge  = 7 * 24 * time.Hour
	listLimit      = 30 * time.Second // for one list
	longestBackoff = 5 * time.Minute
	longestRetry   = time.Hour // that a RetryError is heeded
)

// ListOptions configure a ListSource. All of them may be left zero.
type ListOptions struct {
	Refresh       time.Duration // between two lists; 0: DefaultRefresh
	MinGap        time.Duration // an unknown key asks for a list at once, but not sooner than this after the last; 0: DefaultMinGap
	OnUnavailable Fallback
	MaxAge        time.Duration // of a list that serves while no newer one is to be had; 0: DefaultMaxAge
	Memory        Memory        // keeps the list on disk; nil: nothing does
	Logger        *slog.Logger  // nil: silent
}

// ListSource is a Source that holds a Lister's members in memory. Serve must run:
// nothing is fetched otherwise.
type ListSource struct {
	lister Lister
	o      ListOptions
	wake   chan struct{} // holds one at most: a list is wanted at once

	// Owned by Serve.
	kept     map[key.Public]Member // what is on disk, as far as is known
	keptFull time.Time             // when all of it was written

	// Guarded by mu.
	mu        sync.Mutex
	members   map[key.Public]Member // never changed, only replaced
	at        time.Time             // of members; zero: there are none yet
	began     time.Time             // when the last list that has ended was asked for
	ended     time.Time             // when it came or failed
	failed    error                 // why it did; nil: it came
	heard     bool                  // a list came since the start
	notBefore time.Time             // the server does not want to be asked sooner
	done      chan struct{}         // closed when a list ends; then another is made

	refreshes, failures uint64
}

// NewList returns a source that starts with what is kept in o.Memory.
func NewList(l Lister, o ListOptions) *ListSource {
	if o.Refresh <= 0 {
		o.Refresh = DefaultRefresh
	}
	if o.MinGap <= 0 {
		o.MinGap = DefaultMinGap
	}
	if o.MaxAge <= 0 {
		o.MaxAge = DefaultMaxAge
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &ListSource{
		lister: l, o: o, wake: make(chan struct{}, 1), done: make(chan struct{}),
		members: map[key.Public]Member{}, kept: map[key.Public]Member{},
	}
	if o.Memory != nil {
		s.recall()
	}
	return s
}

// recall takes what was kept. An entry much older than the newest is one whose
// removal could not be written: all that are members are written every keepAge.
func (s *ListSource) recall() {
	kept, err := s.o.Memory.Load()
	if err != nil {
		s.o.Logger.Warn("cannot read what an admission source said before the start; who was a member waits until it answers; "+
			"hint: look at the state directory", "source", s.Name(), "err", err)
	}
	for _, stored := range kept {
		if stored.At.After(s.at) {
			s.at = stored.At
		}
	}
	for k, stored := range kept {
		s.kept[k] = stored.Member
		if s.at.Sub(stored.At) < 3*s.keepAge() {
			s.members[k] = stored.Member
		}
	}
}

// Name is the lister's.
func (s *ListSource) Name() string { return s.lister.Name() }

// Peek answers from the list in memory: for its members, and, while it is so new
// that no other is asked for, for all.
func (s *ListSource) Peek(r Request) (Verdict, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.members[r.Key]; ok && s.usable() {
		return Verdict{Answer: Allow, Member: m}, true
	}
	return Verdict{}, s.newerThan(time.Now().Add(-s.o.MinGap))
}

// usable reports whether the list may admit. The caller holds mu.
func (s *ListSource) usable() bool {
	if s.heard && s.failed == nil {
		return true
	}
	return s.o.OnUnavailable != FallbackRefuse && !s.at.IsZero() && time.Since(s.at) < s.o.MaxAge
}

// newerThan reports whether the last list came and was asked for at t or later. The
// caller holds mu.
func (s *ListSource) newerThan(t time.Time) bool {
	return s.heard && s.failed == nil && !s.began.Before(t)
}

// Decide asks for a new list when the key is on none, and waits for it: until a list
// has the key, or one that was asked for MinGap before the peer came, or later, has
// not. Should that one have been a moment too old, the next list promotes the peer.
func (s *ListSource) Decide(ctx context.Context, r Request) (Verdict, error) {
	if v, known := s.Peek(r); known {
		return v, nil
	}
	for came := time.Now(); ; {
		s.mu.Lock()
		m, listed := s.members[r.Key]
		usable, answered, failed, done := s.usable(), s.newerThan(came.Add(-s.o.MinGap)), s.failedLately(), s.done
		s.mu.Unlock()
		switch {
		case listed && usable:
			return Verdict{Answer: Allow, Member: m}, nil
		case answered:
			return Verdict{}, nil
		case failed != nil:
			return s.unavailable(failed)
		}
		select {
		case s.wake <- struct{}{}:
		default: // a list is wanted already
		}
		select {
		case <-done:
		case <-ctx.Done():
			return s.unavailable(errors.New("no list came in time"))
		}
	}
}

// failedLately is why the last list failed, as long as it is too early for another.
// The caller holds mu.
func (s *ListSource) failedLately() error {
	if s.failed != nil && (time.Since(s.ended) < s.o.MinGap || time.Now().Before(s.notBefore)) {
		return s.failed
	}
	return nil
}

func (s *ListSource) unavailable(err error) (Verdict, error) {
	if s.o.OnUnavailable == FallbackAdmit {
		return Verdict{Answer: Allow}, nil
	}
	return Verdict{Answer: Unavailable}, err
}

// Serve fetches lists until ctx is done. It calls changed when members came or
// went, and when the source can be asked again after a failure.
func (s *ListSource) Serve(ctx context.Context, changed func()) error {
	var wait time.Duration // the first list at once
	for failures := 0; ; {
		if !s.pause(ctx, wait) {
			return nil
		}
		if s.refresh(ctx) {
			changed()
		}
		s.mu.Lock()
		err := s.failed
		s.mu.Unlock()
		if err == nil {
			failures = 0
			wait = jitter(s.o.Refresh)
			continue
		}
		failures++
		wait = backoff(s.o.Refresh, failures, err)
	}
}

// pause waits, but no longer than until a list is wanted and MinGap has passed since
// the last. It reports false when ctx is done.
func (s *ListSource) pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-s.wake:
	}
	s.mu.Lock()
	gap := max(s.o.MinGap-time.Since(s.ended), time.Until(s.notBefore), 0)
	s.mu.Unlock()
	timer.Reset(gap)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// jitter spreads relays that were started together.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/10+1) }

func backoff(refresh time.Duration, failures int, err error) time.Duration {
	const most = 10    // doublings
	const shortCut = 5 // refreshes: whoever wants lists often waits less for a source that is back
	wait := min(time.Second<<min(failures, most), max(refresh, min(shortCut*refresh, longestBackoff)))
	wait = jitter(wait)
	if later, ok := errors.AsType[*RetryError](err); ok {
		wait = max(wait, min(later.After, longestRetry)) // not sooner
	}
	return wait
}

// refresh fetches a list once and reports whether answers may have changed.
func (s *ListSource) refresh(ctx context.Context) (changed bool) {
	select { // who wanted a list is served by this one, or asks again
	case <-s.wake:
	default:
	}
	began := time.Now()
	within, cancel := context.WithTimeout(ctx, listLimit)
	entries, err := s.lister.List(within)
	cancel()
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		s.took(began, nil, err)
		return false
	}
	members := make(map[key.Public]Member, len(entries))
	for _, e := range entries {
		if !e.Key.IsZero() {
			members[e.Key] = e.Member
		}
	}
	changed = s.took(began, members, nil)
	s.keep(members)
	return changed
}

// took puts a fetched list in the place of the old one, and lets those go on that
// wait. An empty list is believed: only an answer of the right form gets so far.
func (s *ListSource) took(began time.Time, members map[key.Public]Member, err error) (changed bool) {
	now := time.Now()
	s.mu.Lock()
	old, before, first := s.members, s.failed, !s.heard
	s.began, s.ended, s.failed, s.notBefore = began, now, err, time.Time{}
	if err == nil {
		s.refreshes++
		s.heard, s.members, s.at = true, members, now
	} else {
		s.failures++
		if later, ok := errors.AsType[*RetryError](err); ok {
			s.notBefore = now.Add(min(later.After, longestRetry))
		}
	}
	close(s.done)
	s.done = make(chan struct{})
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.o.Logger.Warn("an admission source cannot be asked; who is connected stays; hint: see the error", "source", s.Name(), "err", err)
	case err == nil && before != nil:
		s.o.Logger.Info("an admission source can be asked again", "source", s.Name(), "members", len(members))
	}
	return err == nil && (before != nil || first || !sameKeys(old, members))
}

func sameKeys(a, b map[key.Public]Member) bool {
	return maps.EqualFunc(a, b, func(Member, Member) bool { return true })
}

// keepAge is how old what is kept on disk may become before it is written again
// though nothing has changed: what matters there is MaxAge, and disks wear.
func (s *ListSource) keepAge() time.Duration { return min(s.o.MaxAge/16, time.Hour) }

// keep writes what differs from what is on disk; from time to time all of it, for its
// age. What could not be written is tried again after the next list.
func (s *ListSource) keep(members map[key.Public]Member) {
	if s.o.Memory == nil {
		return
	}
	now := time.Now()
	all := now.Sub(s.keptFull) >= s.keepAge()
	allowed := make(map[key.Public]Stored)
	for k, m := range members {
		if before, ok := s.kept[k]; all || !ok || !equalMembers(before, m) {
			allowed[k] = Stored{Member: m, At: now}
		}
	}
	var gone []key.Public
	for k := range s.kept {
		if _, ok := members[k]; !ok {
			gone = append(gone, k)
		}
	}
	if len(allowed)+len(gone) == 0 {
		return
	}
	if err := s.o.Memory.Save(allowed, gone); err != nil {
		s.o.Logger.Warn("cannot keep what an admission source said, and tries again; after a restart it would not be known", "source", s.Name(), "err", err)
		return
	}
	s.kept = members
	if all {
		s.keptFull = now
	}
}

func equalMembers(a, b Member) bool {
	return a.Name == b.Name && a.User == b.User && fmt.Sprint(a.Tags) == fmt.Sprint(b.Tags)
}

// ListReport are the figures of a ListSource.
type ListReport struct {
	Members    int    `json:"members"`
	AgeSeconds int64  `json:"age_seconds"` // of the list; -1: there is none
	Refreshes  uint64 `json:"refreshes"`   // lists that came
	Failures   uint64 `json:"failures"`    // and that did not
	Error      string `json:"error,omitempty"`
}

// Report returns the figures.
func (s *ListSource) Report() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := ListReport{Members: len(s.members), AgeSeconds: -1, Refreshes: s.refreshes, Failures: s.failures}
	if !s.at.IsZero() {
		r.AgeSeconds = int64(time.Since(s.at).Seconds())
	}
	if s.failed != nil {
		r.Error = s.failed.Error()
	}
	return r
}
