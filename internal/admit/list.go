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

	mu      sync.Mutex
	members map[key.Public]Member // guarded by mu; never changed, only replaced
	at      time.Time             // guarded by mu; of members; zero: there are none yet
	tried   time.Time             // guarded by mu; when the last list was asked for
	failed  error                 // guarded by mu; nil when the last one came
	heard   bool                  // guarded by mu; a list came since the start
	next    chan struct{}         // guarded by mu; closed when the next list has come or failed; nil: nobody waits

	refreshes, failures uint64 // guarded by mu
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
	s := &ListSource{lister: l, o: o, wake: make(chan struct{}, 1), members: map[key.Public]Member{}}
	if o.Memory == nil {
		return s
	}
	kept, err := o.Memory.Load()
	if err != nil {
		o.Logger.Warn("cannot read what an admission source said before the start", "source", l.Name(), "err", err)
	}
	for k, stored := range kept {
		s.members[k] = stored.Member
		if stored.At.After(s.at) {
			s.at = stored.At
		}
	}
	return s
}

// Name is the lister's.
func (s *ListSource) Name() string { return s.lister.Name() }

// Peek answers from the list in memory: for its members, and, while it is too early
// to ask for another, for all.
func (s *ListSource) Peek(r Request) (Verdict, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.members[r.Key]; ok && s.usable() {
		return Verdict{Allow, m}, true
	}
	if s.failed == nil && s.heard && time.Since(s.tried) < s.o.MinGap {
		return Verdict{}, true
	}
	return Verdict{}, false
}

// usable reports whether the list may admit. The caller holds mu.
func (s *ListSource) usable() bool {
	if s.heard && s.failed == nil {
		return true
	}
	return s.o.OnUnavailable != FallbackRefuse && !s.at.IsZero() && time.Since(s.at) < s.o.MaxAge
}

// Decide asks for a new list when the key is on none, and waits for it.
func (s *ListSource) Decide(ctx context.Context, r Request) (Verdict, error) {
	if v, known := s.Peek(r); known {
		return v, nil
	}
	select {
	case <-s.wantList():
	case <-ctx.Done():
		return s.unavailable(errors.New("no list came in time"))
	}
	s.mu.Lock()
	m, listed := s.members[r.Key]
	usable, failed := s.usable(), s.failed
	s.mu.Unlock()
	switch {
	case listed && usable:
		return Verdict{Allow, m}, nil
	case failed != nil:
		return s.unavailable(failed)
	}
	return Verdict{}, nil
}

func (s *ListSource) unavailable(err error) (Verdict, error) {
	if s.o.OnUnavailable == FallbackAdmit {
		return Verdict{Answer: Allow}, nil
	}
	return Verdict{Answer: Unavailable}, err
}

// wantList has Serve fetch a list soon. The channel is closed afterwards.
func (s *ListSource) wantList() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(chan struct{})
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return s.next
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
	gap := s.o.MinGap - time.Since(s.tried)
	s.mu.Unlock()
	timer.Reset(max(0, gap))
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
	const most = 10 // doublings
	wait := min(time.Second<<min(failures, most), max(refresh, longestBackoff))
	if later, ok := errors.AsType[*RetryError](err); ok {
		wait = max(wait, min(later.After, longestRetry))
	}
	return jitter(wait)
}

// refresh fetches a list once and reports whether answers may have changed.
func (s *ListSource) refresh(ctx context.Context) (changed bool) {
	s.mu.Lock()
	s.tried = time.Now()
	waiting := s.next
	s.next = nil
	select { // what wanted this one
	case <-s.wake:
	default:
	}
	s.mu.Unlock()
	within, cancel := context.WithTimeout(ctx, listLimit)
	entries, err := s.lister.List(within)
	cancel()
	if ctx.Err() == nil {
		changed = s.take(entries, err)
	}
	if waiting != nil {
		close(waiting)
	}
	return changed
}

// take puts a fetched list in the place of the old one.
func (s *ListSource) take(entries []Entry, err error) (changed bool) {
	members := make(map[key.Public]Member, len(entries))
	for _, e := range entries {
		if !e.Key.IsZero() {
			members[e.Key] = e.Member
		}
	}
	now := time.Now()
	s.mu.Lock()
	s.tried = now
	old, before, first := s.members, s.failed, !s.heard
	s.failed = err
	if err != nil {
		s.failures++
		s.mu.Unlock()
		if before == nil {
			s.o.Logger.Warn("an admission source cannot be asked; who is connected stays; hint: see the error", "source", s.Name(), "err", err)
		}
		return false
	}
	s.refreshes++
	s.heard, s.members, s.at = true, members, now
	s.mu.Unlock()
	if before != nil {
		s.o.Logger.Info("an admission source can be asked again", "source", s.Name(), "members", len(members))
	}
	s.keep(old, members, now, first)
	return before != nil || first || !sameKeys(old, members)
}

func sameKeys(a, b map[key.Public]Member) bool {
	return maps.EqualFunc(a, b, func(Member, Member) bool { return true })
}

// keepAge is how old what is kept on disk may become before it is written again
// though nothing has changed.
const keepAge = time.Hour

// keep writes what has changed to Memory; now and then all of it, for its age.
func (s *ListSource) keep(old, members map[key.Public]Member, now time.Time, all bool) {
	if s.o.Memory == nil {
		return
	}
	all = all || now.Truncate(keepAge) != now.Add(-s.o.Refresh).Truncate(keepAge)
	allowed := make(map[key.Public]Stored)
	for k, m := range members {
		if before, ok := old[k]; all || !ok || !equalMembers(before, m) {
			allowed[k] = Stored{Member: m, At: now}
		}
	}
	var gone []key.Public
	for k := range old {
		if _, ok := members[k]; !ok {
			gone = append(gone, k)
		}
	}
	if len(allowed)+len(gone) == 0 {
		return
	}
	if err := s.o.Memory.Save(allowed, gone); err != nil {
		s.o.Logger.Warn("cannot keep what an admission source said", "source", s.Name(), "err", err)
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
