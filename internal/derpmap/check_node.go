package derpmap

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// nodeChecker checks one node.
type nodeChecker struct {
	*checker
	region *Region
	id, i  int // the region's key, and the node's place in it
	n      *Node
}

func (c *nodeChecker) at(rule, field, problem string) {
	c.find(finding{rule: rule, path: nodePath(c.id, c.i, field), where: nodeLabel(c.id, c.i, c.n), problem: problem})
}

func (c *nodeChecker) check() {
	c.identity()
	c.host()
	c.addresses()
	if !c.n.STUNOnly {
		c.certificate()
	}
	c.ports()
	c.portal()
}

func (c *nodeChecker) identity() {
	if c.n.Name == "" {
		c.at("node-name-missing", "name", "no Name")
	}
	switch {
	case c.n.RegionID == 0:
		c.at("node-region-missing", "regionid", "no RegionID")
	case c.n.RegionID != c.id:
		c.at("node-region-mismatch", "regionid", fmt.Sprintf("RegionID is %d in region %d", c.n.RegionID, c.id))
	}
}

// literal is the address that s is, the zero Addr when it is none.
func literal(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a
}

func (c *nodeChecker) host() {
	host := c.n.HostName
	addr := literal(host)
	switch {
	case host == "":
		c.at("hostname-missing", "hostname", "no HostName")
	case !addr.IsValid():
		// Of a name that ends in a dot, clients leave the dot out where it matters.
		if err := checkDomain(strings.TrimSuffix(host, ".")); err != nil {
			c.at("hostname-form", "hostname", "HostName "+reasonOf(err))
		}
	case addr.Zone() != "":
		c.at("hostname-form", "hostname", fmt.Sprintf("HostName %q has a zone, which means nothing elsewhere", host))
	case addr.Is6() && !c.n.STUNOnly && portOr(c.n.DERPPort, DefaultDERPPort) == DefaultDERPPort:
		c.at("ipv6-hostname-443", "hostname", "HostName is an IPv6 address and the port is 443")
	default:
		c.reach(addr, "hostname", "HostName")
	}
	for _, f := range []struct{ name, text string }{{"IPv4", c.n.IPv4}, {"IPv6", c.n.IPv6}} {
		field := literal(f.text)
		if addr.IsValid() && field.IsValid() && addr.Is4() == field.Is4() && addr != field {
			c.at("host-differs", strings.ToLower(f.name), fmt.Sprintf("%s is %s and HostName %s", f.name, f.text, host))
		}
	}
}

// reasonOf is a SettingError without the name of its setting and its hint.
func reasonOf(err error) string {
	var setting *SettingError
	if !errors.As(err, &setting) {
		return err.Error()
	}
	reason, _, _ := strings.Cut(setting.Reason, "; hint: ")
	return reason
}

// reach looks at whether anybody else can reach an address.
func (c *nodeChecker) reach(a netip.Addr, field, name string) {
	a = a.Unmap()
	switch {
	case !dialable(a):
		c.at("address-impossible", field, fmt.Sprintf("%s %s is no address of a host", name, a))
	case !a.IsGlobalUnicast() || !public(a):
		c.at("address-private", field, fmt.Sprintf("%s %s is no public address", name, a))
	}
}

func (c *nodeChecker) addresses() {
	v4 := c.family("IPv4", c.n.IPv4, netip.Addr.Is4)
	v6 := c.family("IPv6", c.n.IPv6, netip.Addr.Is6)
	// An address in HostName serves its own family alone.
	host := literal(c.n.HostName)
	v4 = v4 && (c.n.IPv4 != "" || !host.Is6())
	v6 = v6 && (c.n.IPv6 != "" || !host.Is4())
	if !v4 && !v6 {
		c.at("no-address", "", "IPv4 and IPv6 are both off")
	}
}

// family reports whether clients use a family for the node.
func (c *nodeChecker) family(name, text string, is func(netip.Addr) bool) bool {
	if text == "" {
		return true // by DNS
	}
	field := strings.ToLower(name)
	a := literal(text)
	if !is(a) {
		if text != familyOff {
			c.at("family-off", field, fmt.Sprintf("%s %q is no %s address", name, cut(text), name))
		}
		return false
	}
	if text != c.n.HostName {
		c.reach(a, field, name)
	}
	return true
}

func (c *nodeChecker) certificate() {
	name := c.n.CertName
	switch {
	case looksLikePin(name):
		if reason := pinFault(name); reason != "" {
			c.at("pin-form", "certname", reason)
		}
	case name == "":
		if literal(c.n.HostName).IsValid() && !c.n.InsecureForTests {
			c.at("ip-name-unchecked", "hostname", "HostName is an address, and no pin is set")
		}
	case !literal(name).IsValid():
		// A wildcard is compared as it stands, and so matches that of a certificate.
		if err := checkDomain(strings.TrimPrefix(name, "*.")); err != nil {
			c.at("certname-form", "certname", "CertName "+reasonOf(err))
		}
	}
	switch {
	case c.n.InsecureForTests && strings.HasPrefix(name, PinPrefix):
		c.at("insecure-with-pin", "insecurefortests", "InsecureForTests beside a pin")
	case c.n.InsecureForTests:
		c.at("insecure", "insecurefortests", "InsecureForTests is set")
	}
}

const pinDigits = 64 // SHA-256

// looksLikePin reports whether somebody may have meant a pin.
func looksLikePin(name string) bool {
	lower := strings.ToLower(name)
	bare := strings.ReplaceAll(lower, ":", "")
	return strings.HasPrefix(lower, "sha256") || len(bare) == pinDigits && isHex(bare)
}

func isHex(lower string) bool { return strings.Trim(lower, "0123456789abcdef") == "" }

// pinFault says what is wrong with a pin; empty: nothing.
func pinFault(name string) string {
	digits, ok := strings.CutPrefix(name, PinPrefix)
	switch {
	case !ok:
		return fmt.Sprintf("the pin %q does not begin with %s", cut(name), PinPrefix)
	case len(digits) != pinDigits:
		return fmt.Sprintf("the pin has %d characters after %s, not %d", len(digits), PinPrefix, pinDigits)
	case isHex(digits):
		return ""
	case isHex(strings.ToLower(digits)):
		return "the pin has digits in upper case"
	}
	return "the pin has characters that are no hex digits"
}

func (c *nodeChecker) ports() {
	n := c.n
	if n.DERPPort < 0 || n.DERPPort > 65535 {
		c.at("derp-port-range", "derpport", fmt.Sprintf("DERPPort %d", n.DERPPort))
	}
	off := n.STUNPort < 0 || n.STUNPort > 65535
	switch {
	case off && n.STUNOnly:
		c.at("stun-only-no-stun", "stunport", fmt.Sprintf("STUNOnly with STUNPort %d", n.STUNPort))
	case n.STUNPort > 65535:
		c.at("stun-port-range", "stunport", fmt.Sprintf("STUNPort %d", n.STUNPort))
	case off:
		c.at("stun-off", "stunport", fmt.Sprintf("STUNPort %d", n.STUNPort))
	}
	if n.STUNTestIP != "" {
		c.at("stun-test-ip", "stuntestip", "STUNTestIP is set")
	}
}

// portalAddress is where clients look for captive portals at a node.
func portalAddress(r *Region, n *Node) (netip.Addr, bool) {
	a := literal(n.IPv4)
	return a, n.CanPort80 && a.Is4() && !r.Avoid && !r.NoMeasureNoHome
}

// maxProbed is how many addresses Check has asked: no map is a list of the internet.
const maxProbed = 200

// probe has port 80 of all nodes asked that promise it, or says that nobody asks.
func (c *checker) probe() {
	var all []string
	var places []string // of each of them, the first
	seen := make(map[netip.Addr]bool)
	for _, id := range c.ids {
		r := c.m.Regions[id]
		if r == nil {
			continue
		}
		for i, n := range r.Nodes {
			if n == nil {
				continue
			}
			if a, ok := portalAddress(r, n); ok && !seen[a] {
				seen[a] = true
				all, places = append(all, a.String()), append(places, nodePath(id, i, "canport80"))
			}
		}
	}
	asked := 0
	if c.Probe != nil {
		asked = min(len(all), maxProbed)
		c.answers = c.Probe(all[:asked])
	}
	if rest := all[asked:]; len(rest) > 0 {
		text := fmt.Sprintf("whether port 80 of %s answers was not looked at", rest[0])
		if more := len(rest) - 1; more > 0 {
			text = fmt.Sprintf("whether port 80 of %s and %d more answers was not looked at", rest[0], more)
		}
		c.find(finding{rule: "port80-not-looked-at", path: places[asked], problem: text})
	}
}

// portal checks what a node promises about port 80.
func (c *nodeChecker) portal() {
	if !c.n.CanPort80 {
		return
	}
	a, asked := portalAddress(c.region, c.n)
	answer := c.answers[a.String()]
	switch {
	case !a.Is4():
		c.at("port80-no-ipv4", "canport80", "CanPort80 without an IPv4 address")
	case !asked:
		c.at("port80-unused", "canport80", "CanPort80 in a region that clients leave out")
	case answer.Silent:
		c.at("port80-silent", "canport80", fmt.Sprintf("nothing answers on port 80 of %s", a))
	case answer.Wrong != "":
		c.at("port80-wrong", "canport80", fmt.Sprintf("port 80 of %s answers %s", a, answer.Wrong))
	}
}
