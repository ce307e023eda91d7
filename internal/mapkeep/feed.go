package mapkeep

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
)

const (
	// fileLook is how often a file is looked at.
	fileLook = 10 * time.Second
	// firstRetry is when a URL that failed is tried again; each further time it is
	// twice as long, up to lastRetry or the refresh.
	firstRetry = 15 * time.Second
	lastRetry  = 30 * time.Minute
)

// state is a source and what is known of it.
type state struct {
	source Source
	reader reader // Owned by the source's feed.

	// Guarded by Keeper.mu.
	good  good      // if known
	known bool      // there is a good map
	tried bool      // it has answered or failed once
	err   error     // why the last try failed
	began time.Time // when it was first to be read
}

// startFeeds reads all sources until stop is called, which waits for their end.
func (k *Keeper) startFeeds(ctx context.Context, states []*state, refresh time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var feeds sync.WaitGroup
	for _, s := range states {
		feeds.Go(func() { k.feed(ctx, s, refresh) })
	}
	return func() { cancel(); feeds.Wait() }
}

// feed reads one source until ctx is done.
func (k *Keeper) feed(ctx context.Context, s *state, refresh time.Duration) {
	retry := firstRetry
	for {
		wait := refresh
		err := k.read(ctx, s)
		if ctx.Err() != nil {
			return
		}
		k.note(s, err)
		switch {
		case !derpmap.IsURL(s.source.Place):
			wait = fileLook
		case err != nil:
			wait = min(retry, lastRetry, refresh)
			retry *= 2
		default:
			retry = firstRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// read takes the source's map if it is a new one, and can be used.
func (k *Keeper) read(ctx context.Context, s *state) error {
	k.mu.Lock()
	var have derpmap.Version
	if s.known && s.err == nil { // what was refused is asked for again
		have = s.good.Version
	}
	k.mu.Unlock()
	got, err := s.reader.Fetch(ctx, have)
	if err != nil {
		return err
	}
	now := time.Now()
	if got.Unchanged {
		k.mu.Lock()
		s.good.Confirmed = now
		k.mu.Unlock()
		return nil
	}
	m, err := usable(got.Map)
	if err != nil {
		return fmt.Errorf("the map cannot be used: %w; hint: detour map check says more", err)
	}
	next := good{Source: s.source.Name(), Confirmed: now, Version: got.Version, Map: m}
	if err := k.offer(s, next); err != nil {
		return err
	}
	if err := k.memory.keep(s.source, next); err != nil {
		k.log.Warn("the last good map of a source cannot be kept for the next start", "source", s.source.Name(), "err", err)
	}
	return nil
}

// offer puts a new map in a source's place, unless what went together until now
// would not any more.
func (k *Keeper) offer(s *state, next good) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.known {
		var maps []derpmap.Named
		for _, other := range k.sources {
			switch {
			case other == s:
				maps = append(maps, derpmap.Named{Name: s.source.Name(), Map: next.Map})
			case other.known:
				maps = append(maps, derpmap.Named{Name: other.source.Name(), Map: other.good.Map})
			}
		}
		all, _ := derpmap.Merge(maps...)
		if err := derpmap.Usable(all); err != nil {
			return fmt.Errorf("the map does not go together with the others: %w; hint: give each node a name of its own", err)
		}
	}
	if !s.known || !sameMap(s.good.Map, next.Map) {
		k.log.Info("read a source of the DERP map", "source", s.source.Name(), "regions", len(next.Map.Regions))
	}
	s.good, s.known = next, true
	return nil
}

func sameMap(a, b derpmap.Map) bool {
	x, err1 := derpmap.JSON(a)
	y, err2 := derpmap.JSON(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// note keeps how a try went, and has the map made anew.
func (k *Keeper) note(s *state, err error) {
	k.mu.Lock()
	before := s.err
	s.tried, s.err = true, err
	known, since := s.known, s.good.Confirmed
	k.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()) && known:
		k.log.Warn("a source of the DERP map cannot be read; its last good map stays in use", "source", s.source.Name(), "from", since.UTC(), "err", err)
	case err != nil && (before == nil || before.Error() != err.Error()):
		k.log.Warn("a source of the DERP map cannot be read, and nothing of it is known", "source", s.source.Name(), "err", err)
	case err == nil && before != nil:
		k.log.Info("a source of the DERP map can be read again", "source", s.source.Name())
	}
	k.wake()
}
