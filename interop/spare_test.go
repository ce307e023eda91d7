package interop

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/net/netcheck"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"

	"github.com/detour-relay/detour/internal/config"
)

// spares gives a relay a second TLS port and, if asked, a second STUN port.
func spares(stun bool) func(*config.Config) {
	return func(c *config.Config) {
		c.AlsoListen = []string{"127.0.0.1:0"}
		if stun {
			c.AlsoSTUNListen = []string{"127.0.0.1:0"}
		}
	}
}

// TestNetcheckWithSparePorts: whatever ports a relay has more than one of, the
// region is measured and becomes home as before.
func TestNetcheckWithSparePorts(t *testing.T) {
	for name, change := range map[string]func(*config.Config){
		"a second TLS port":          spares(false),
		"a second TLS and STUN port": spares(true),
		"a second STUN port":         func(c *config.Config) { c.AlsoSTUNListen = []string{"127.0.0.1:0"} },
		"a second TLS port, no STUN": func(c *config.Config) { c.AlsoListen, c.STUNListen = []string{"127.0.0.1:0"}, config.Off },
		"three TLS ports, two of UDP": func(c *config.Config) {
			c.AlsoListen, c.AlsoSTUNListen = []string{"127.0.0.1:0", "127.0.0.1:0"}, []string{"127.0.0.1:0"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDetour(t, change)
			m := d.derpMap(false)
			r := check(t, m)
			checkHome(t, m, r)
			t.Logf("latency %v; mapping varies: %q", r.RegionLatency, r.MappingVariesByDestIP)
			if r.MappingVariesByDestIP == "true" {
				t.Error("on loopback, without a NAT, the mapping is said to vary")
			}
		})
	}
}

// TestNetcheckKeepsHome: a second report, which asks less, keeps the home region
// among two relays, one of which has spare ports.
func TestNetcheckKeepsHome(t *testing.T) {
	one := startDetour(t, spares(true))
	two := startDetour(t, func(c *config.Config) { c.RegionID = 901 })
	m := one.derpMap(false)
	m.Regions[901] = two.derpMap(false).Regions[901]
	c := &netcheck.Client{NetMon: netmon.NewStatic(), Logf: t.Logf, SkipExternalNetwork: true}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Standalone(ctx, "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	home := 0
	for i := range 5 {
		r, err := c.GetReport(ctx, m, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.RegionLatency) != 2 || home != 0 && r.PreferredDERP != home {
			t.Errorf("report %d: latencies %v, home %d, before %d", i, r.RegionLatency, r.PreferredDERP, home)
		}
		home = r.PreferredDERP
		// Regions answer each for itself, so the NAT type is known.
		if r.MappingVariesByDestIP != "false" {
			t.Errorf("report %d: mapping varies: %q, want false", i, r.MappingVariesByDestIP)
		}
	}
}

// TestSecondSTUNPort shows what one is good for, and what not.
func TestSecondSTUNPort(t *testing.T) {
	d := startDetour(t, spares(true))
	t.Run("is not asked when the first answers at once", func(t *testing.T) {
		m := d.derpMap(false)
		counter := forwardUDP(t, m.Regions[900].Nodes[1], 0)
		r := check(t, m)
		checkHome(t, m, r)
		if n := counter.Load(); n != 0 {
			t.Errorf("the second port was asked %d times", n)
		}
		if r.MappingVariesByDestIP != "" {
			t.Errorf("mapping varies: %q from one answer", r.MappingVariesByDestIP)
		}
	})
	t.Run("measures when the first is blocked", func(t *testing.T) {
		m := d.derpMap(false)
		m.Regions[900].Nodes[0].STUNPort = deaf(t)
		r := check(t, m)
		checkHome(t, m, r)
		// The wait for the first port is no part of the latency.
		if !r.UDP || r.RegionLatency[900] > 80*time.Millisecond {
			t.Errorf("UDP %v, latency %v", r.UDP, r.RegionLatency[900])
		}
	})
	t.Run("is asked when the first is far", func(t *testing.T) {
		m := d.derpMap(false)
		slow := forwardUDP(t, m.Regions[900].Nodes[0], 150*time.Millisecond)
		counter := forwardUDP(t, m.Regions[900].Nodes[1], 0)
		r := check(t, m)
		checkHome(t, m, r)
		if slow.Load() == 0 || counter.Load() == 0 {
			t.Errorf("asked %d and %d times", slow.Load(), counter.Load())
		}
	})
}

// TestSparePortIsDialled: the real client takes the second node where the first
// one's TCP port is closed.
func TestSparePortIsDialled(t *testing.T) {
	d := startDetour(t, spares(false))
	region := d.derpMap(false).Regions[900]
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	region.Nodes[0].DERPPort = closed.Addr().(*net.TCPAddr).Port
	closed.Close()
	before := d.Stats().AlsoListen[0].Accepted
	roundTrip(t, byRegion(t, region, nil))
	if got := d.Stats().AlsoListen[0].Accepted - before; got == 0 {
		t.Error("the spare port was not used")
	}
}

// deaf is a UDP port that never answers.
func deaf(t *testing.T) int {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().(*net.UDPAddr).Port
}

// forwardUDP puts itself before a node's STUN port, counts what is asked and holds
// answers back.
func forwardUDP(t *testing.T, n *tailcfg.DERPNode, delay time.Duration) *atomic.Int64 {
	t.Helper()
	front, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { front.Close() })
	target := net.JoinHostPort("127.0.0.1", strconv.Itoa(n.STUNPort))
	n.STUNPort = front.LocalAddr().(*net.UDPAddr).Port
	var asked atomic.Int64
	go func() {
		b := make([]byte, 1500)
		for {
			size, from, err := front.ReadFrom(b)
			if err != nil {
				return
			}
			asked.Add(1)
			request := append([]byte(nil), b[:size]...)
			time.AfterFunc(delay, func() {
				back, err := net.Dial("udp4", target)
				if err != nil {
					return
				}
				defer back.Close()
				back.SetDeadline(time.Now().Add(patience))
				if _, err := back.Write(request); err != nil {
					return
				}
				answer := make([]byte, 1500)
				if size, err := back.Read(answer); err == nil {
					front.WriteTo(answer[:size], from)
				}
			})
		}
	}()
	return &asked
}
