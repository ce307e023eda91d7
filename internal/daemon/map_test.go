package daemon

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
)

// loopbackOnly is what every map of these tests is warned of: they listen on
// loopback and publish another address.
var loopbackOnly = []string{"the relay listens on 127.0.0.1, which only this machine can reach"}

func addrOf(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestMapOfARunningRelay(t *testing.T) {
	b := mustBuild(t, settings(t, func(c *config.Config) { c.RegionID, c.NodeName = 905, "mine" }))
	m, warnings, err := b.Map(false)
	if err != nil || !slices.Equal(warnings, loopbackOnly) {
		t.Fatalf("warnings %q, %v", warnings, err)
	}
	node := m.Regions[905].Nodes[0]
	if node.Name != "mine" || node.HostName != "203.0.113.7" || node.IPv4 != "203.0.113.7" || node.IPv6 != "2001:db8::7" ||
		node.DERPPort != portOf(b.Config().Listen) || node.STUNPort != portOf(b.Config().STUNListen) ||
		node.CertName != b.id.cert.Pin() || node.InsecureForTests || node.STUNOnly || node.CanPort80 {
		t.Errorf("node %+v", node)
	}
	m, warnings, err = b.Map(true)
	if err != nil || len(warnings) != 2 || !strings.Contains(warnings[0], "InsecureForTests") {
		t.Errorf("for old clients: warnings %q, %v", warnings, err)
	}
	if node := m.Regions[905].Nodes[0]; node.CertName != "" || !node.InsecureForTests {
		t.Errorf("for old clients: node %+v", node)
	}
}

// What the tests cannot bind is tried on the settings alone.
func TestStandardPortsInTheMap(t *testing.T) {
	c := settings(t, func(c *config.Config) { c.Listen, c.STUNListen, c.HTTPListen = ":443", ":3478", ":80" })
	m, err := mapOf(c, identity{addrs: publishedAddrs(c, []netip.Addr{addrOf("203.0.113.7")})}, false)
	if err != nil {
		t.Fatal(err)
	}
	if node := m.Regions[900].Nodes[0]; node.DERPPort != 0 || node.STUNPort != 0 || !node.CanPort80 {
		t.Errorf("node %+v", node)
	}
}

func TestSetAddressesWin(t *testing.T) {
	c := settings(t, func(c *config.Config) {
		c.PublicIPv4, c.PublicIPv6 = addrOf("198.51.100.4"), addrOf("2001:db8::4")
	})
	b := mustBuild(t, c)
	if b.id.addrs.IPv4 != c.PublicIPv4 || b.id.addrs.IPv6 != c.PublicIPv6 {
		t.Errorf("published: %+v", b.id.addrs)
	}
}

// Two relays that were told nothing do not collide in one map but for the region.
func TestNodeNamesDiffer(t *testing.T) {
	a, b := mustBuild(t, settings(t, nil)), mustBuild(t, settings(t, nil))
	if nodeName(a.cfg, a.ServerKey()) == nodeName(b.cfg, b.ServerKey()) {
		t.Error("they have one name")
	}
}

func TestMapFromTheStateDirectory(t *testing.T) {
	b := mustBuild(t, settings(t, func(c *config.Config) { c.PublicIPv4, c.PublicIPv6 = addrOf("198.51.100.4"), addrOf("2001:db8::4") }))
	want, _, err := b.Map(false)
	if err != nil {
		t.Fatal(err)
	}
	c := b.Config() // with the ports that were bound
	b.Close()
	before := files(t, c.StateDir)
	got, warnings, err := Map(c, false)
	if err != nil || !slices.Equal(warnings, loopbackOnly) {
		t.Fatalf("warnings %q, %v", warnings, err)
	}
	if *got.Regions[900].Nodes[0] != *want.Regions[900].Nodes[0] {
		t.Errorf("got %+v\nwant %+v", got.Regions[900].Nodes[0], want.Regions[900].Nodes[0])
	}
	if after := files(t, c.StateDir); after != before {
		t.Errorf("the state directory held %s, and now %s", before, after)
	}
}

func TestMapBeforeTheFirstStart(t *testing.T) {
	c := settings(t, func(c *config.Config) { c.Listen, c.STUNListen = "127.0.0.1:8443", "127.0.0.1:3478" })
	_, _, err := Map(c, false)
	wantError(t, err, "has not run yet", c.ServerKey, "detour serve", "--state-dir")
	if _, err := os.Lstat(c.StateDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state directory was made: %v", err)
	}
	// With a key alone, as after `detour key generate`.
	if _, err := CreateServerKey(c.ServerKey); err != nil {
		t.Fatal(err)
	}
	if _, _, err = Map(c, false); !errors.Is(err, cert.ErrNoPin) {
		t.Errorf("Map: %v", err)
	}
	wantError(t, err, "detour serve")
	if got := files(t, c.StateDir); got != "server.key" {
		t.Errorf("the state directory holds %s", got)
	}
}

// A map with port 0 would be that of a relay without DERP.
func TestMapOfAPortThatIsNotKnown(t *testing.T) {
	c := settings(t, nil)
	mustBuild(t, c).Close()
	_, _, err := Map(c, false)
	wantError(t, err, "--listen 127.0.0.1:0", "name a port")
	c.Listen = config.Off
	_, _, err = Map(c, false)
	wantError(t, err, "--stun-listen 127.0.0.1:0")
}

func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestLoadCertOfFiles(t *testing.T) {
	i := issue(t, "relay.example.org", time.Now().AddDate(0, 1, 0))
	c := settings(t, func(c *config.Config) { c.CertMode, c.Cert, c.Key = config.CertFiles, i.cert, i.key })
	got, err := LoadCert(c)
	if err != nil || got.SelfSigned() {
		t.Errorf("%v, %v", got, err)
	}
	c.Cert = filepath.Join(t.TempDir(), "missing.pem")
	_, err = LoadCert(c)
	wantError(t, err, c.Cert)
}

func TestInterfaceAddrs(t *testing.T) {
	addrs, err := InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.IsLoopback() {
			return
		}
	}
	t.Errorf("no loopback among %v", addrs)
}
