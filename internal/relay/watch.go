package relay

import (
	"errors"
	"sync"

	"github.com/detour-relay/detour/internal/derp"
)

// errWatcherSlow ends a watcher that cannot be told everything: half a picture
// of the region is worse than a new connection with a whole one.
var errWatcherSlow = errors.New("watcher does not read fast enough")

// watchers are the sibling relays that asked for presence.
type watchers struct {
	mu  sync.Mutex
	set map[*peer]struct{} // Guarded by mu.
}

// tell queues a frame for every watcher and returns those to be flushed. It is
// called with the shard's lock of the key in question held, so that the frames
// about one key keep their order.
func (w *watchers) tell(frame []byte) (flush []*peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range w.set {
		if !p.out.pushNews(frame, watcherLimit) {
			p.end(errWatcherSlow)
			continue
		}
		flush = append(flush, p)
	}
	return flush
}

func (w *watchers) remove(p *peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.set, p)
}

func (w *watchers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.set)
}

// addWatcher sends p the list of everyone here, itself included, and all that
// follows. A relay that has dialled itself is ignored. Asking again sends the
// list again.
func (s *Server) addWatcher(p *peer) {
	if p.key == s.PublicKey() {
		return
	}
	s.watch.mu.Lock()
	if s.watch.set == nil {
		s.watch.set = make(map[*peer]struct{})
	}
	s.watch.set[p] = struct{}{}
	s.watch.mu.Unlock()
	// From here on p hears of changes. What a shard's list says twice is harmless;
	// what it says is never older than a change that p has heard before it.
	var frame []byte
	var full bool
	for i := range s.dir.shards {
		sh := &s.dir.shards[i]
		sh.mu.RLock()
		for _, e := range sh.entries {
			frame = derp.AppendPeerPresent(frame[:0], e.active.Load().presence())
			full = full || !p.out.pushNews(frame, watcherLimit)
		}
		sh.mu.RUnlock()
		if full {
			p.end(errWatcherSlow)
			return
		}
	}
	p.touch(p)
}

func (p *peer) presence() derp.Presence {
	return derp.Presence{Key: p.key, Addr: p.addr, Flags: p.flags}
}
