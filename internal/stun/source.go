package stun

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// tellingRequests is how many requests from one address alone are no chance any more: a client sends at most three for
// each report.
const tellingRequests = 20

// firstSources looks at where the first requests come from, and tells when it is one private address.
type firstSources struct {
	tell func(netip.Addr) // nil: nobody wants to know

	done atomic.Bool // nothing more is to be learned

	mu   sync.Mutex
	addr netip.Addr // guarded by mu: of all requests so far
	seen int        // guarded by mu
}

// note takes the source of one request. Once it is decided it costs one atomic load.
func (f *firstSources) note(from netip.Addr) {
	if f.tell == nil || f.done.Load() {
		return
	}
	if from = from.Unmap(); f.allFrom(from) {
		f.tell(from)
	}
}

// allFrom counts a request in, and reports whether it is the one that tells.
func (f *firstSources) allFrom(from netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.done.Load():
		return false
	case !from.IsPrivate(), f.seen > 0 && from != f.addr:
		f.done.Store(true)
		return false
	}
	f.addr = from
	f.seen++
	f.done.Store(f.seen == tellingRequests)
	return f.seen == tellingRequests
}
