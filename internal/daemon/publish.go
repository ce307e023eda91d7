package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/key"
)

// identity is what a relay is known by, besides its settings.
type identity struct {
	serverKey key.Public
	cert      *cert.Certificate // nil without TLS
	addrs     derpmap.Addresses // as published
}

// publishedAddrs joins the addresses of the settings with those that the running
// relay follows and those of the interfaces: what was set wins.
func publishedAddrs(c config.Config, interfaces []netip.Addr) derpmap.Addresses {
	return joinAddrs(c, interfaces, followedAddrs(c))
}

// listenIP returns the one address that a listen setting names; false when it
// means all, or a name.
func listenIP(listen string) (netip.Addr, bool) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(host)
	return ip.Unmap(), err == nil && !ip.IsUnspecified()
}

// InterfaceAddrs returns the addresses of this host's interfaces.
func InterfaceAddrs() ([]netip.Addr, error) {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this host: %w", err)
	}
	var addrs []netip.Addr
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs, nil
}

// certNames are the names and addresses that a new pinned certificate is for.
func certNames(c config.Config, a derpmap.Addresses) []string {
	var names []string
	if c.Hostname != "" {
		names = append(names, c.Hostname)
	}
	for _, ip := range []netip.Addr{a.IPv4, a.IPv6} {
		if ip.IsValid() && ip.String() != c.Hostname {
			names = append(names, ip.String())
		}
	}
	return names
}

// relayOf describes the relay for its DERP map. Ports are those that the
// settings name; where they leave the port to the system, the map cannot be
// made before the relay runs.
func relayOf(c config.Config, id identity, forOldClients bool) derpmap.Relay {
	r := derpmap.Relay{
		RegionID: c.RegionID, RegionCode: c.RegionCode, RegionName: c.RegionName, NodeName: nodeName(c, id.serverKey),
		Hostname: hostname(c, id.cert), IPv4: id.addrs.IPv4, IPv6: id.addrs.IPv6,
		STUNPort: stunPort(c), CanPort80: portOf(c.HTTPListen) == 80,
		TLS: c.TLS, Insecure: forOldClients,
	}
	if doors := c.Doors(); len(doors) > 0 {
		r.Port = dialledPort(doors[0])
	}
	r.NoIPv4, r.NoIPv6 = closedFamilies(c.Listen, c.STUNListen)
	r.NoIPv4, r.NoIPv6 = r.NoIPv4 && !c.PublicIPv4.IsValid(), r.NoIPv6 && !c.PublicIPv6.IsValid()
	r.Spare = spares(c)
	if id.cert != nil && id.cert.SelfSigned() {
		r.Pin = id.cert.Pin()
	}
	return r
}

// hostname is what clients dial and check the certificate for: as set, or else
// the first plain domain that a CA's certificate is for. Empty: an address.
func hostname(c config.Config, crt *cert.Certificate) string {
	if c.Hostname != "" || crt == nil || crt.SelfSigned() {
		return c.Hostname
	}
	for _, name := range crt.Names() {
		if _, err := netip.ParseAddr(name); err != nil && !strings.HasPrefix(name, "*.") {
			return name
		}
	}
	return ""
}

// nodeName names the relay within all maps: two relays that were told nothing
// differ by their keys.
func nodeName(c config.Config, k key.Public) string {
	if c.NodeName != "" {
		return c.NodeName
	}
	return fmt.Sprintf("%d-%s", c.RegionID, k.Hex()[:8])
}

// portOf returns the port of a checked listen setting; 0 when it is off.
func portOf(listen string) int {
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return n
}

// Map makes the DERP map of the relay with these settings from its state
// directory, without changing anything. The error of a relay that never ran
// says so. Warnings are for the person who will paste the map.
func Map(c config.Config, forOldClients bool) (m derpmap.Map, warnings []string, err error) {
	k, err := LoadServerKey(c.ServerKey)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil, fmt.Errorf("this relay has not run yet: no server key at %s; hint: start it once with `detour serve`, "+
			"or name its directory with --state-dir (another user's relay has another one)", c.ServerKey)
	}
	if err != nil {
		return m, nil, err
	}
	id := identity{serverKey: k.Public()}
	if c.AnyTLS() {
		if id.cert, err = LoadCert(c); err != nil {
			return m, nil, err
		}
	}
	interfaces, err := InterfaceAddrs()
	if err != nil {
		return m, nil, err
	}
	id.addrs = publishedAddrs(c, interfaces)
	if m, err = mapOf(c, id, forOldClients); err != nil {
		return m, nil, err
	}
	return m, mapWarnings(c, id, forOldClients), nil
}

// mapOf makes the map, or says what is missing in the words of the flags.
func mapOf(c config.Config, id identity, forOldClients bool) (derpmap.Map, error) {
	if err := portsKnown(c); err != nil {
		return derpmap.Map{}, err
	}
	r := relayOf(c, id, forOldClients)
	rotation, err := rotationOf(c)
	if err != nil {
		return derpmap.Map{}, err
	}
	turn(&r, rotation)
	m, err := r.Map()
	if errors.Is(err, derpmap.ErrNoAddress) {
		return m, errors.New(noAddress(id.addrs))
	}
	return m, err
}

// noAddress says why there is no map to paste, and what to do.
func noAddress(a derpmap.Addresses) string {
	var b strings.Builder
	b.WriteString("no public address was found on this machine")
	if len(a.Private) > 0 {
		texts := make([]string, len(a.Private))
		for i, ip := range a.Private {
			texts[i] = ip.String()
		}
		fmt.Fprintf(&b, ", only private ones (%s), as behind a NAT or on a Docker bridge", strings.Join(texts, ", "))
	}
	b.WriteString("; hint: say where clients reach it: --public-ipv4 ADDRESS (or --public-ipv6), or --hostname NAME for a domain that points here")
	if len(a.Private) > 0 {
		fmt.Fprintf(&b, ". For clients in this network alone, --public-ipv4 with its private address will do")
	}
	return b.String()
}

// mapWarnings says what in the map will not work as it stands.
func mapWarnings(c config.Config, id identity, forOldClients bool) []string {
	var w []string
	if forOldClients {
		w = append(w, "InsecureForTests turns certificate checks off: anyone on the way can pose as this relay and see who talks to whom "+
			"(packets stay encrypted end to end); use it only for clients older than 1.84")
	}
	ip, bound := listenIP(c.Listen)
	switch {
	case c.Listen == config.Off:
	case !c.TLS && c.PublicPort != 0:
	case !c.TLS:
		w = append(w, "the relay speaks plain HTTP: the map's host and port must be those of the proxy in front of it that speaks TLS")
	case bound && ip.IsLoopback():
		w = append(w, fmt.Sprintf("the relay listens on %s, which only this machine can reach", ip))
	case bound && c.Hostname == "" && ip != id.addrs.IPv4 && ip != id.addrs.IPv6:
		w = append(w, fmt.Sprintf("the relay listens on %s alone: what the map names must lead there", ip))
	}
	if id.cert != nil && id.cert.NotAfter().Before(time.Now()) {
		w = append(w, "the certificate has expired: clients refuse it")
	}
	if id.cert != nil && !id.cert.SelfSigned() {
		if _, err := netip.ParseAddr(hostname(c, id.cert)); err == nil || hostname(c, id.cert) == "" {
			w = append(w, "clients dial an address, and for an address without a pin they check no name: whoever is on the way may show "+
				"any certificate of a public CA; set --hostname to a domain that the certificate is for")
		}
	}
	w = append(w, keepWarnings(c, id)...)
	if c.STUNListen == config.Off {
		w = append(w, "STUN is off: clients can measure this relay by HTTPS only, and learn their address elsewhere")
	}
	return w
}

// LoadCert reads the certificate that clients of the map are served, without making
// one. Of a relay in pin mode that never ran the error matches cert.ErrNoPin. It is
// nil without an error where clients expect an authority's certificate that is not
// there.
func LoadCert(c config.Config) (*cert.Certificate, error) {
	if c.CertMode == config.CertFiles {
		certs, err := cert.LoadPairs(certPairs(c), time.Now())
		if err != nil {
			return nil, err
		}
		return cert.ForName(certs, c.Hostname), nil
	}
	if c.CertMode == config.CertACME {
		return loadACMECert(c)
	}
	return cert.LoadPin(c.Cert, c.Key, time.Now())
}
