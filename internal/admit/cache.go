package admit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// CacheOptions configure a CachedSource. All of it may be left zero.
type CacheOptions struct {
	// Allow and Refuse are how long an answer serves without asking again. Zero is
	// 5 minutes and 30 seconds; negative is not at all.
	Allow, Refuse time.Duration
	// OnUnavailable is for when the source cannot tell. FallbackCached: an older Allow
	// serves. FallbackRefuse: nothing does but what would serve anyway. FallbackAdmit:
	// everybody is allowed, and asked about when the source is back. None of them
	// drops who is connected: the answer about others is Unavailable.
	OnUnavailable Fallback
	MaxAge        time.Duration // how old an Allow may be that serves while the source cannot tell; 0: 7 days
	Timeout       time.Duration // of one question, with the wait for a place; 0: 5 seconds
	Concurrency   int           // questions at once; 0: 8
	Memory        Memory        // where Allows are kept over restarts; nil: nowhere
	Logger        *slog.Logger  // hears when the source goes and comes back; nil: nobody does
	Now           func() time.Time
}

func (o CacheOptions) filled() CacheOptions {
	fill := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	fill(&o.Allow, 5*time.Minute)
	fill(&o.Refuse, 30*time.Second)
	fill(&o.MaxAge, 7*24*time.Hour)
	fill(&o.Timeout, 5*time.Second)
	if o.Concurrency <= 0 {
		o.Concurrency = 8
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Bounds of a CachedSource.
const (
	maxAnswers = 16384 // answers that are kept
	maxFlights = 1024  // questions under way or waiting for a place; about members, as many more
)

var (
	errNoAnswer = errors.New("no answer in time; hint: see whether what this source asks is up and quick")
	errCrowded  = errors.New("too many questions wait for this source; hint: see whether what it asks is slow")
	errStopped  = errors.New("the source has stopped; hint: the relay is on its way down or has just reloaded")
)

// CachedSource asks another source and keeps its answers. An answer is about the
// key: the address that was asked with does not count. Of several who want the same
// key at once, one question is asked, which goes on when they give up. It is safe
// for concurrent use.
type CachedSource struct {
	source    Source
	o         CacheOptions
	places    chan struct{} // one for each question under way
	strangers chan struct{} // of them those about keys that are not allowed: a flood leaves members some
	news      chan struct{} // holds one at most: there is something to save or to tell
	wake      chan struct{} // holds one at most: somebody is owed an answer
	back      chan struct{} // holds one at most: the source has come back
	life      context.Context
	end       context.CancelFunc
	work      sync.WaitGroup // of the flights

	mu      sync.Mutex
	answers table                   // guarded by mu
	flights map[key.Public]*flight  // guarded by mu
	owed    map[key.Public]Request  // guarded by mu; to be asked again in the background
	unsaved map[key.Public]struct{} // guarded by mu; differ from what Memory has
	flipped bool                    // guarded by mu; Serve is to call changed
	stopped bool                    // guarded by mu
	heard   bool                    // guarded by mu; the source has answered since the start
	down    bool                    // guarded by mu; its last question failed
	warned  time.Time               // guarded by mu; when Logger was told of that
	told    bool                    // guarded by mu; Logger knows that it is down
	report  CacheReport             // guarded by mu
}

// flight is one question. What it brings is written before done is closed.
type flight struct {
	begun   time.Time // guarded by mu; when the source was asked; zero: not yet
	done    chan struct{}
	verdict Verdict
	err     error // with it nothing can be told
}

// Cached returns a source that answers as s does and remembers. It reads what
// o.Memory has, and starts no goroutine: run Serve next to it. Questions that are
// under way end with Serve, or with their timeout.
func Cached(s Source, o CacheOptions) *CachedSource {
	o = o.filled()
	c := &CachedSource{
		source: s, o: o,
		places: make(chan struct{}, o.Concurrency), strangers: make(chan struct{}, max(1, o.Concurrency*3/4)),
		news: make(chan struct{}, 1), wake: make(chan struct{}, 1), back: make(chan struct{}, 1),
		answers: newTable(maxAnswers), flights: make(map[key.Public]*flight),
		owed: make(map[key.Public]Request), unsaved: make(map[key.Public]struct{}),
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.load()
	return c
}

// Name is that of the source.
func (c *CachedSource) Name() string { return c.source.Name() }

// Forwards reports whether the source does.
func (c *CachedSource) Forwards() bool {
	f, ok := c.source.(Forwarder)
	return ok && f.Forwards()
}

// Peek answers from memory when that serves without asking.
func (c *CachedSource) Peek(r Request) (Verdict, bool) {
	now := c.o.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peek(r, now)
}

// peek is Peek with mu held.
func (c *CachedSource) peek(r Request, now time.Time) (Verdict, bool) {
	a := c.answers.get(r.Key)
	switch {
	case a == nil:
		return Verdict{}, false
	case c.fresh(a, now):
		c.report.Cached++
		return a.verdict(), true
	case (c.down || !c.heard) && c.stale(a, now):
		c.report.Stale++
		c.owe(r)
		return a.verdict(), true
	}
	return Verdict{}, false
}

// fresh tells whether an answer serves without asking.
func (c *CachedSource) fresh(a *kept, now time.Time) bool {
	if a.allow {
		return now.Sub(a.at) < c.o.Allow
	}
	return now.Sub(a.at) < c.o.Refuse
}

// stale tells whether an answer serves while the source cannot tell.
func (c *CachedSource) stale(a *kept, now time.Time) bool {
	return a.allow && c.o.OnUnavailable == FallbackCached && now.Sub(a.at) < c.o.MaxAge
}

// Decide answers from memory or asks. The answer of a source that cannot tell is
// what OnUnavailable says.
func (c *CachedSource) Decide(ctx context.Context, r Request) (Verdict, error) {
	now := c.o.Now()
	c.mu.Lock()
	v, known := c.peek(r, now)
	if known {
		c.mu.Unlock()
		return v, nil
	}
	f, err := c.fly(r)
	c.mu.Unlock()
	if err != nil {
		return c.fallback(r, nil, err)
	}
	select {
	case <-f.done:
		if f.err != nil {
			return c.fallback(r, f, f.err)
		}
		return f.verdict, nil
	case <-ctx.Done():
		return c.fallback(r, f, errNoAnswer)
	}
}

// fallback answers for a source that could not tell because of err. That the source
// is crowded lets nobody in as long as it answers: else a flood of questions would.
func (c *CachedSource) fallback(r Request, f *flight, err error) (Verdict, error) {
	now := c.o.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := c.down
	switch {
	case errors.Is(err, errCrowded), errors.Is(err, errStopped):
	case errors.Is(err, errNoAnswer):
		failed = failed || !f.begun.IsZero() && now.Sub(f.begun) >= c.o.Timeout/2
	default:
		failed = true
	}
	a := c.answers.get(r.Key)
	switch {
	case a != nil && c.stale(a, now):
		c.report.Stale++
		c.owe(r)
		return a.verdict(), nil
	case c.o.OnUnavailable == FallbackAdmit && failed:
		c.report.Unchecked++
		c.owe(r)
		return Verdict{Answer: Allow}, nil
	}
	c.owe(r) // who was turned away for this is looked at again when the source is back
	return Verdict{Answer: Unavailable}, err
}

// owe has r asked in the background, with mu held. There is room for all members
// and some strangers; the rest is found by the gate's own look at everybody.
func (c *CachedSource) owe(r Request) {
	a := c.answers.get(r.Key)
	if c.stopped || len(c.owed) >= maxAnswers || len(c.owed) >= maxFlights && (a == nil || !a.allow) {
		return
	}
	c.owed[r.Key] = r
	signal(c.wake)
}

// fly returns the question about r that is under way, or begins one, with mu held.
func (c *CachedSource) fly(r Request) (*flight, error) {
	if f := c.flights[r.Key]; f != nil {
		return f, nil
	}
	if c.stopped {
		return nil, errStopped
	}
	a := c.answers.get(r.Key)
	member := a != nil && a.allow
	if n := len(c.flights); n >= maxFlights && !member || n >= 2*maxFlights {
		return nil, errCrowded
	}
	f := &flight{done: make(chan struct{})}
	c.flights[r.Key] = f
	c.work.Go(func() { c.ask(f, r, member) })
	return f, nil
}

// ask carries out one question. Waiting for a place is part of its time.
func (c *CachedSource) ask(f *flight, r Request, member bool) {
	ctx, cancel := context.WithTimeout(c.life, c.o.Timeout)
	defer cancel()
	began := c.o.Now()
	leave, entered := c.enter(ctx, member)
	now := c.o.Now()
	waited := now.Sub(began)
	if entered {
		c.mu.Lock()
		f.begun = now
		c.mu.Unlock()
		f.verdict, f.err = c.source.Decide(ctx, r)
		leave()
		if f.err == nil && f.verdict.Answer == Unavailable {
			f.err = errors.New("it cannot tell; hint: look at its own log")
		}
	} else {
		f.err = errCrowded
	}
	switch {
	case f.err == nil:
	case c.life.Err() != nil:
		f.err, entered = errStopped, false
	case ctx.Err() != nil && waited > c.o.Timeout/2: // it was not given the time to answer
		f.err, entered = errCrowded, false
	}
	c.land(f, r, entered)
	close(f.done)
}

// enter takes a place, unless ctx is done first.
func (c *CachedSource) enter(ctx context.Context, member bool) (leave func(), ok bool) {
	if !member {
		select {
		case c.strangers <- struct{}{}:
		case <-ctx.Done():
			return nil, false
		}
	}
	leave = func() {
		if !member {
			<-c.strangers
		}
	}
	select {
	case c.places <- struct{}{}:
		outer := leave
		leave = func() { <-c.places; outer() }
	case <-ctx.Done():
	}
	if ctx.Err() != nil { // a place that comes too late is none
		leave()
		return nil, false
	}
	return leave, true
}

// land keeps what a question has brought. What was not asked says nothing about
// the source.
func (c *CachedSource) land(f *flight, r Request, asked bool) {
	now := c.o.Now()
	c.mu.Lock()
	delete(c.flights, r.Key)
	var message string
	switch {
	case f.err != nil && !asked:
		c.report.Unavailable++
		c.report.LastError, c.report.LastErrorAt = f.err.Error(), now
	case f.err != nil:
		c.report.Asked++
		c.report.Unavailable++
		c.report.LastError, c.report.LastErrorAt = f.err.Error(), now
		c.down = true
		if !c.told && (c.warned.IsZero() || now.Sub(c.warned) >= time.Minute) {
			c.told, c.warned = true, now
			message = "a source of admission cannot tell"
		}
	default:
		c.report.Asked++
		c.report.LastAnswerAt = now
		c.keep(r.Key, f.verdict, now)
		if c.down {
			c.flipped = true // those who were told that nobody can tell
			signal(c.back)
			if c.told {
				message = "a source of admission answers again"
			}
		}
		c.heard, c.down, c.told = true, false, false
	}
	if c.flipped || len(c.unsaved) > 0 {
		signal(c.news)
	}
	c.mu.Unlock()
	switch {
	case message == "":
	case f.err != nil:
		c.o.Logger.Warn(message, "source", c.Name(), "err", f.err)
	default:
		c.o.Logger.Info(message, "source", c.Name())
	}
}

// keep remembers one answer, with mu held.
func (c *CachedSource) keep(k key.Public, v Verdict, now time.Time) {
	before := c.answers.get(k)
	allow := v.Answer == Allow
	if before != nil && before.allow != allow {
		c.flipped = true
	}
	if allow {
		c.report.Allowed++
	} else {
		c.report.Refused++
		if before != nil && before.allow {
			c.forget(k)
		}
	}
	delete(c.owed, k)
	gone := c.answers.put(k, kept{allow: allow, doubt: v.Doubtful, member: v.Member, at: now})
	for _, old := range gone {
		c.forget(old)
	}
	if allow && c.o.Memory != nil && c.answers.get(k).differs(before, c.saveAgain()) {
		c.unsaved[k] = struct{}{}
	}
}

// forget has Memory give up an Allow, with mu held.
func (c *CachedSource) forget(k key.Public) {
	if c.o.Memory != nil {
		c.unsaved[k] = struct{}{}
	}
}

// saveAgain is how much younger an Allow must be than the one in Memory to be
// written: what matters there is MaxAge, and disks wear.
func (c *CachedSource) saveAgain() time.Duration { return min(c.o.MaxAge/16, time.Hour) }

// signal puts a token into a channel that holds one at most.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// CacheReport is what a CachedSource tells of itself.
type CacheReport struct {
	Up          bool   `json:"up"`          // its last question was answered, or none was asked yet
	Asked       uint64 `json:"asked"`       // questions put to the source
	Allowed     uint64 `json:"allowed"`     // its answers
	Refused     uint64 `json:"refused"`     // its answers
	Unavailable uint64 `json:"unavailable"` // questions without an answer, those included for which there was no place
	Cached      uint64 `json:"cached"`      // answers given without asking
	Stale       uint64 `json:"stale"`       // older Allows given because the source could not tell
	Unchecked   uint64 `json:"unchecked"`   // peers allowed because the source could not tell
	Entries     int    `json:"entries"`     // answers in memory
	Members     int    `json:"members"`     // of them Allows
	Waiting     int    `json:"waiting"`     // questions under way

	LastError    string    `json:"last_error,omitempty"`
	LastErrorAt  time.Time `json:"last_error_at,omitzero"`
	LastAnswerAt time.Time `json:"last_answer_at,omitzero"`
	MemoryError  string    `json:"memory_error,omitempty"` // of the last try to read or save
}

// Report returns a CacheReport.
func (c *CachedSource) Report() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.report
	r.Up, r.Entries, r.Members, r.Waiting = !c.down, c.answers.len(), c.answers.members(), len(c.flights)
	return r
}
