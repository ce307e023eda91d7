// Package crowd holds bounded sets of what strangers bring. One address may have
// a few entries, all addresses together a fixed number; where there is no room, the
// address with the most entries loses its oldest one. So a flood from one place
// evicts itself, and one from everywhere evicts mostly itself.
package crowd

import (
	"container/list"
	"net/netip"
)

// Source returns what counts as one address: an IPv4 address, or the /64 of an
// IPv6 one, which is what one host has for free. The zero prefix stands for a
// peer without an address.
func Source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return netip.Prefix{}
	}
	bits := 32
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// Set is a bounded set of entries, each from one source. It is not safe for
// concurrent use: whoever owns it has a lock.
type Set[K comparable] struct {
	total     int
	perSource int
	entries   map[K]*entry[K]
	sources   map[netip.Prefix]*source[K]
	// bySize has the sources with n entries at index n, the one whose turn came
	// first in front, so that the largest is found without a search.
	bySize []*list.List
}

type entry[K comparable] struct {
	key  K
	from *source[K]
	at   *list.Element // in from.oldest
}

type source[K comparable] struct {
	prefix netip.Prefix
	oldest *list.List    // of *entry[K]
	at     *list.Element // in bySize
}

// New returns an empty set for total entries at most, perSource of them from one
// source. Both are 1 at least.
func New[K comparable](total, perSource int) *Set[K] {
	s := &Set[K]{
		total: max(1, total), perSource: max(1, perSource),
		entries: make(map[K]*entry[K]), sources: make(map[netip.Prefix]*source[K]),
	}
	s.bySize = make([]*list.List, s.perSource+1)
	for i := range s.bySize {
		s.bySize[i] = list.New()
	}
	return s
}

// Len returns how many entries there are.
func (s *Set[K]) Len() int { return len(s.entries) }

// Has reports whether k is there.
func (s *Set[K]) Has(k K) bool { return s.entries[k] != nil }

// Add puts k in as the newest entry of its source; an entry that is there already
// moves. When that leaves one too many, one is taken out: of the same source when
// that has its share, else of the source with the most. It returns that one.
func (s *Set[K]) Add(k K, from netip.Prefix) (evicted K, some bool) {
	s.Remove(k)
	src := s.sources[from]
	switch {
	case src != nil && src.oldest.Len() >= s.perSource:
		evicted, some = s.evict(src), true
	case len(s.entries) >= s.total:
		evicted, some = s.evict(s.largest()), true
	}
	if src = s.sources[from]; src == nil { // it may have been the one that lost its last
		src = &source[K]{prefix: from, oldest: list.New()}
		s.sources[from] = src
		src.at = s.bySize[0].PushBack(src)
	}
	e := &entry[K]{key: k, from: src}
	e.at = src.oldest.PushBack(e)
	s.entries[k] = e
	s.resize(src, src.oldest.Len()-1)
	return evicted, some
}

// Remove takes k out and reports whether it was there.
func (s *Set[K]) Remove(k K) bool {
	e := s.entries[k]
	if e == nil {
		return false
	}
	delete(s.entries, k)
	e.from.oldest.Remove(e.at)
	s.resize(e.from, e.from.oldest.Len()+1)
	return true
}

// largest returns the source with the most entries, of several the one that has
// been so large for longest. There must be one.
func (s *Set[K]) largest() *source[K] {
	for n := s.perSource; n > 0; n-- {
		if first := s.bySize[n].Front(); first != nil {
			return first.Value.(*source[K])
		}
	}
	return nil
}

func (s *Set[K]) evict(src *source[K]) K {
	k := src.oldest.Front().Value.(*entry[K]).key
	s.Remove(k)
	return k
}

// resize moves src to where its size belongs now. A source without entries is
// forgotten.
func (s *Set[K]) resize(src *source[K], before int) {
	s.bySize[before].Remove(src.at)
	n := src.oldest.Len()
	if n == 0 {
		delete(s.sources, src.prefix)
		return
	}
	src.at = s.bySize[n].PushBack(src)
}
