package derpmap

import (
	"net/netip"
	"slices"
)

// Addresses is what Choose made of a host's addresses.
type Addresses struct {
	// IPv4 and IPv6 are the addresses to publish; the zero Addr when there is none.
	IPv4, IPv6 netip.Addr
	// Private are the addresses that reach some network but not the internet, in
	// ascending order: what to name when nothing can be published. Addresses that
	// every host has (loopback, link-local) are left out, they say nothing.
	Private []netip.Addr
}

// unpublishable lists unicast ranges that the internet does not route to their
// holder, or that are no address of a server. Source: IANA's special-purpose
// address registries.
//
// The documentation ranges (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24,
// 2001:db8::/32, 3fff::/20) are left out on purpose and count as public: test
// beds use them to stand for the internet, and no real host has one.
func unpublishable() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),      // "this network"
		netip.MustParsePrefix("10.0.0.0/8"),     // private
		netip.MustParsePrefix("100.64.0.0/10"),  // carrier-grade NAT, and Tailscale's own addresses
		netip.MustParsePrefix("172.16.0.0/12"),  // private, Docker's bridges among them
		netip.MustParsePrefix("192.0.0.0/24"),   // protocol assignments, DS-Lite
		netip.MustParsePrefix("192.88.99.0/24"), // 6to4 relay anycast
		netip.MustParsePrefix("192.168.0.0/16"), // private
		netip.MustParsePrefix("198.18.0.0/15"),  // benchmarks, and the fake addresses of some proxies
		netip.MustParsePrefix("240.0.0.0/4"),    // reserved, broadcast
		netip.MustParsePrefix("2001::/32"),      // Teredo
		netip.MustParsePrefix("2001:2::/48"),    // benchmarks
		netip.MustParsePrefix("2001:10::/28"),   // ORCHID, deprecated
		netip.MustParsePrefix("2001:20::/28"),   // ORCHIDv2: identifiers, not locations
		netip.MustParsePrefix("2002::/16"),      // 6to4
	}
}

// globalIPv6 is all that IANA has handed out for global unicast. What lies
// outside is unique local, site local, NAT64 or unassigned.
func globalIPv6() netip.Prefix {
	return netip.MustParsePrefix("2000::/3")
}

// Choose picks from the addresses of this host's interfaces those to publish in
// a DERP map: one of each family that the whole internet can reach. Of several it
// takes the lowest, so that the order in which the system lists them does not
// matter; which IPv6 address is the stable one cannot be known from here.
// IPv4-mapped addresses count as IPv4, zones are ignored, invalid ones skipped.
func Choose(addrs []netip.Addr) Addresses {
	sorted := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a.IsValid() {
			sorted = append(sorted, a.Unmap().WithZone(""))
		}
	}
	slices.SortFunc(sorted, netip.Addr.Compare)

	var out Addresses
	for _, a := range slices.Compact(sorted) {
		switch {
		case !a.IsGlobalUnicast() || a.IsLoopback():
			// Loopback, link-local, multicast, unspecified, 255.255.255.255.
		case !public(a):
			out.Private = append(out.Private, a)
		case a.Is4() && !out.IPv4.IsValid():
			out.IPv4 = a
		case a.Is6() && !out.IPv6.IsValid():
			out.IPv6 = a
		}
	}
	return out
}

// public expects a global unicast address without a zone, IPv4 unmapped.
func public(a netip.Addr) bool {
	if a.Is6() && !globalIPv6().Contains(a) {
		return false
	}
	return !slices.ContainsFunc(unpublishable(), func(p netip.Prefix) bool { return p.Contains(a) })
}
