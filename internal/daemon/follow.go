package daemon

import (
	"context"
	"net"
	"net/netip"

	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/mapkeep"
	"github.com/detour-relay/detour/internal/stun"
)

// prepareFollower makes what follows the public address, and looks for it once where
// nothing is known, so that the first map and the certificate can name it.
func (d *Daemon) prepareFollower(ctx context.Context) {
	d.follower = mapkeep.NewFollower(mapkeep.FollowOptions{
		Sources: d.addressSources(d.cfg), StateDir: d.cfg.StateDir, Changed: d.moved, Logger: d.log,
	})
	if _, known := d.follower.Addresses(); !known {
		d.follower.Look(ctx)
	}
}

func (d *Daemon) addressSources(c config.Config) (list []mapkeep.AddressSource) {
	for _, s := range c.MapAddresses() {
		switch s.Kind {
		case config.AddressDNS:
			list = append(list, mapkeep.ByDNS(s.Target, net.DefaultResolver.LookupNetIP))
		case config.AddressSTUN:
			list = append(list, mapkeep.BySTUN(s.Target, stun.Ask, d.interfaces))
		case config.AddressInterfaces:
			list = append(list, mapkeep.ByInterfaces(d.interfaces))
		}
	}
	return list
}

// moved hears that the public address is another.
func (d *Daemon) moved(before, now derpmap.Addresses) {
	if d.keeper == nil {
		return // the relay does not run yet
	}
	d.keeper.Poke()
	if (before.IPv4.IsValid() || before.IPv6.IsValid()) && d.cfg.CertMode == config.CertACME && d.cfg.Hostname == "" && len(d.cfg.ACMEName) == 0 {
		d.log.Warn("the certificate is for the old public address; hint: restart the relay to get one for the new address, or have a domain lead to it and set hostname",
			"ipv4", now.IPv4, "ipv6", now.IPv6)
	}
}

// addresses are those to publish now.
func (d *Daemon) addresses() derpmap.Addresses {
	followed, _ := d.follower.Addresses()
	return joinAddrs(d.cfg, d.atStart, followed)
}

// followedAddrs are those that the running relay has seen last, where it follows any.
func followedAddrs(c config.Config) derpmap.Addresses {
	if len(c.MapAddress) == 0 {
		return derpmap.Addresses{}
	}
	a, _ := mapkeep.KeptAddresses(c.StateDir)
	return a
}

// joinAddrs is publishedAddrs with the followed addresses given.
func joinAddrs(c config.Config, interfaces []netip.Addr, followed derpmap.Addresses) derpmap.Addresses {
	a := derpmap.Choose(interfaces)
	if ip, ok := listenIP(c.Listen); ok {
		// A relay that answers on one public address alone has no other to publish.
		if only := derpmap.Choose([]netip.Addr{ip}); only.IPv4.IsValid() || only.IPv6.IsValid() {
			a.IPv4, a.IPv6 = only.IPv4, only.IPv6
		}
	}
	if followed.IPv4.IsValid() {
		a.IPv4 = followed.IPv4
	}
	if followed.IPv6.IsValid() {
		a.IPv6 = followed.IPv6
	}
	if c.PublicIPv4.IsValid() {
		a.IPv4 = c.PublicIPv4
	}
	if c.PublicIPv6.IsValid() {
		a.IPv6 = c.PublicIPv6
	}
	return a
}
