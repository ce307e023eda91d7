package interop

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/envknob"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/tsnet"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/logger"

	"github.com/detour-relay/detour/internal/config"
)

// tsnetPatience bounds what two whole nodes may take: without UDP they wait
// several seconds for STUN before they choose a home.
const tsnetPatience = 90 * time.Second

// TestTsnet runs two whole Tailscale nodes under Tailscale's own test control
// server. Detour is the only relay that they know, and they have no other path.
func TestTsnet(t *testing.T) {
	for name, c := range map[string]struct {
		knob string
		stun bool
	}{
		// STUN works, but nodes do not reach each other by UDP.
		"no direct path": {"TS_DEBUG_NEVER_DIRECT_UDP", true},
		// UDP is shut altogether: the home is found by HTTPS.
		"no UDP": {"TS_DEBUG_ALWAYS_USE_DERP", false},
	} {
		t.Run(name, func(t *testing.T) {
			envknob.Setenv(c.knob, "true")
			defer envknob.Setenv(c.knob, "")
			talk(t, c.stun)
		})
	}
}

// talk sends some TCP traffic both ways between two nodes and looks at what of
// it crossed the relay.
func talk(t *testing.T, stun bool) {
	d := startDetour(t, func(c *config.Config) { c.RegionCode = "detour" })
	ctx, cancel := context.WithTimeout(context.Background(), tsnetPatience)
	defer cancel()
	control := &testcontrol.Server{DERPMap: d.derpMap(false), Logf: logger.Discard, AllOnline: true}
	control.HTTPTestServer = httptest.NewUnstartedServer(control)
	control.HTTPTestServer.Start()
	t.Cleanup(control.HTTPTestServer.Close)
	a, b := startNode(ctx, t, control, "a"), startNode(ctx, t, control, "b")

	const size = 256 << 10
	before := d.Stats()
	echo(ctx, t, a, b, size)
	after := d.Stats()
	wantRelayed(ctx, t, a)
	wantRelayed(ctx, t, b)
	// Each byte went to b and came back, in packets with headers around it.
	if got := after.Relay.Sent["other"].Bytes - before.Relay.Sent["other"].Bytes; got < 2*size {
		t.Errorf("the relay sent %d bytes, want %d and more", got, 2*size)
	}
	if after.Relay.Peers != 2 || after.Relay.HomeConnections != 2 || after.Web.Upgrades.FastStart < 2 {
		t.Errorf("%d peers, %d at home, upgrades %+v", after.Relay.Peers, after.Relay.HomeConnections, after.Web.Upgrades)
	}
	if answered := after.STUN.Success > 0; answered != stun {
		t.Errorf("STUN requests answered: %v, want %v", answered, stun)
	}
}

// startNode brings a node up and waits until it has a home.
func startNode(ctx context.Context, t *testing.T, control *testcontrol.Server, name string) *tsnet.Server {
	t.Helper()
	s := &tsnet.Server{
		Dir: t.TempDir(), Store: new(mem.Store), Ephemeral: true, Hostname: name,
		ControlURL: control.HTTPTestServer.URL, Logf: logger.Discard, UserLogf: logger.Discard,
	}
	t.Cleanup(func() { s.Close() })
	if _, err := s.Up(ctx); err != nil {
		t.Fatalf("node %s: %v", name, err)
	}
	client := localClient(t, s)
	poll(ctx, t, "node "+name+" has a home", func() (bool, error) {
		st, err := client.Status(ctx)
		return err == nil && st.Self.Relay != "", err
	})
	return s
}

func localClient(t *testing.T, s *tsnet.Server) *local.Client {
	t.Helper()
	c, err := s.LocalClient()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// poll waits for what a node does on its own time.
func poll(ctx context.Context, t *testing.T, what string, is func() (bool, error)) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := is()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s (%v)", what, err)
		}
	}
}

// echo has from send size bytes to a server on to, which sends them back.
func echo(ctx context.Context, t *testing.T, from, to *tsnet.Server, size int) {
	t.Helper()
	l, err := to.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.CopyN(conn, conn, int64(size))
			conn.Close()
		}
		ended <- err
	}()
	defer func() {
		l.Close()
		if err := <-ended; err != nil {
			t.Errorf("echo server: %v", err)
		}
	}()
	ip4, _ := to.TailscaleIPs()
	var conn net.Conn
	poll(ctx, t, "a connection", func() (bool, error) {
		once, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		conn, err = from.Dial(once, "tcp", fmt.Sprintf("%v:8080", ip4))
		return err == nil, err
	})
	defer conn.Close()
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		t.Fatal(err)
	}
	sent := strings.Repeat("0123456789abcdef", size/16)
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(conn, sent)
		written <- err
	}()
	got := make([]byte, size)
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil || string(got) != sent {
		t.Errorf("what came back is what was sent: %v; %v", string(got) == sent, err)
	}
}

// wantRelayed wants a node to say itself that it has reached its peer through
// Detour and in no other way.
func wantRelayed(ctx context.Context, t *testing.T, s *tsnet.Server) {
	t.Helper()
	st, err := localClient(t, s).Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range st.Peer {
		if p.CurAddr != "" || p.Relay != "detour" || p.RxBytes == 0 {
			t.Errorf("node %s: peer %s at address %q, relay %q, %d bytes received", s.Hostname, p.HostName, p.CurAddr, p.Relay, p.RxBytes)
		}
	}
	if len(st.Peer) != 1 {
		t.Errorf("node %s has %d peers", s.Hostname, len(st.Peer))
	}
}
