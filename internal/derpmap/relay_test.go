package derpmap_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
)

// node makes the relay's map and returns its only node.
func node(t *testing.T, r derpmap.Relay) derpmap.Node {
	t.Helper()
	m, err := r.Map()
	if err != nil {
		t.Fatal(err)
	}
	region := m.Regions[r.RegionID]
	if len(m.Regions) != 1 || region == nil || region.RegionID != r.RegionID || len(region.Nodes) != 1 {
		t.Fatalf("not a map of one node: %+v", m)
	}
	if region.RegionCode != r.RegionCode || region.RegionName != r.RegionName || m.OmitDefaultRegions || m.HomeParams != nil {
		t.Fatalf("region %+v of %+v", region, m)
	}
	n := *region.Nodes[0]
	if n.Name != r.NodeName || n.RegionID != r.RegionID {
		t.Fatalf("node %+v", n)
	}
	return n
}

func TestRelayAddresses(t *testing.T) {
	const v4, v6, other4, other6 = "198.51.100.7", "2001:db8::7", "203.0.113.9", "2001:db8::9"
	cases := []struct {
		hostname, ipv4, ipv6   string // of the relay
		wantHost, want4, want6 string // in the map
	}{
		{"relay.example.com", "", "", "relay.example.com", "", ""},
		{"relay.example.com", v4, v6, "relay.example.com", v4, v6},
		{"", v4, "", v4, v4, ""},
		{"", v4, v6, v4, v4, v6},
		{"", "", v6, v6, "", v6},
		{"", "::ffff:" + v4, "", v4, v4, ""},
		{v4, "", "", v4, v4, ""},
		{v4, other4, other6, v4, v4, other6},
		{v6, other4, other6, v6, other4, v6},
		{"::ffff:" + v4, "", "", v4, v4, ""},
		{"2001:DB8:0:0::7", "", "", v6, "", v6},
		{"192.168.1.2", "", "", "192.168.1.2", "192.168.1.2", ""},
		{"localhost", "", "", "localhost", "", ""},
		{"xn--fiq228c.example", "", "", "xn--fiq228c.example", "", ""},
	}
	for _, c := range cases {
		n := node(t, lab(func(r *derpmap.Relay) {
			r.Hostname, r.IPv4, r.IPv6, r.Port = c.hostname, addr(c.ipv4), addr(c.ipv6), 8443
		}))
		if n.HostName != c.wantHost || n.IPv4 != c.want4 || n.IPv6 != c.want6 {
			t.Errorf("%q %q %q: got %q %q %q", c.hostname, c.ipv4, c.ipv6, n.HostName, n.IPv4, n.IPv6)
		}
	}
}

// addr is the zero Addr for "".
func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func TestRelayServices(t *testing.T) {
	cases := []struct {
		name   string
		change func(*derpmap.Relay)
		want   derpmap.Node // without the names
	}{
		{"default ports", nil, derpmap.Node{}},
		{"other ports", func(r *derpmap.Relay) { r.Port, r.STUNPort = 8443, 3479 }, derpmap.Node{DERPPort: 8443, STUNPort: 3479}},
		{"no stun", func(r *derpmap.Relay) { r.STUNPort = 0 }, derpmap.Node{STUNPort: -1}},
		{"stun only", func(r *derpmap.Relay) { r.Port, r.Pin, r.Insecure = 0, pin, true }, derpmap.Node{STUNOnly: true}},
		{"pin", func(r *derpmap.Relay) { r.Pin = pin }, derpmap.Node{CertName: pin}},
		{"insecure replaces the pin", func(r *derpmap.Relay) { r.Pin, r.Insecure = pin, true }, derpmap.Node{InsecureForTests: true}},
		{"insecure alone", func(r *derpmap.Relay) { r.Insecure = true }, derpmap.Node{InsecureForTests: true}},
		{"behind a proxy", func(r *derpmap.Relay) { r.TLS, r.Pin = false, pin }, derpmap.Node{}},
		{"insecure proxy", func(r *derpmap.Relay) { r.TLS, r.Insecure = false, true }, derpmap.Node{InsecureForTests: true}},
		{"port 80", func(r *derpmap.Relay) { r.CanPort80, r.IPv4 = true, addr("198.51.100.7") }, derpmap.Node{CanPort80: true, IPv4: "198.51.100.7"}},
		{"port 80 without IPv4", func(r *derpmap.Relay) { r.CanPort80 = true }, derpmap.Node{}},
		{"IPv6 STUN only", func(r *derpmap.Relay) { r.Hostname, r.Port = "2001:db8::7", 0 }, derpmap.Node{STUNOnly: true, IPv6: "2001:db8::7"}},
	}
	for _, c := range cases {
		r := lab(c.change)
		c.want.Name, c.want.RegionID, c.want.HostName = r.NodeName, r.RegionID, r.Hostname
		if got := node(t, r); got != c.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func TestRelaySentinels(t *testing.T) {
	cases := []struct {
		name   string
		change func(*derpmap.Relay)
		want   error
	}{
		{"nothing to dial", func(r *derpmap.Relay) { r.Hostname = "" }, derpmap.ErrNoAddress},
		{"IPv6 name on 443", func(r *derpmap.Relay) { r.Hostname = "2001:db8::7" }, derpmap.ErrIPv6Port443},
		{"IPv6 address on 443", func(r *derpmap.Relay) { r.Hostname, r.IPv6 = "", addr("2001:db8::7") }, derpmap.ErrIPv6Port443},
		{"IPv6 name on 443 beside IPv4", func(r *derpmap.Relay) { r.Hostname, r.IPv4 = "2001:db8::7", addr("198.51.100.7") }, derpmap.ErrIPv6Port443},
		{"no service", func(r *derpmap.Relay) { r.Port, r.STUNPort = 0, 0 }, derpmap.ErrNoService},
	}
	for _, c := range cases {
		m, err := lab(c.change).Map()
		if !errors.Is(err, c.want) || m.Regions != nil {
			t.Errorf("%s: got %v, %v", c.name, m, err)
			continue
		}
		if !strings.Contains(err.Error(), "; hint: ") {
			t.Errorf("%s: no next step in %q", c.name, err)
		}
	}
}

func TestRelaySettings(t *testing.T) {
	hostnames := []string{
		"https://relay.example.com", "relay.example.com:443", "[2001:db8::7]", "relay example", "relay..example", "relay.example.", ".",
		"上海.example", "300.1.1.1", "10.0.1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "fe80::1%eth0",
		strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 126) + "ab",
	}
	type change = func(*derpmap.Relay)
	cases := map[string][]change{
		"RegionID": {
			func(r *derpmap.Relay) { r.RegionID = 0 }, func(r *derpmap.Relay) { r.RegionID = -1 },
			func(r *derpmap.Relay) { r.RegionID = 65536 },
		},
		"RegionCode": {func(r *derpmap.Relay) { r.RegionCode = "" }},
		"NodeName":   {func(r *derpmap.Relay) { r.NodeName = "" }},
		"Port":       {func(r *derpmap.Relay) { r.Port = -1 }, func(r *derpmap.Relay) { r.Port = 65536 }},
		"STUNPort":   {func(r *derpmap.Relay) { r.STUNPort = -1 }, func(r *derpmap.Relay) { r.STUNPort = 65536 }},
		"IPv4": {
			func(r *derpmap.Relay) { r.IPv4 = addr("2001:db8::7") }, func(r *derpmap.Relay) { r.IPv4 = addr("0.0.0.0") },
		},
		"IPv6": {
			func(r *derpmap.Relay) { r.IPv6 = addr("198.51.100.7") }, func(r *derpmap.Relay) { r.IPv6 = addr("::ffff:198.51.100.7") },
			func(r *derpmap.Relay) { r.IPv6 = addr("fe80::1%eth0") },
		},
		"Pin": {
			func(r *derpmap.Relay) { r.Pin = derpmap.PinPrefix + strings.ToUpper(pin[len(derpmap.PinPrefix):]) },
			func(r *derpmap.Relay) { r.Pin = pin[:len(pin)-1] }, func(r *derpmap.Relay) { r.Pin = pin[len(derpmap.PinPrefix):] },
			func(r *derpmap.Relay) { r.Pin = pin[:len(pin)-9] + "g" + pin[len(pin)-8:] },
		},
	}
	for _, h := range hostnames {
		cases["Hostname"] = append(cases["Hostname"], func(r *derpmap.Relay) { r.Hostname = h })
	}
	for setting, changes := range cases {
		for i, c := range changes {
			r := lab(c)
			m, err := r.Map()
			var e *derpmap.SettingError
			if !errors.As(err, &e) || e.Setting != setting || m.Regions != nil {
				t.Errorf("%s, case %d: got %v, %v for %+v", setting, i, m, err, r)
			}
		}
	}
	for _, id := range []int{derpmap.MinRegionID, derpmap.MaxRegionID} {
		node(t, lab(func(r *derpmap.Relay) { r.RegionID = id }))
	}
	longest := strings.Repeat("a.", 125) + "abc" // 253 bytes
	if n := node(t, lab(func(r *derpmap.Relay) { r.Hostname = longest })); n.HostName != longest {
		t.Errorf("a name of %d bytes became %q", len(longest), n.HostName)
	}
}

func TestSparePorts(t *testing.T) {
	other := addr("203.0.113.9")
	r := lab(func(r *derpmap.Relay) {
		r.Hostname, r.IPv4, r.IPv6, r.Port, r.STUNPort, r.CanPort80 = "198.51.100.7", addr("198.51.100.7"), addr("2001:db8::7"), 443, 3478, true
		r.Pin, r.TLS = derpmap.PinPrefix+strings.Repeat("ab", 32), true
		r.Spare = []derpmap.Spare{
			{Port: 8443, TLS: true},
			{Port: 9443, STUNPort: 3479, TLS: true, NoIPv6: true},
			{Port: 443, TLS: true, IPv4: other},
			{STUNPort: 3480},
		}
	})
	m, err := r.Map()
	if err != nil {
		t.Fatal(err)
	}
	nodes := m.Regions[r.RegionID].Nodes
	if len(nodes) != 5 {
		t.Fatalf("%d nodes", len(nodes))
	}
	first := *nodes[0]
	spare := func(change func(*derpmap.Node)) derpmap.Node {
		n := first
		n.CanPort80 = false
		change(&n)
		return n
	}
	want := []derpmap.Node{
		first,
		spare(func(n *derpmap.Node) { n.Name, n.DERPPort, n.STUNPort = r.NodeName+"-b", 8443, -1 }),
		spare(func(n *derpmap.Node) { n.Name, n.DERPPort, n.STUNPort, n.IPv6 = r.NodeName+"-c", 9443, 3479, "" }),
		spare(func(n *derpmap.Node) {
			n.Name, n.STUNPort, n.HostName, n.IPv4, n.IPv6 = r.NodeName+"-d", -1, "203.0.113.9", "203.0.113.9", ""
		}),
		spare(func(n *derpmap.Node) {
			n.Name, n.STUNPort, n.STUNOnly, n.CertName = r.NodeName+"-e", 3480, true, ""
		}),
	}
	for i, w := range want {
		if *nodes[i] != w {
			t.Errorf("node %d: %+v\nwant %+v", i, *nodes[i], w)
		}
	}
	if !first.CanPort80 || first.Name != r.NodeName || first.CertName == "" {
		t.Errorf("the first node: %+v", first)
	}
}

// TestFamilyOff: a domain may lead to an address at which the port is closed.
func TestFamilyOff(t *testing.T) {
	for _, c := range []struct {
		hostname     string
		no4, no6     bool
		want4, want6 string
		wantHost     string
	}{
		{"relay.example.com", false, true, "198.51.100.7", "none", "relay.example.com"},
		{"relay.example.com", true, false, "none", "2001:db8::7", "relay.example.com"},
		{"", false, true, "198.51.100.7", "", "198.51.100.7"},
		{"", true, false, "", "2001:db8::7", "2001:db8::7"},
		{"198.51.100.9", true, false, "198.51.100.9", "2001:db8::7", "198.51.100.9"},
	} {
		n := node(t, lab(func(r *derpmap.Relay) {
			r.Hostname, r.IPv4, r.IPv6, r.Port, r.NoIPv4, r.NoIPv6 = c.hostname, addr("198.51.100.7"), addr("2001:db8::7"), 8443, c.no4, c.no6
		}))
		if n.HostName != c.wantHost || n.IPv4 != c.want4 || n.IPv6 != c.want6 {
			t.Errorf("%+v: %q %q %q", c, n.HostName, n.IPv4, n.IPv6)
		}
	}
}
