package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
)

// turned is a relay whose rotation is driven by the test, and what it needs.
type turned struct {
	*bed
	rotation *rotation
	ctx      context.Context
}

// runTurned runs every part but the one that follows the rotation by itself.
func runTurned(t *testing.T, change ...func(*config.Config)) *turned {
	t.Helper()
	b := mustBuild(t, settings(t, func(c *config.Config) {
		open(c)
		for _, f := range change {
			f(c)
		}
	}))
	ctx, cancel := context.WithCancel(context.Background())
	x := &turned{bed: b, rotation: &rotation{d: b.Daemon}, ctx: ctx}
	var parts sync.WaitGroup
	for _, p := range b.parts() {
		if p.name != "certificate rotation" {
			parts.Go(func() { _ = p.serve(ctx) })
		}
	}
	t.Cleanup(func() { cancel(); parts.Wait(); x.rotation.parts.Wait() })
	return x
}

func (x *turned) follow(now time.Time) {
	x.t.Helper()
	if err := x.rotation.follow(x.ctx, now); err != nil {
		x.t.Fatal(err)
	}
}

// dial logs in at an address with a pin.
func (x *turned) dial(address, pin string) (*client.Client, error) {
	x.t.Helper()
	o := x.options()
	o.Addr, o.CertName = address, pin
	return client.Dial(x.t.Context(), o)
}

func (x *turned) wantLogin(address, pin string) {
	x.t.Helper()
	c, err := x.dial(address, pin)
	if err != nil {
		x.t.Fatalf("%s: %v", address, err)
	}
	c.Close()
}

// nodes are the ports and pins of the map, in order.
func (x *turned) nodes() (list []string) {
	x.t.Helper()
	m, _, err := x.Map(false)
	if err != nil {
		x.t.Fatal(err)
	}
	for _, n := range m.Regions[900].Nodes {
		list = append(list, fmt.Sprintf("%d %s", n.DERPPort, n.CertName))
	}
	return list
}

// TestRotation goes through all steps with a client connected from before. At no
// time does a port show a certificate that the map then in use does not name for it.
func TestRotation(t *testing.T) {
	x := runTurned(t)
	main, old := x.cfg.Listen, x.id.cert.Pin()
	veteran, err := x.dial(main, old)
	if err != nil {
		t.Fatal(err)
	}
	defer veteran.Close()
	x.follow(time.Now())

	second := freePort(t)
	r, err := BeginRotation(x.cfg, cert.Place{Listen: second})
	if err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	x.wantLogin(main, old)
	x.wantLogin(second, r.NewPin)
	if got := x.nodes(); len(got) != 2 || got[0] != node(second, r.NewPin) || got[1] != node(main, old) {
		t.Errorf("the map names %q", got)
	}

	if r, err = r.Withdraw(x.cfg.Cert, time.Now()); err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	if c, err := net.Dial("tcp", main); err == nil {
		c.Close()
		t.Error("the old port is still open")
	}
	x.wantLogin(second, r.NewPin)
	if got := x.nodes(); len(got) != 1 || got[0] != node(second, r.NewPin) {
		t.Errorf("the map names %q", got)
	}

	if r, err = r.Finish(x.cfg.Cert, x.cfg.Key, time.Now()); err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	x.wantLogin(main, r.NewPin)
	x.wantLogin(second, r.NewPin)
	if _, err := x.dial(main, old); err == nil {
		t.Error("the old pin still fits")
	}

	o := x.options()
	o.Addr, o.CertName, o.WebSocket = second, r.NewPin, true
	browser, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer browser.Close()
	if err := r.End(x.cfg.Cert); err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	await(t, "the second port is closed", func() bool {
		c, err := net.Dial("tcp", second)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	x.wantLogin(main, r.NewPin)
	if got := x.relay.Stats().Connections; got < 1 {
		t.Errorf("%d connections are left of those that were there before", got)
	}
	wantAlive(t, veteran)
	wantAlive(t, browser)
	if x.Stats().AlsoListen != nil {
		t.Error("the second port has figures")
	}
}

// wantAlive has a client send itself a packet.
func wantAlive(t *testing.T, c *client.Client) {
	t.Helper()
	if err := c.Send(c.PublicKey(), []byte("to myself")); err != nil {
		t.Error(err)
	}
	for {
		m, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := m.(client.Packet); ok && string(p.Data) == "to myself" {
			return
		}
	}
}

// A port that nobody has come to for a week is closed without being told to.
func TestRotationOfAnUnusedPort(t *testing.T) {
	x := runTurned(t)
	second := freePort(t)
	r, err := BeginRotation(x.cfg, cert.Place{Listen: second})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	x.follow(start)
	x.follow(start.Add(cert.RotationUnused - time.Minute))
	comes := func(n uint64) { // one more, and leaves
		x.wantLogin(x.cfg.Listen, x.id.cert.Pin())
		await(t, "it has come and gone", func() bool { return x.logins.admitted.Load() == n && x.logins.present.Load() == 0 })
	}
	comes(1)
	x.follow(start.Add(cert.RotationUnused + time.Minute)) // it has been used
	comes(2)
	x.follow(start.Add(cert.RotationUnused + 2*time.Minute))
	x.follow(start.Add(cert.RotationUnused + 3*time.Minute)) // the last use
	last := start.Add(2*cert.RotationUnused + 4*time.Minute)
	x.follow(last) // nobody has come to the second port: the map with it may not be out
	comes(3)
	x.wantLogin(second, r.NewPin)
	await(t, "somebody has come to the second port", func() bool { return x.rotation.logins.admitted.Load() == 1 })
	x.follow(last)
	last = last.Add(cert.RotationUnused + time.Minute)
	x.follow(last)
	x.follow(last)
	if c, err := net.Dial("tcp", x.cfg.Listen); err == nil {
		c.Close()
		t.Error("the old port is still open")
	}
	x.wantLogin(second, r.NewPin)
}

// Who only waits does not count, nor twice who is let in later; and who leaves is gone.
func TestTally(t *testing.T) {
	var tl tally
	for name, told := range map[string][]bool{"stranger": {false}, "member": {true}, "promoted": {false, true}, "told twice": {true, true}, "nobody": nil} {
		before, want := tl.admitted.Load(), uint64(0)
		if slices.Contains(told, true) {
			want = 1
		}
		tl.counting(func(_ context.Context, _ net.Conn, ready func(bool)) {
			for _, admitted := range told {
				ready(admitted)
			}
			if got := uint64(tl.present.Load()); got != want {
				t.Errorf("%s: %d present", name, got)
			}
		})(t.Context(), nil, func(bool) {})
		if tl.admitted.Load()-before != want || tl.present.Load() != 0 {
			t.Errorf("%s: %d admitted, %d left", name, tl.admitted.Load()-before, tl.present.Load())
		}
	}
}

// node is how nodes tells of a port.
func node(address, pin string) string { return fmt.Sprintf("%d %s", portOf(address), pin) }

// freePort returns an address whose port is free now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// One rotation is given up and another begun before the relay looks.
func TestRotationBegunAnew(t *testing.T) {
	x := runTurned(t)
	first := freePort(t)
	r, err := BeginRotation(x.cfg, cert.Place{Listen: first})
	if err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	if err := r.End(x.cfg.Cert); err != nil {
		t.Fatal(err)
	}
	second := freePort(t)
	if r, err = BeginRotation(x.cfg, cert.Place{Listen: second}); err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	x.wantLogin(second, r.NewPin)
	if c, err := net.Dial("tcp", first); err == nil && first != second {
		c.Close()
		t.Error("the first one's port is still open")
	}
}

// Where clients dial another port than the relay has, the map names that of the
// second one too.
func TestRotationOfAPublishedPort(t *testing.T) {
	b := mustBuild(t, settings(t, func(c *config.Config) { open(c); c.PublicPort = 4430 }))
	at := cert.Place{Listen: freePort(t)}
	_, err := BeginRotation(b.cfg, at)
	wantError(t, err, "public_port 4430", "--published-as")
	at.PublicPort = 4430
	_, err = BeginRotation(b.cfg, at)
	wantError(t, err, "--published-as 4430 is the relay's own")
	at.PublicPort = 8444
	r, err := BeginRotation(b.cfg, at)
	if err != nil {
		t.Fatal(err)
	}
	x := &turned{bed: b}
	old := b.id.cert.Pin()
	if got := x.nodes(); len(got) != 2 || got[0] != "8444 "+r.NewPin || got[1] != "4430 "+old {
		t.Errorf("the map names %q", got)
	}
	var banner strings.Builder
	if err := b.Banner(&banner); err != nil || !strings.Contains(banner.String(), fmt.Sprintf("TCP 8444 (which leads to %d here)", portOf(at.Listen))) {
		t.Errorf("the banner, %v:\n%s", err, banner.String())
	}
}

// The second port is a door like the first: proxies must name their clients there,
// and no certificate is shown for a name that none is for.
func TestSecondPortIsAsStrict(t *testing.T) {
	x := runTurned(t, func(c *config.Config) {
		c.Hostname, c.StrictSNI, c.ProxyProtocol = "relay.example", true, []string{"127.0.0.0/8"}
	})
	second := freePort(t)
	r, err := BeginRotation(x.cfg, cert.Place{Listen: second})
	if err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	for _, tt := range []struct {
		header, name string
		shown        bool
	}{
		{"PROXY TCP4 203.0.113.9 203.0.113.7 4711 443\r\n", "relay.example", true},
		{"PROXY TCP4 203.0.113.9 203.0.113.7 4711 443\r\n", "other.example", false},
		{"", "relay.example", false},
	} {
		conn, err := net.Dial("tcp", second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, tt.header); err != nil {
			t.Fatal(err)
		}
		client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: tt.name})
		err = client.Handshake()
		if tt.shown != (err == nil) || tt.shown && cert.PinOf(client.ConnectionState().PeerCertificates[0]) != r.NewPin {
			t.Errorf("header %q, name %q: %v", tt.header, tt.name, err)
		}
		conn.Close()
	}
	if err := CheckSecondPort(t.Context(), x.cfg, r); err != nil {
		t.Error(err)
	}
}

// The second port stays until the relay's own one shows the new certificate: else
// clients would have nowhere to go.
func TestRotationWithThePortTaken(t *testing.T) {
	x := runTurned(t)
	main := x.cfg.Listen
	r, err := BeginRotation(x.cfg, cert.Place{Listen: freePort(t)})
	if err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	if x.rotation.second.Stats().Accepted != 0 || x.doors[0].options.Limits == nil {
		t.Fatal("the bed is not as it should be")
	}
	if r, err = r.Withdraw(x.cfg.Cert, time.Now()); err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	x.doors[0].Close() // as if it had been given up, and somebody else were there
	squatter, err := net.Listen("tcp", main)
	if err != nil {
		t.Fatal(err)
	}
	if r, err = r.Finish(x.cfg.Cert, x.cfg.Key, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := x.rotation.follow(x.ctx, time.Now()); err == nil {
		t.Error("a port that is taken was opened")
	}
	squatter.Close()
	if err := CheckEnd(t.Context(), x.cfg, r); err == nil || !strings.Contains(err.Error(), "stays open until then") {
		t.Errorf("may be ended: %v", err)
	}
	if err := r.End(x.cfg.Cert); err != nil { // by hand, all the same
		t.Fatal(err)
	}
	if squatter, err = net.Listen("tcp", main); err != nil {
		t.Fatal(err)
	}
	if err := x.rotation.follow(x.ctx, time.Now()); err == nil {
		t.Error("a port that is taken was opened")
	}
	x.wantLogin(r.Listen, r.NewPin) // the only one that is left
	squatter.Close()
}
