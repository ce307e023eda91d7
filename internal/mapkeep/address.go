package mapkeep

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/detour-relay/detour/internal/derpmap"
)

// ByDNS follows a name that a DDNS client keeps. lookup is net.DefaultResolver's
// LookupNetIP, but for tests.
func ByDNS(name string, lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)) AddressSource {
	return AddressSource{Name: "dns:" + name, Look: func(ctx context.Context, now derpmap.Addresses) (Seen, error) {
		addrs, err := lookup(ctx, "ip", name)
		if err != nil {
			return Seen{}, fmt.Errorf("look up: %w", err)
		}
		return judge(addrs, now)
	}}
}

// ByInterfaces follows this machine's own addresses, which list returns.
func ByInterfaces(list func() ([]netip.Addr, error)) AddressSource {
	return AddressSource{Name: "interfaces", Look: func(_ context.Context, now derpmap.Addresses) (Seen, error) {
		addrs, err := list()
		if err != nil {
			return Seen{}, err
		}
		chosen := pick(addrs, now)
		return Seen{Sight{chosen.IPv4, true}, Sight{chosen.IPv6, true}}, nil
	}}
}

// judge refuses a list that holds none but private addresses.
func judge(addrs []netip.Addr, now derpmap.Addresses) (Seen, error) {
	chosen := pick(addrs, now)
	if !chosen.IPv4.IsValid() && !chosen.IPv6.IsValid() {
		return Seen{}, fmt.Errorf("it leads to %v, which the internet cannot reach", addrs)
	}
	return Seen{Sight{chosen.IPv4, true}, Sight{chosen.IPv6, true}}, nil
}

// Asker asks a STUN server; stun.Ask is one.
type Asker func(ctx context.Context, network, server string) (netip.AddrPort, error)

// BySTUN follows where a STUN server, HOST:PORT, sees this machine, by both families
// at once. Of IPv6 the server sees the address that this machine talks from, often a
// temporary one; what is published is another address of the same /64, if list has
// one that is published already or that is lower.
func BySTUN(server string, ask Asker, list func() ([]netip.Addr, error)) AddressSource {
	return AddressSource{Name: "stun:" + server, Look: func(ctx context.Context, now derpmap.Addresses) (seen Seen, err error) {
		type answer struct {
			sight Sight
			err   error
		}
		v6 := make(chan answer, 1)
		go func() {
			s, err := askOne(ctx, ask, "udp6", server)
			v6 <- answer{s, err}
		}()
		var err4 error
		seen.IPv4, err4 = askOne(ctx, ask, "udp4", server)
		six := <-v6
		if seen.IPv6 = six.sight; seen.IPv6.Addr.IsValid() {
			seen.IPv6.Addr = lasting(seen.IPv6.Addr, now.IPv6, list)
		}
		switch {
		case err4 != nil:
			err = err4
		case six.err != nil:
			err = six.err
		case !seen.IPv4.Addr.IsValid() && !seen.IPv6.Addr.IsValid():
			seen, err = Seen{}, errors.New("it has no address that this machine can reach")
		}
		return seen, err
	}}
}

// askOne asks over one family. A family that the server's name or this machine does
// not have is known to be absent; whatever else fails is not known.
func askOne(ctx context.Context, ask Asker, network, server string) (Sight, error) {
	at, err := ask(ctx, network, server)
	var noAddress *net.AddrError
	var noName *net.DNSError
	switch {
	case errors.As(err, &noAddress), errors.As(err, &noName) && noName.IsNotFound,
		errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return Sight{Known: true}, nil
	case err != nil:
		return Sight{}, err
	}
	ip := at.Addr().Unmap()
	if only := derpmap.Choose([]netip.Addr{ip}); !only.IPv4.IsValid() && !only.IPv6.IsValid() {
		return Sight{}, fmt.Errorf("it sees this machine at %s, which the internet cannot reach; ask one outside", ip)
	}
	return Sight{ip, true}, nil
}

// lasting is the address to publish where seen is one of this machine's.
func lasting(seen, now netip.Addr, list func() ([]netip.Addr, error)) netip.Addr {
	addrs, err := list()
	if err != nil {
		return seen
	}
	net64 := netip.PrefixFrom(seen, 64).Masked()
	best := seen
	for _, a := range addrs {
		switch {
		case !net64.Contains(a):
		case a == now:
			return a
		case a.Less(best):
			best = a
		}
	}
	return best
}
