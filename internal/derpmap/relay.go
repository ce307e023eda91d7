package derpmap

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Errors of Relay.Map that depend on more than one setting. A single bad setting
// gives a *SettingError.
var (
	// ErrNoAddress: no host name and no address, so clients have nothing to dial.
	ErrNoAddress = errors.New("the relay has no address that clients could dial" +
		"; hint: give it a host name or its public address")
	// ErrIPv6Port443: clients build https://<HostName>/derp without brackets when
	// the port is 443, and cannot parse it.
	ErrIPv6Port443 = errors.New("clients cannot use an IPv6 address as host name on port 443" +
		"; hint: give the relay a domain name or an IPv4 address, or another port than 443")
	// ErrNoService: neither DERP nor STUN, so there is nothing to list.
	ErrNoService = errors.New("the relay serves neither DERP nor STUN" +
		"; hint: turn one of them on")
)

// SettingError names the one field of a Relay that cannot stand in a map.
type SettingError struct {
	Setting string // name of the field of Relay
	Reason  string // what is wrong with it, with the next step where one is known
}

func (e *SettingError) Error() string {
	return e.Setting + ": " + e.Reason
}

// Relay is what the map of one relay is made from. Its zero value has no map.
type Relay struct {
	RegionID   int    // MinRegionID to MaxRegionID
	RegionCode string // short name of the region; required
	RegionName string // long name of the region
	NodeName   string // unique over all regions of the map that it goes into; required

	// Hostname is the domain name or IP literal that clients use. Empty: IPv4,
	// or else IPv6.
	Hostname string
	// IPv4 and IPv6 are published so that clients need no DNS; the zero Addr when
	// not known. A literal in Hostname takes the place of the one of its family.
	IPv4, IPv6 netip.Addr

	Port     int // TCP port that clients dial for DERP, to 65535; 0: no DERP, STUN only
	STUNPort int // UDP port, to 65535; 0: no STUN

	// CanPort80: plain HTTP for the captive-portal check answers on port 80. Left
	// out of the map without an IPv4 address, as clients check over IPv4 alone.
	CanPort80 bool

	// NoIPv4 and NoIPv6: nothing answers at the ports of this node over that family.
	// Its address is left out, and with a domain name, which may lead to one, the
	// family is turned off. An address in Hostname itself stays.
	NoIPv4, NoIPv6 bool

	// Spare are further ports of the relay, at most MaxSpare.
	Spare []Spare

	// Pin is PinPrefix and the certificate's hash; empty when the certificate is
	// checked against the system's roots.
	Pin string
	// TLS: the relay itself ends TLS. Clients speak nothing else, so without it
	// Port must be that of a TLS proxy, whose certificate the relay does not know:
	// Pin is then left out. It is for the caller to warn.
	TLS bool
	// Insecure turns certificate checks off in place of the pin, for clients
	// older than 1.84, which know no pins. It is for the caller to warn.
	Insecure bool
}

// MaxSpare bounds Relay.Spare: the nodes are told apart by a letter from b to z.
const MaxSpare = 25

// Spare are ports that become a further node of the relay's region. Clients dial
// it only where they cannot open a TCP connection to the node before, and ask its
// STUN port only where the one before has not answered in time.
type Spare struct {
	Port, STUNPort int // as in Relay
	TLS            bool
	NoIPv4, NoIPv6 bool
	// IPv4 and IPv6 take the place of the relay's when one of them is valid: the
	// ports answer at another address. An address in Hostname then gives way too.
	IPv4, IPv6 netip.Addr
}

// nodes returns a Relay for each node: the relay itself and its spare ports.
func (r Relay) nodes() []Relay {
	all := []Relay{r}
	for i, s := range r.Spare {
		n := r
		n.NodeName = fmt.Sprintf("%s-%c", r.NodeName, 'b'+i)
		n.Port, n.STUNPort, n.TLS, n.NoIPv4, n.NoIPv6 = s.Port, s.STUNPort, s.TLS, s.NoIPv4, s.NoIPv6
		n.CanPort80 = false // the first node has said it
		if s.IPv4.IsValid() || s.IPv6.IsValid() {
			n.IPv4, n.IPv6 = s.IPv4, s.IPv6
			if _, err := netip.ParseAddr(n.Hostname); err == nil {
				n.Hostname = ""
			}
		}
		all = append(all, n)
	}
	return all
}

// Map makes the map that lists this relay alone. Errors are a *SettingError,
// ErrNoAddress, ErrIPv6Port443 or ErrNoService, wrapped.
func (r Relay) Map() (Map, error) {
	region := &Region{RegionID: r.RegionID, RegionCode: r.RegionCode, RegionName: r.RegionName}
	for _, n := range r.nodes() {
		node, err := n.checked()
		if err != nil {
			return Map{}, fmt.Errorf("making the relay's DERP map: %w", err)
		}
		region.Nodes = append(region.Nodes, node)
	}
	return Map{Regions: map[int]*Region{r.RegionID: region}}, nil
}

func (r Relay) checked() (*Node, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return r.node()
}

// check looks at each setting by itself.
func (r Relay) check() error {
	switch {
	case r.RegionID < MinRegionID || r.RegionID > MaxRegionID:
		return &SettingError{"RegionID", fmt.Sprintf("%d is not in %d..%d; hint: 900..999 are for your own regions",
			r.RegionID, MinRegionID, MaxRegionID)}
	case r.RegionCode == "":
		return &SettingError{"RegionCode", "is empty; hint: give a short name such as \"home\""}
	case r.NodeName == "":
		return &SettingError{"NodeName", fmt.Sprintf("is empty; hint: give a name that no other relay has, such as \"%da\"", r.RegionID)}
	case r.Port < 0 || r.Port > 65535:
		return &SettingError{"Port", fmt.Sprintf("%d is not in 0..65535", r.Port)}
	case r.STUNPort < 0 || r.STUNPort > 65535:
		return &SettingError{"STUNPort", fmt.Sprintf("%d is not in 0..65535", r.STUNPort)}
	case len(r.Spare) > MaxSpare:
		return &SettingError{"Spare", fmt.Sprintf("%d ports are more than %d", len(r.Spare), MaxSpare)}
	case r.Port == 0 && r.STUNPort == 0:
		return ErrNoService
	case r.IPv4.IsValid() && (!r.IPv4.Unmap().Is4() || !dialable(r.IPv4)):
		return &SettingError{"IPv4", fmt.Sprintf("%s is not an IPv4 address of a host", r.IPv4)}
	case r.IPv6.IsValid() && (r.IPv6.Unmap().Is4() || !dialable(r.IPv6)):
		return &SettingError{"IPv6", fmt.Sprintf("%s is not an IPv6 address of a host", r.IPv6)}
	}
	return checkPin(r.Pin)
}

// node joins the settings to the node of the map.
func (r Relay) node() (*Node, error) {
	host, v4, v6, err := r.addresses()
	if err != nil {
		return nil, err
	}
	n := &Node{
		Name:      r.NodeName,
		RegionID:  r.RegionID,
		HostName:  host,
		STUNPort:  r.STUNPort,
		STUNOnly:  r.Port == 0,
		DERPPort:  r.Port,
		CanPort80: r.CanPort80 && v4.IsValid(),
	}
	if v4.IsValid() {
		n.IPv4 = v4.String()
	}
	if v6.IsValid() {
		n.IPv6 = v6.String()
	}
	if _, err := netip.ParseAddr(host); err != nil {
		r.turnOff(n)
	}
	switch r.STUNPort {
	case 0:
		n.STUNPort = STUNOff
	case DefaultSTUNPort:
		n.STUNPort = 0
	}
	if r.Port == DefaultDERPPort {
		n.DERPPort = 0
		if strings.Contains(host, ":") {
			return nil, ErrIPv6Port443
		}
	}
	switch {
	case r.Port == 0: // no connection, no certificate
	case r.Insecure:
		n.InsecureForTests = true
	case r.TLS:
		n.CertName = r.Pin
	}
	return n, nil
}

// turnOff keeps clients from looking up an address of a family at which nothing
// answers.
func (r Relay) turnOff(n *Node) {
	if r.NoIPv4 {
		n.IPv4 = familyOff
	}
	if r.NoIPv6 {
		n.IPv6 = familyOff
	}
}

// familyOff is what clients take for "not over this family": it is no address.
const familyOff = "none"

// addresses settles the host name and the literal of each family.
func (r Relay) addresses() (host string, v4, v6 netip.Addr, err error) {
	v4, v6 = r.IPv4.Unmap(), r.IPv6
	if r.NoIPv4 {
		v4 = netip.Addr{}
	}
	if r.NoIPv6 {
		v6 = netip.Addr{}
	}
	if r.Hostname == "" {
		switch {
		case v4.IsValid():
			return v4.String(), v4, v6, nil
		case v6.IsValid():
			return v6.String(), v4, v6, nil
		}
		return "", v4, v6, ErrNoAddress
	}
	literal, parseErr := netip.ParseAddr(r.Hostname)
	if parseErr != nil {
		return r.Hostname, v4, v6, checkDomain(r.Hostname)
	}
	literal = literal.Unmap()
	if !dialable(literal) {
		return "", v4, v6, &SettingError{"Hostname", fmt.Sprintf("%s is not an address of a host", literal)}
	}
	if literal.Is4() {
		v4 = literal
	} else {
		v6 = literal
	}
	return literal.String(), v4, v6, nil
}

// dialable leaves private and loopback addresses be: a relay for one LAN or for
// a test is a fair use. A zone means nothing on another host.
func dialable(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == ""
}

// checkPin holds a pin to what clients compare by text.
func checkPin(pin string) error {
	if pin == "" {
		return nil
	}
	const hexDigits = 64 // SHA-256
	digits, ok := strings.CutPrefix(pin, PinPrefix)
	if !ok || len(digits) != hexDigits || strings.Trim(digits, "0123456789abcdef") != "" {
		return &SettingError{"Pin", fmt.Sprintf("%q is not %s and %d lower-case hex digits", pin, PinPrefix, hexDigits)}
	}
	return nil
}

// checkDomain takes a DNS name as clients resolve it: ASCII labels of letters,
// digits, - and _, of 63 bytes at most, 253 bytes in all.
func checkDomain(name string) error {
	bad := func(reason string) error {
		return &SettingError{"Hostname", fmt.Sprintf("%q %s", name, reason)}
	}
	if len(name) > 253 {
		return bad("is longer than 253 bytes")
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return bad("is not a domain name: it has an empty or overlong part")
		}
		for i := range len(label) {
			if c := label[i]; !isAlnum(c) && c != '-' && c != '_' {
				return bad("is not a domain name or an IP address; hint: leave out scheme, port and brackets," +
					" and write international names in their xn-- form")
			}
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return bad("looks like an IPv4 address but is not one")
	}
	return nil
}
