package listen

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// shareOfPending is the part of the unfinished connections that one source may
// hold: one in so many. Without it a single host could keep everybody else out.
const shareOfPending = 16

// sources counts unfinished connections by where they come from: an IPv4 address
// or an IPv6 /64, which is what one host can have for free. It holds no more
// entries than there are unfinished connections.
type sources struct {
	mu    sync.Mutex
	count map[netip.Prefix]int64 // Guarded by mu.
	limit int64

	exempt []netip.Prefix // not counted
}

// enter counts c in, unless its source has its share already. leave must be
// called once when the connection is not unfinished any more.
func (s *sources) enter(c net.Conn) (leave func(), ok bool) {
	from := sourceOf(c.RemoteAddr())
	if !from.IsValid() || s.exempts(c.RemoteAddr()) {
		return func() {}, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count[from] >= s.limit {
		return nil, false
	}
	if s.count == nil {
		s.count = make(map[netip.Prefix]int64)
	}
	s.count[from]++
	return func() { s.leave(from) }, true
}

func (s *sources) exempts(a net.Addr) bool {
	if len(s.exempt) == 0 {
		return false
	}
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(s.exempt, func(p netip.Prefix) bool { return p.Contains(ip) })
}

func (s *sources) leave(from netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count[from]--; s.count[from] == 0 {
		delete(s.count, from)
	}
}

// sourceOf returns what is counted as one source. Loopback is not counted, nor
// what has no address: there proxies of this machine are.
func sourceOf(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if !ip.IsValid() || ip.IsLoopback() {
		return netip.Prefix{}
	}
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(ip, bits).Masked()
}
