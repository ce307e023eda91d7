package interop

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/envknob"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	tskey "tailscale.com/types/key"
	"tailscale.com/types/logger"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/web"
)

// byRegion makes Tailscale clients that dial the region of a DERP map, as
// tailscaled does.
func byRegion(t testing.TB, region *tailcfg.DERPRegion, cfg *tls.Config) func() *derphttp.Client {
	return func() *derphttp.Client {
		c := newOfficial(t, region, identity{})
		c.TLSConfig = cfg
		return c
	}
}

// byURL makes Tailscale clients that dial a URL, as derper's mesh does.
func byURL(t testing.TB, address string) func() *derphttp.Client {
	return func() *derphttp.Client {
		c, err := derphttp.NewClient(tskey.NewNode(), address, logger.Discard, netmon.NewStatic())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// roundTrip sends the largest packet from one new client to another and back.
func roundTrip(t testing.TB, dial func() *derphttp.Client) {
	t.Helper()
	a, b := dial(), dial()
	for _, c := range []*derphttp.Client{a, b} {
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m, err := receive(c); err != nil {
			t.Fatalf("at the login: %T, %v", m, err)
		}
	}
	packet := strings.Repeat("x", derp.MaxPacketSize)
	for _, pair := range [][2]*derphttp.Client{{a, b}, {b, a}} {
		from, to := pair[0], pair[1]
		if err := from.Send(to.SelfPublicKey(), []byte(packet)); err != nil {
			t.Fatal(err)
		}
		m, err := receive(to)
		if p, ok := m.(derp.ReceivedPacket); !ok || p.Source != from.SelfPublicKey() || string(p.Data) != packet {
			t.Fatalf("received %T, %v", m, err)
		}
	}
}

// receive is c.Recv, but waits no longer than patience.
func receive(c *derphttp.Client) (derp.ReceivedMessage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	return c.Recv()
}

// withFiles gives a relay a certificate that ca has signed.
func withFiles(t testing.TB, ca authority) func(*config.Config) {
	return func(c *config.Config) {
		c.Hostname, c.CertMode = ours, config.CertFiles
		c.Cert, c.Key = ca.files(t, ours)
	}
}

func named(c *config.Config) { c.Hostname = ours }

func TestOfficialClientConnects(t *testing.T) {
	ca := newAuthority(t)
	fast, raw := web.UpgradeStats{FastStart: 2}, web.UpgradeStats{Raw: 2}
	tls12, tls13 := web.TLSVersions{TLS12: 2}, web.TLSVersions{TLS13: 2}
	for name, c := range map[string]struct {
		config   func(*config.Config)
		old      bool // takes the map for old clients
		tls      *tls.Config
		upgrades web.UpgradeStats
		versions web.TLSVersions
	}{
		"pinned, by IP":   {nil, false, nil, fast, tls13},
		"pinned, by name": {named, false, nil, fast, tls13},
		"pinned, TLS 1.2": {named, false, &tls.Config{MaxVersion: tls.VersionTLS12}, raw, tls12},
		"insecure":        {nil, true, nil, fast, tls13},
		"CA":              {withFiles(t, ca), false, &tls.Config{RootCAs: ca.roots()}, fast, tls13},
		"CA, TLS 1.2":     {withFiles(t, ca), false, &tls.Config{RootCAs: ca.roots(), MaxVersion: tls.VersionTLS12}, raw, tls12},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDetour(t, c.config)
			roundTrip(t, byRegion(t, d.region(c.old), c.tls))
			stats := d.Stats().Web
			if stats.Upgrades != c.upgrades || stats.TLSVersions != c.versions {
				t.Errorf("upgrades %+v, TLS %+v; want %+v, %+v", stats.Upgrades, stats.TLSVersions, c.upgrades, c.versions)
			}
		})
	}
}

// TestOfficialClientRefuses checks that the good cases above are good because the
// client checks something.
func TestOfficialClientRefuses(t *testing.T) {
	other := client.PinPrefix + strings.Repeat("00", 32)
	for name, c := range map[string]struct {
		config func(*config.Config)
		change func(*tailcfg.DERPNode)
	}{
		"other pin":    {nil, func(n *tailcfg.DERPNode) { n.CertName = other }},
		"no pin":       {nil, func(n *tailcfg.DERPNode) { n.CertName = "" }},
		"other name":   {named, func(n *tailcfg.DERPNode) { n.HostName = "other.example" }},
		"unknown CA":   {withFiles(t, newAuthority(t)), func(*tailcfg.DERPNode) {}},
		"wrong scheme": {func(c *config.Config) { c.TLS = false }, func(*tailcfg.DERPNode) {}},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDetour(t, c.config)
			region := d.region(false)
			c.change(region.Nodes[0])
			if err := byRegion(t, region, nil)().Connect(t.Context()); err == nil {
				t.Error("the client connects")
			}
			if up := d.Stats().Web.Upgrades; up != (web.UpgradeStats{}) {
				t.Errorf("upgrades %+v", up)
			}
		})
	}
}

func TestOfficialClientPlain(t *testing.T) {
	d := startDetour(t, func(c *config.Config) { c.TLS = false })
	roundTrip(t, byURL(t, "http://"+d.Config().Listen+"/derp"))
	if up := d.Stats().Web.Upgrades; up != (web.UpgradeStats{Raw: 2}) {
		t.Errorf("upgrades %+v", up)
	}
}

func TestOfficialClientWebSocket(t *testing.T) {
	envknob.Setenv("TS_DEBUG_DERP_WS_CLIENT", "true")
	defer envknob.Setenv("TS_DEBUG_DERP_WS_CLIENT", "")
	ca := newAuthority(t)
	plain := startDetour(t, func(c *config.Config) { c.TLS = false })
	secure := startDetour(t, withFiles(t, ca))
	secureAddr := netip.MustParseAddrPort(secure.Config().Listen)

	// Its WebSockets go through net/http's default transport.
	before := http.DefaultTransport
	defer func() { http.DefaultTransport = before }()
	http.DefaultTransport = &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ca.roots()},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, strings.Replace(addr, ours, secureAddr.Addr().String(), 1))
		},
	}
	if !hasWebSockets(t, plain) {
		t.Skip("this build of Tailscale's client has no WebSocket; hint: go test -tags ts_debug_websockets")
	}
	for name, c := range map[string]struct {
		d    *detour
		dial func() *derphttp.Client
	}{
		"plain": {plain, byURL(t, "http://"+plain.Config().Listen+"/derp")},
		"TLS":   {secure, byRegion(t, secure.region(false), nil)},
	} {
		before := c.d.Stats().Web.Upgrades.WebSocket
		roundTrip(t, c.dial)
		if up := c.d.Stats().Web.Upgrades; up.WebSocket != before+2 || up.Raw+up.FastStart > 0 {
			t.Errorf("%s: upgrades %+v", name, up)
		}
	}
}

// hasWebSockets asks the client itself, by which way it comes.
func hasWebSockets(t *testing.T, d *detour) bool {
	t.Helper()
	if err := byURL(t, (&url.URL{Scheme: "http", Host: d.Config().Listen, Path: "/derp"}).String())().Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d.Stats().Web.Upgrades.WebSocket > 0
}

// TestOfficialClientRefused checks what a key sees that is not admitted, and
// that another is let in.
func TestOfficialClientRefused(t *testing.T) {
	admitted := key.NewPrivate()
	d := startDetour(t, func(c *config.Config) {
		c.Admit, c.AdmitKey, c.Refusal = nil, []string{admitted.Public().String()}, config.RefusalClose
	})
	p := connect(t, dialOfficial, d.region(false), identity{key: admitted})
	p.sync()
	connect(t, dialOfficial, d.region(false), identity{}).wantEnd()
	if s := d.Stats().Relay; s.Refused != 1 || s.Connections != 1 {
		t.Errorf("%d refused, %d connections", s.Refused, s.Connections)
	}
}
