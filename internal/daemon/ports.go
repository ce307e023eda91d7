package daemon

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
)

// dialledPort is the port that clients dial for a door; 0 when it has none.
func dialledPort(d config.Door) int {
	if d.PublicPort != 0 {
		return d.PublicPort
	}
	return portOf(d.Address)
}

// stunPort is the port that clients ask first; 0 when STUN is off.
func stunPort(c config.Config) int {
	if c.PublicSTUNPort != 0 && c.STUNListen != config.Off {
		return c.PublicSTUNPort
	}
	return portOf(c.STUNListen)
}

// spares makes the further nodes of the region: a TLS port each, with a STUN port
// as far as there are further ones, and then the STUN ports that are left.
func spares(c config.Config) []derpmap.Spare {
	var list []derpmap.Spare
	also := c.AlsoSTUNListen
	for i, d := range c.Doors() {
		if i == 0 || !d.InMap {
			continue
		}
		stun := config.Off
		if len(also) > 0 {
			stun, also = also[0], also[1:]
		}
		s := derpmap.Spare{Port: dialledPort(d), STUNPort: portOf(stun), TLS: d.TLS}
		s.NoIPv4, s.NoIPv6 = closedFamilies(d.Address, stun)
		if ip, ok := listenIP(d.Address); ok {
			only := derpmap.Choose([]netip.Addr{ip}) // public ones only
			s.IPv4, s.IPv6 = only.IPv4, only.IPv6
		}
		list = append(list, s)
	}
	for _, stun := range also {
		s := derpmap.Spare{STUNPort: portOf(stun)}
		s.NoIPv4, s.NoIPv6 = closedFamilies(config.Off, stun)
		list = append(list, s)
	}
	return list
}

// closedFamilies reports over which family neither of two settings listens.
func closedFamilies(settings ...string) (no4, no6 bool) {
	no4, no6 = true, true
	for _, s := range settings {
		if s == config.Off {
			continue
		}
		host, _, err := net.SplitHostPort(s)
		no4 = no4 && err == nil && host == "::"
		no6 = no6 && err == nil && host == "0.0.0.0"
	}
	if no4 && no6 { // one of each, or nothing at all
		return false, false
	}
	return no4, no6
}

// portsKnown refuses settings that do not say which ports clients dial: only the
// running relay knows a port that is left to the system, and only its operator
// one that leads to a socket.
func portsKnown(c config.Config) error {
	for _, d := range c.Doors() {
		if d.InMap && dialledPort(d) == 0 {
			return unknownPort(d.Setting == "also_listen", "--listen", "--public-port", d.Address)
		}
	}
	if c.STUNListen != config.Off && stunPort(c) == 0 {
		return unknownPort(false, "--stun-listen", "--public-stun-port", c.STUNListen)
	}
	for _, s := range c.AlsoSTUNListen {
		if portOf(s) == 0 {
			return unknownPort(false, "--also-stun-listen", "another address", s)
		}
	}
	return nil
}

func unknownPort(also bool, flag, public, address string) error {
	if also {
		flag, public = "--also-listen", "public_port= behind it"
	}
	switch {
	case config.IsUnix(address):
		return fmt.Errorf("%s %s has no port that clients could dial; hint: say which one leads to it with %s", flag, address, public)
	case config.IsSystemd(address):
		return fmt.Errorf("%s %s has its port from systemd; hint: say which one it is with %s, or take the map that `detour serve` prints",
			flag, address, public)
	}
	return fmt.Errorf("%s %s leaves the port to the system, so that it is another at each start; "+
		"hint: name a port, or take the map that `detour serve` prints", flag, address)
}
