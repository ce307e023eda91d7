package admit

import (
	"slices"
	"sync"
)

// backlog holds the connections that have to be asked about, each once: members
// before those who wait, and each in the order in which it came to be due.
type backlog struct {
	more chan struct{} // holds one at most: somebody is due

	mu    sync.Mutex
	due   [2][]Present        // guarded by mu; members, and those who wait
	asked map[uint64]struct{} // guarded by mu; by ID, who is being asked about
	again map[uint64]Present  // guarded by mu; those of asked who will be due again
}

func newBacklog() *backlog {
	return &backlog{more: make(chan struct{}, 1), asked: make(map[uint64]struct{}), again: make(map[uint64]Present)}
}

// rank is 0 for members, who come first.
func (p Present) rank() int {
	if p.Waiting {
		return 1
	}
	return 0
}

// put has the backlog hold list and nobody else.
func (b *backlog) put(list []Present) {
	fresh := make(map[uint64]Present, len(list))
	for _, p := range list {
		fresh[p.ID] = p
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.again)
	for id := range b.asked {
		if p, ok := fresh[id]; ok {
			b.again[id] = p
			delete(fresh, id)
		}
	}
	var due [2][]Present
	add := func(p Present) {
		due[p.rank()] = append(due[p.rank()], p)
		delete(fresh, p.ID)
	}
	for _, old := range slices.Concat(b.due[0], b.due[1]) {
		if p, ok := fresh[old.ID]; ok {
			add(p) // it may have been promoted meanwhile
		}
	}
	for _, p := range list {
		if _, ok := fresh[p.ID]; ok {
			add(p)
		}
	}
	b.due = due
	b.signal()
}

// signal is called with mu held.
func (b *backlog) signal() {
	if len(b.due[0])+len(b.due[1]) == 0 {
		return
	}
	select {
	case b.more <- struct{}{}:
	default:
	}
}

// take returns who is next, to be given back with done; it reports false when
// nobody is due.
func (b *backlog) take() (Present, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := 0
	if len(b.due[0]) == 0 {
		i = 1
	}
	if len(b.due[i]) == 0 {
		return Present{}, false
	}
	p := b.due[i][0]
	b.due[i] = b.due[i][1:]
	b.asked[p.ID] = struct{}{}
	b.signal()
	return p, true
}

// done takes back who was asked about.
func (b *backlog) done(p Present) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.asked, p.ID)
	if q, ok := b.again[p.ID]; ok {
		delete(b.again, p.ID)
		b.due[q.rank()] = append(b.due[q.rank()], q)
		b.signal()
	}
}
