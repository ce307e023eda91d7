package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/link"
	"github.com/detour-relay/detour/internal/listen"
)

// dialWith connects through a dialler of the test's own, such as one that plays a
// proxy.
func (b *bed) dialWith(o client.Options, dial func(context.Context) (net.Conn, error)) (*client.Client, error) {
	o.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	c, err := client.Dial(b.t.Context(), o)
	if err == nil {
		b.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// TestSeveralDoors: each serves the same relay, and the map lists those that it
// should.
func TestSeveralDoors(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	b := mustBuild(t, settings(t, func(c *config.Config) {
		c.Admit, c.NodeName = []string{config.AdmitAny}, "mine"
		c.AlsoListen = []string{"127.0.0.1:0", "127.0.0.1:0,tls=off", "127.0.0.1:0,public_port=9443", "unix:" + path + ",tls=off"}
		c.AlsoSTUNListen = []string{"127.0.0.1:0"}
	}))
	b.run()
	c := b.Config()
	doors := c.Doors()
	if len(doors) != 5 {
		t.Fatalf("doors %+v", doors)
	}
	for i, d := range doors {
		o := b.options()
		o.Addr = d.Address
		o.Plain = !d.TLS
		if i == 4 {
			if _, err := b.dialWith(o, func(context.Context) (net.Conn, error) { return net.Dial("unix", path) }); err != nil {
				t.Errorf("door %d: %v", i, err)
			}
			continue
		}
		b.dial(o)
	}
	m, _, err := b.Map(false)
	if err != nil {
		t.Fatal(err)
	}
	nodes := m.Regions[c.RegionID].Nodes
	if len(nodes) != 3 {
		t.Fatalf("%d nodes in the map, want 3", len(nodes))
	}
	for i, want := range []struct {
		name       string
		port, stun int
	}{
		{"mine", portOf(c.Listen), portOf(c.STUNListen)}, {"mine-b", portOf(doors[1].Address), portOf(c.AlsoSTUNListen[0])}, {"mine-c", 9443, -1},
	} {
		n := nodes[i]
		if n.Name != want.name || n.DERPPort != want.port || n.STUNPort != want.stun || n.CertName != nodes[0].CertName || n.HostName != nodes[0].HostName {
			t.Errorf("node %+v, want %+v", n, want)
		}
	}
	s := b.Stats()
	if len(s.AlsoListen) != 4 || s.AlsoListen[3].Address != "unix:"+path || s.AlsoListen[0].Accepted != 1 || s.Listen.Accepted != 1 {
		t.Errorf("also_listen %+v", s.AlsoListen)
	}
	// The map of the settings is the map of the running relay.
	again, _, err := Map(c, false)
	if err != nil || len(again.Regions[c.RegionID].Nodes) != 3 {
		t.Errorf("from the settings: %+v, %v", again, err)
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestPROXYNamesThePeer: admission, watchers and the log see the client and not
// the proxy, and a connection without a header gets nowhere.
func TestPROXYNamesThePeer(t *testing.T) {
	b := mustBuild(t, settings(t, func(c *config.Config) {
		c.ProxyProtocol, c.Refusal = []string{"127.0.0.1"}, config.RefusalClose
	}))
	b.run()
	viaProxy := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", b.Config().Listen)
		if err == nil {
			_, err = io.WriteString(c, "PROXY TCP4 198.51.100.7 203.0.113.1 4711 443\r\n")
		}
		return c, err
	}
	// Nobody is admitted: the refusal is logged with the address.
	if _, err := b.dialWith(b.options(), viaProxy); err == nil {
		t.Error("admitted")
	}
	if log := b.log.String(); !strings.Contains(log, "198.51.100.7") {
		t.Errorf("the log does not name the client:\n%s", log)
	}
	if _, err := client.Dial(t.Context(), b.options()); err == nil {
		t.Error("a connection without a header was served")
	}
	if s := b.Stats(); s.Listen.BadProxy != 1 {
		t.Errorf("listen %+v", s.Listen)
	}
}

// TestMapBehindASocket: only its operator knows which port leads to a socket.
func TestMapBehindASocket(t *testing.T) {
	path := "unix:" + filepath.Join(shortDir(t), "s")
	b := mustBuild(t, settings(t, func(c *config.Config) { c.Listen, c.TLS = path, false }))
	_, _, err := b.Map(false)
	wantError(t, err, "has no port that clients could dial", "--public-port")
	b.Close()
	b = mustBuild(t, settings(t, func(c *config.Config) { c.Listen, c.TLS, c.PublicPort = path, false, 443 }))
	m, _, err := b.Map(false)
	if err != nil || m.Regions[900].Nodes[0].DERPPort != 0 {
		t.Errorf("%+v, %v", m.Regions[900].Nodes[0], err)
	}
}

func TestPublishedPorts(t *testing.T) {
	c := settings(t, func(c *config.Config) {
		c.Listen, c.STUNListen, c.HTTPListen = ":443", ":3478", config.Off
		c.PublicPort, c.PublicSTUNPort = 8443, 13478
		c.AlsoListen = []string{"0.0.0.0:444", "[::]:445", "198.51.100.9:446"}
	})
	m, err := mapOf(c, identity{addrs: publishedAddrs(c, []netip.Addr{addrOf("203.0.113.7"), addrOf("2001:db8::7")})}, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range m.Regions[900].Nodes {
		got = append(got, fmt.Sprintf("%s %d/%d %s %s", n.HostName, n.DERPPort, n.STUNPort, n.IPv4, n.IPv6))
	}
	want := []string{
		"203.0.113.7 8443/13478 203.0.113.7 2001:db8::7",
		"203.0.113.7 444/-1 203.0.113.7 ",
		"2001:db8::7 445/-1  2001:db8::7",
		"198.51.100.9 446/-1 198.51.100.9 ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestGateway(t *testing.T) {
	const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for text, want := range map[string]string{
		head + "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" + "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n": "172.17.0.1",
		head + "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n":                                                                  "invalid IP",
		"": "invalid IP", "x": "invalid IP", "a 00000000 zz": "invalid IP",
	} {
		if got := gatewayIn(text).String(); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestDoorsAreOneRelay: a client at the spare port reaches one at the first.
func TestDoorsAreOneRelay(t *testing.T) {
	b := mustBuild(t, settings(t, func(c *config.Config) {
		c.Admit, c.AlsoListen = []string{config.AdmitAny}, []string{"127.0.0.1:0"}
	}))
	b.run()
	first := b.options()
	second := b.options()
	second.Addr, second.Key = b.Config().Doors()[1].Address, key.NewPrivate()
	one, two := b.dial(first), b.dial(second)
	if err := one.Send(second.Key.Public(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := two.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := m.(client.Packet); ok {
			if string(p.Data) != "hello" || p.From != first.Key.Public() {
				t.Errorf("received %+v", p)
			}
			return
		}
	}
}

// TestProxiedConnectionsAreFast: what the door hands on, link takes in its fast form.
func TestProxiedConnectionsAreFast(t *testing.T) {
	door, err := listen.Listen(t.Context(), "127.0.0.1:0", listen.Options{Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- door.Serve(ctx, func(_ context.Context, raw net.Conn, _ func(bool)) {
			c := link.Accept(raw, nil)
			defer c.Close()
			fmt.Fprintf(c, "%v %v", c.Fast(), c.RemoteAddr())
		})
	}()
	c, err := net.Dial("tcp", door.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "PROXY TCP4 198.51.100.7 203.0.113.1 4711 443\r\n")
	got, err := io.ReadAll(c)
	if want := fmt.Sprintf("%v 198.51.100.7:4711", runtime.GOOS == "linux"); string(got) != want || err != nil {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
