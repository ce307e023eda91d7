package web

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are those that are believed about who the client is. The zero value
// believes nobody.
type Proxies struct {
	From []netip.Prefix // addresses that they connect from; IPv4 never in its IPv6 form
	Unix bool           // whoever connects over a unix socket is one
}

// via is what a request says about the client it was passed on for.
type via struct {
	forwarded string // X-Forwarded-For, of several all, with commas between
	realIP    string // X-Real-IP
}

func viaOf(h http.Header) via {
	return via{forwarded: strings.Join(h.Values("X-Forwarded-For"), ","), realIP: h.Get("X-Real-IP")}
}

// client returns the address of the client at the other end of c: what the last
// proxies say that are believed one after another, counted from here, and else
// c's own. A port that nobody says is 0; the zero value is unknown.
func (p Proxies) client(c net.Conn, v via) netip.AddrPort {
	addr := remoteAddr(c)
	if v == (via{}) || !p.trustsConn(c, addr) {
		return addr
	}
	if v.forwarded == "" {
		if real, ok := parseClient(v.realIP); ok {
			return real
		}
		return addr
	}
	// From the right, which the nearest proxy has written: all that is left of the
	// first entry from somebody unknown may be made up.
	for rest := v.forwarded; ; {
		comma := strings.LastIndexByte(rest, ',')
		entry, ok := parseClient(rest[comma+1:])
		if !ok {
			return addr
		}
		if addr = entry; comma < 0 || !p.trusts(addr.Addr()) {
			return addr
		}
		rest = rest[:comma]
	}
}

// trustsConn reports whether what c says is believed.
func (p Proxies) trustsConn(c net.Conn, addr netip.AddrPort) bool {
	if p.trusts(addr.Addr()) {
		return true
	}
	if !p.Unix || addr.IsValid() {
		return false
	}
	_, unix := c.RemoteAddr().(*net.UnixAddr)
	return unix
}

func (p Proxies) trusts(ip netip.Addr) bool {
	for _, prefix := range p.From {
		if prefix.Contains(ip.WithZone("")) {
			return true
		}
	}
	return false
}

// parseClient parses an address as proxies write it: alone, in brackets, or with
// a port.
func parseClient(s string) (netip.AddrPort, bool) {
	s = strings.TrimSpace(s)
	bare := s
	if inside, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inside, "]") {
		bare = strings.TrimSuffix(inside, "]")
	}
	var port uint16
	ip, err := netip.ParseAddr(bare)
	if err != nil {
		both, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.AddrPort{}, false
		}
		ip, port = both.Addr(), both.Port()
	}
	if ip = ip.Unmap(); ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() {
		return netip.AddrPort{}, false // no client has it
	}
	return netip.AddrPortFrom(ip, port), true
}
