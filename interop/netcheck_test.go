package interop

import (
	"context"
	"net/netip"
	"testing"

	"tailscale.com/net/netcheck"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"

	"github.com/detour-relay/detour/internal/config"
)

// check runs Tailscale's netcheck over m, from loopback sockets.
func check(t *testing.T, m *tailcfg.DERPMap) *netcheck.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := &netcheck.Client{NetMon: netmon.NewStatic(), Logf: t.Logf, SkipExternalNetwork: true}
	if err := c.Standalone(ctx, "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	report, err := c.GetReport(ctx, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestNetcheckByUDP(t *testing.T) {
	for _, mode := range []string{config.STUNTailscale, config.STUNRFC} {
		d := startDetour(t, func(c *config.Config) { c.STUNMode = mode })
		m := d.derpMap(false)
		r := check(t, m)
		if !r.UDP || !r.IPv4 || r.GlobalV4.Addr() != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("%s: UDP %v, IPv4 %v, seen as %v", mode, r.UDP, r.IPv4, r.GlobalV4)
		}
		checkHome(t, m, r)
		if s := d.Stats(); s.Web.HTTPRequests != 0 {
			t.Errorf("%s: %d HTTP requests, though UDP works", mode, s.Web.HTTPRequests)
		}
	}
}

// TestNetcheckByHTTPS has no UDP, and measures through a pinned and through an
// unchecked certificate.
func TestNetcheckByHTTPS(t *testing.T) {
	for _, forOldClients := range []bool{false, true} {
		d := startDetour(t, func(c *config.Config) { c.STUNListen = config.Off })
		m := d.derpMap(forOldClients)
		if port := m.Regions[d.Config().RegionID].Nodes[0].STUNPort; port >= 0 {
			t.Errorf("STUN is off, and the map says port %d", port)
		}
		r := check(t, m)
		if r.UDP {
			t.Error("UDP works without STUN")
		}
		checkHome(t, m, r)
		if n := d.Stats().Web.HTTPRequests; n == 0 {
			t.Error("a latency without a request")
		}
	}
}

// checkHome wants every region of m to have been measured, and one of them to be home.
func checkHome(t *testing.T, m *tailcfg.DERPMap, r *netcheck.Report) {
	t.Helper()
	for id := range m.Regions {
		if r.RegionLatency[id] <= 0 || r.PreferredDERP != id {
			t.Errorf("region %d: latency %v; home is %d", id, r.RegionLatency[id], r.PreferredDERP)
		}
	}
}
