package admit

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Times of a CachedSource's own work.
const (
	saveEvery  = time.Second // one batch of saving, and one call of changed, at most
	tidyEvery  = time.Minute // what is too old for anything goes; a failed saving is tried again
	firstRetry = time.Second // the source was down: doubled up to lastRetry
	lastRetry  = 30 * time.Second
)

// load takes over what Memory has. It runs in the constructor.
func (c *CachedSource) load() {
	if c.o.Memory == nil {
		return
	}
	stored, err := c.o.Memory.Load()
	if err != nil {
		c.report.MemoryError = err.Error()
		c.o.Logger.Warn("the stored answers of a source cannot be read; it starts without them", "source", c.Name(), "err", err)
		return
	}
	now := c.o.Now()
	keys := make([]key.Public, 0, len(stored))
	for k := range stored {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key.Public) int { return stored[a].At.Compare(stored[b].At) })
	for _, k := range keys {
		s := stored[k]
		if s.At.After(now) { // the clock was set back
			s.At = now
		}
		if now.Sub(s.At) >= c.o.MaxAge {
			c.forget(k)
			continue
		}
		for _, old := range c.answers.put(k, kept{allow: true, member: s.Member, at: s.At, saved: s.At}) {
			c.forget(old)
		}
	}
	if len(c.unsaved) > 0 {
		signal(c.news)
	}
}

// Serve saves what Memory should have, asks again for those who were answered
// without the source, and calls changed when an answer is another one or the source
// comes back. It blocks until ctx is done, then ends what is under way, saves the
// rest and returns nil. A source with work of its own does it meanwhile; an error of
// that is Serve's. It is called once.
func (c *CachedSource) Serve(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	var own sync.WaitGroup
	var failure error
	if runner, ok := c.source.(Runner); ok {
		own.Go(func() {
			if failure = runner.Serve(ctx, changed); failure != nil {
				cancel()
			}
		})
	}
	own.Go(func() { c.reask(ctx) })
	c.attend(ctx, changed)
	cancel()
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.end()
	own.Wait()
	c.work.Wait()
	c.save()
	return failure
}

// attend saves and tells, in batches, until ctx is done.
func (c *CachedSource) attend(ctx context.Context, changed func()) {
	tidy := time.NewTicker(tidyEvery)
	defer tidy.Stop()
	saved := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-tidy.C:
			c.tidy()
			saved = c.save()
		case <-c.news:
			c.mu.Lock()
			tell := c.flipped
			c.flipped = false
			c.mu.Unlock()
			if tell {
				changed()
			}
			if saved {
				saved = c.save()
			}
			pause(ctx, saveEvery, nil)
		}
	}
}

// tidy drops answers that serve for nothing any more.
func (c *CachedSource) tidy() {
	now := c.o.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.answers.expire(now.Add(-max(c.o.MaxAge, c.o.Allow)), now.Add(-max(c.o.Refuse, 0))) {
		c.forget(k)
	}
}

// save brings Memory up to date. When that fails it is still to be done, and the
// first failure of several is logged.
func (c *CachedSource) save() bool {
	c.mu.Lock()
	allowed := make(map[key.Public]Stored)
	var gone []key.Public
	for k := range c.unsaved {
		if a := c.answers.get(k); a != nil && a.allow {
			allowed[k] = Stored{Member: a.member, At: a.at}
			a.saved = a.at
		} else {
			gone = append(gone, k)
		}
	}
	clear(c.unsaved)
	c.mu.Unlock()
	if len(allowed) == 0 && len(gone) == 0 {
		return true
	}
	err := c.o.Memory.Save(allowed, gone)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.report.MemoryError = ""
		return true
	}
	for k := range allowed {
		c.unsaved[k] = struct{}{}
	}
	for _, k := range gone {
		c.unsaved[k] = struct{}{}
	}
	if c.report.MemoryError == "" {
		c.o.Logger.Warn("the answers of a source cannot be saved; after a restart they are missing", "source", c.Name(), "err", err)
	}
	c.report.MemoryError = err.Error()
	return false
}

// reask asks for those who were answered without the source, one after the other:
// at once as long as nothing failed, and with growing pauses while it is down.
func (c *CachedSource) reask(ctx context.Context) {
	gap := firstRetry
	for ctx.Err() == nil {
		c.mu.Lock()
		waiting, down := len(c.owed), c.down
		c.mu.Unlock()
		switch {
		case waiting == 0:
			select {
			case <-ctx.Done():
			case <-c.wake:
			}
			continue
		case down:
			pause(ctx, gap, c.back)
			gap = min(2*gap, lastRetry)
		default:
			gap = firstRetry
		}
		c.askOne(ctx)
	}
}

// askOne asks for one of those who are owed an answer, and waits for it.
func (c *CachedSource) askOne(ctx context.Context) {
	now := c.o.Now()
	c.mu.Lock()
	var f *flight
	var asked Request
	for k, r := range c.owed {
		delete(c.owed, k)
		if a := c.answers.get(k); a != nil && c.fresh(a, now) {
			continue
		}
		var err error
		if f, err = c.fly(r); err != nil { // crowded: those under way will tell
			c.owed[k] = r
		}
		asked = r
		break
	}
	c.mu.Unlock()
	if f == nil {
		if asked.Key != (key.Public{}) {
			pause(ctx, firstRetry, nil)
		}
		return
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return
	}
	if f.err != nil {
		c.mu.Lock()
		c.owe(asked)
		c.mu.Unlock()
	}
}

// pause waits for d, for ctx or for a token in early.
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-early:
	case <-t.C:
	}
}
