package relay

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// shardCount spreads the directory's locks. A power of two.
const shardCount = 64

// directory finds the peers of a key. Locks are taken in the order shard,
// watchers, outbox; entry.mu and contacts.mu are never held with any other.
type directory struct {
	shards [shardCount]shard
}

type shard struct {
	mu      sync.RWMutex
	entries map[key.Public]*entry // Guarded by mu.
}

// entry is one key and its connections. It lives from the first to the last of
// them; a later connection of the key gets a new one.
type entry struct {
	// active is the connection that receives: the last to speak. Nil when the
	// entry is dead. Written under the shard's lock, read without.
	active atomic.Pointer[peer]
	peers  []*peer // Guarded by the shard's mu. In the order in which they last spoke.

	mu    sync.Mutex
	heard map[*peer]struct{} // Guarded by mu. Who has a packet from this key.
}

func (d *directory) init() {
	for i := range d.shards {
		d.shards[i].entries = make(map[key.Public]*entry)
	}
}

func (d *directory) shard(k key.Public) *shard { return &d.shards[k[0]%shardCount] }

// lookup returns the entry of a key, or nil.
func (d *directory) lookup(k key.Public) *entry {
	s := d.shard(k)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[k]
}

// join adds p, and makes it the active connection of its key unless a newer one of
// those that have not spoken since is: of two that waited, the older may be dead. It
// returns the watchers to be flushed, and whether the key was here already.
func (d *directory) join(p *peer, w *watchers) (watching []*peer, second bool) {
	s := d.shard(p.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[p.key]
	if e == nil {
		e = new(entry)
		s.entries[p.key] = e
	}
	at := slices.IndexFunc(e.peers, func(other *peer) bool { return other.id > p.id })
	if at < 0 {
		at = len(e.peers)
	}
	e.peers = slices.Insert(e.peers, at, p)
	p.entry = e
	e.active.Store(e.peers[len(e.peers)-1])
	return w.tell(derp.AppendPeerPresent(nil, p.presence())), len(e.peers) > 1
}

// leave removes p. It returns the watchers to be flushed, and whether p was the
// last connection of its key.
func (d *directory) leave(p *peer, w *watchers) (watching []*peer, last bool) {
	s := d.shard(p.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := p.entry
	if i := slices.Index(e.peers, p); i >= 0 {
		e.peers = slices.Delete(e.peers, i, i+1)
	}
	if len(e.peers) > 0 {
		e.active.Store(e.peers[len(e.peers)-1])
		return nil, false
	}
	e.active.Store(nil)
	delete(s.entries, p.key)
	return w.tell(derp.AppendPeerGone(nil, p.key, derp.GoneDisconnected)), true
}

// spoke makes p the active connection of its key. Nobody is ever cut off for
// being second: clones and roaming clients would reconnect in a loop.
func (d *directory) spoke(p *peer) {
	if p.entry.active.Load() == p {
		return
	}
	s := d.shard(p.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(p.entry.peers, p); i >= 0 {
		p.entry.peers = append(slices.Delete(p.entry.peers, i, i+1), p)
		p.entry.active.Store(p)
	}
}

// each calls f for every connection, holding no lock.
func (d *directory) each(f func(*peer)) {
	var batch []*peer
	for i := range d.shards {
		s := &d.shards[i]
		batch = batch[:0]
		s.mu.RLock()
		for _, e := range s.entries {
			batch = append(batch, e.peers...)
		}
		s.mu.RUnlock()
		for _, p := range batch {
			f(p)
		}
	}
}

// of returns all connections of a key.
func (d *directory) of(k key.Public) []*peer {
	s := d.shard(k)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.entries[k]; e != nil {
		return slices.Clone(e.peers)
	}
	return nil
}

// size counts keys, those of them with several connections, and the connections
// of those.
func (d *directory) size() (keys, dupKeys, dupConns int) {
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.RLock()
		keys += len(s.entries)
		for _, e := range s.entries {
			if len(e.peers) > 1 {
				dupKeys++
				dupConns += len(e.peers)
			}
		}
		s.mu.RUnlock()
	}
	return keys, dupKeys, dupConns
}
