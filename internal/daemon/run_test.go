package daemon

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

func open(c *config.Config) { c.Admit = []string{config.AdmitAny} }

// receive reads from c until a packet comes.
func receive(t *testing.T, c *client.Client) client.Packet {
	t.Helper()
	for {
		m, err := c.Recv()
		if err != nil {
			t.Fatalf("receive: %v", err)
		}
		if p, ok := m.(client.Packet); ok {
			return p
		}
	}
}

// exchange checks that a packet passes from one client to another.
func exchange(t *testing.T, from, to *client.Client) {
	t.Helper()
	if err := from.Send(to.PublicKey(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if p := receive(t, to); p.From != from.PublicKey() || string(p.Data) != "hello" {
		t.Errorf("got %q from %v", p.Data, p.From)
	}
}

func TestClientsWithThePin(t *testing.T) {
	b := mustBuild(t, settings(t, open))
	b.run()
	fast, ws := b.options(), b.options()
	ws.WebSocket = true
	slow := b.options()
	slow.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	first, second, third := b.dial(fast), b.dial(ws), b.dial(slow)
	if !first.FastStarted() || third.FastStarted() {
		t.Errorf("fast start: TLS 1.3 %v, TLS 1.2 %v", first.FastStarted(), third.FastStarted())
	}
	for _, c := range []*client.Client{first, second, third} {
		if c.ServerKey() != b.ServerKey() {
			t.Errorf("the server key is %v", c.ServerKey())
		}
	}
	exchange(t, first, second)
	exchange(t, second, third)
	exchange(t, third, first)
	if s := b.Stats(); s.Relay.Connections != 3 || s.Web.Upgrades.FastStart != 1 || s.Web.Upgrades.WebSocket != 1 || s.Web.Upgrades.Raw != 1 {
		t.Errorf("relay %+v, web %+v", s.Relay, s.Web)
	}
}

func TestClientWithAnotherPin(t *testing.T) {
	b := mustBuild(t, settings(t, open))
	b.run()
	o := b.options()
	o.CertName = client.PinPrefix + strings.Repeat("0", 64)
	if c, err := client.Dial(t.Context(), o); err == nil {
		c.Close()
		t.Error("it trusts the relay")
	}
}

func TestClientOfADomain(t *testing.T) {
	i := issue(t, "relay.example.org", time.Now().AddDate(0, 1, 0))
	b := mustBuild(t, settings(t, func(c *config.Config) {
		open(c)
		c.Hostname, c.CertMode, c.Cert, c.Key = "relay.example.org", config.CertFiles, i.cert, i.key
	}))
	b.run()
	o := b.options()
	o.TLS = &tls.Config{RootCAs: i.roots}
	if c := b.dial(o); !c.FastStarted() || o.CertName != "" {
		t.Errorf("fast start %v, CertName %q", c.FastStarted(), o.CertName)
	}
}

func TestAdmission(t *testing.T) {
	known := key.NewPrivate()
	tests := []struct {
		name             string
		change           func(*config.Config)
		known, strangers bool
	}{
		{"default", nil, false, false},
		{"none", func(c *config.Config) { c.Admit = []string{config.AdmitNone} }, false, false},
		{"key", func(c *config.Config) { c.AdmitKey = []string{known.Public().String()} }, true, false},
		{"any", open, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := mustBuild(t, settings(t, func(c *config.Config) {
				c.Refusal = config.RefusalClose
				if tt.change != nil {
					tt.change(c)
				}
			}))
			b.run()
			for who, want := range map[key.Private]bool{known: tt.known, key.NewPrivate(): tt.strangers} {
				o := b.options()
				o.Key = who
				c, err := client.Dial(t.Context(), o)
				if err == nil {
					c.Close()
				} else if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				if (err == nil) != want {
					t.Errorf("admitted: %v, want %v", err == nil, want)
				}
				hint := "peer refused\" peer=" + who.Public().String()
				if strings.Contains(b.log.String(), hint) == want {
					t.Errorf("admitted is %v, and the log:\n%s", want, b.log)
				}
			}
		})
	}
}

func TestAdmitKeyThatIsNone(t *testing.T) {
	c := settings(t, nil)
	c.AdmitKey = []string{"nodekey:12"} // past the config's own check
	if _, err := build(t, c); err == nil || !strings.Contains(err.Error(), "admit_key") {
		t.Errorf("New: %v", err)
	}
}

func TestPlainHTTPAnswersTheCaptivePortalCheck(t *testing.T) {
	b := mustBuild(t, settings(t, func(c *config.Config) { c.HTTPListen = "127.0.0.1:0" }))
	b.run()
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: transport}).Get("http://" + b.Config().HTTPListen + "/generate_204")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		t.Errorf("status %s", res.Status)
	}
}

// Whatever clients are at, the relay ends within 10 s of being told to.
func TestStopWithEverybodyConnected(t *testing.T) {
	b := mustBuild(t, settings(t, func(c *config.Config) {
		open(c)
		c.HTTPListen = "127.0.0.1:0"
		c.WriteTimeout = 5 * time.Minute // so that only the stop frees who waits for a stuck reader
	}))
	stop := b.run()

	raw, webSocket := b.dial(b.options()), b.options()
	webSocket.WebSocket = true
	exchange(t, raw, b.dial(webSocket))
	b.dialTCP(b.Config().Listen)     // says nothing
	b.dialTCP(b.Config().HTTPListen) // the same
	b.dialTLS()                      // says no more after TLS
	b.halfLogin()
	b.idleHTTP()
	b.stuckReader(b.options(), raw)
	b.stuckReader(webSocket, raw)

	start := time.Now()
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(start); took > stopLimit-time.Second {
		t.Errorf("the stop took %v", took)
	}
	if strings.Contains(b.log.String(), "left behind") {
		t.Errorf("connections were left behind:\n%s", b.log)
	}
	for {
		if _, err := raw.Recv(); err != nil {
			break
		}
	}
	if s := b.Stats(); s.Relay.Connections != 0 || s.Listen.Open != 0 || s.HTTPListen.Open != 0 {
		t.Errorf("relay %+v, listen %+v, http %+v", s.Relay, s.Listen, s.HTTPListen)
	}
}

func (b *bed) dialTCP(addr string) net.Conn {
	b.t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

func (b *bed) dialTLS() *tls.Conn {
	b.t.Helper()
	c := tls.Client(b.dialTCP(b.Config().Listen), &tls.Config{InsecureSkipVerify: true})
	if err := c.HandshakeContext(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return c
}

// halfLogin gets as far as the relay's greeting, and says nothing to it.
func (b *bed) halfLogin() {
	b.t.Helper()
	c := b.dialTLS()
	io.WriteString(c, "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n")
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	greeting := make([]byte, derp.HeaderSize)
	if _, err := io.ReadFull(in, greeting); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		b.t.Fatalf("%s, %v", res.Status, err)
	}
}

// idleHTTP asks for a page and keeps the connection.
func (b *bed) idleHTTP() {
	b.t.Helper()
	c := b.dialTLS()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != http.StatusOK {
		b.t.Fatalf("%v, %v", res, err)
	}
}

// stuckReader logs a client in that never reads, and sends to it until packets
// are dropped: then its sockets are full, and a write to it waits.
func (b *bed) stuckReader(o client.Options, from *client.Client) {
	b.t.Helper()
	o.Key = key.NewPrivate()
	o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if err == nil {
			c.(*net.TCPConn).SetReadBuffer(4 << 10) // if it fails, more packets are needed
		}
		return c, err
	}
	stuck := b.dial(o)
	before := b.dropped()
	for b.dropped() == before && b.Stats().Relay.WriteTimeouts == 0 {
		if err := from.Send(stuck.PublicKey(), make([]byte, derp.MaxPacket)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// The settings' write_timeout is the relay's.
func TestStuckReaderIsCutOff(t *testing.T) {
	b := mustBuild(t, settings(t, func(c *config.Config) {
		open(c)
		c.WriteTimeout = 10 * time.Millisecond
	}))
	b.run()
	from, start := b.dial(b.options()), time.Now()
	for b.Stats().Relay.WriteTimeouts == 0 {
		b.stuckReader(b.options(), from)
		if time.Since(start) > 5*time.Second { // less than the time of a login, which is another limit
			t.Fatal("a stuck reader is not cut off")
		}
	}
}

func (b *bed) dropped() uint64 {
	return b.Stats().Relay.Dropped["queue_head"]["other"].Packets
}

func TestRunEndsWhenAPartFails(t *testing.T) {
	b := mustBuild(t, settings(t, nil))
	b.adminListener.Close()
	err := b.Run(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "admin failed: ") || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run: %v", err)
	}
}

// All parts that the settings turn on run, and no others.
func TestParts(t *testing.T) {
	all := func(c *config.Config) { c.HTTPListen = "127.0.0.1:0" }
	tests := []struct {
		name   string
		change func(*config.Config)
		want   string
	}{
		{"all", all, "relay, admission, memory, certificate expiry, web, listener, certificate rotation, plain HTTP, plain HTTP listener, STUN, admin, DERP map, public address"},
		{"STUN only", func(c *config.Config) { c.Listen, c.AdminListen = config.Off, config.Off }, "relay, admission, memory, STUN, DERP map, public address"},
		{"DERP only", func(c *config.Config) { c.STUNListen = config.Off }, "relay, admission, memory, certificate expiry, web, listener, certificate rotation, admin, DERP map, public address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := mustBuild(t, settings(t, tt.change))
			var names []string
			for _, p := range b.parts() {
				names = append(names, p.name)
			}
			if got := strings.Join(names, ", "); got != tt.want {
				t.Errorf("got %s", got)
			}
			if err := b.run()(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConfigHasTheBoundPorts(t *testing.T) {
	b := mustBuild(t, settings(t, func(c *config.Config) { c.HTTPListen = "127.0.0.1:0" }))
	got := []int{portOf(b.Config().Listen), portOf(b.Config().STUNListen), portOf(b.Config().HTTPListen)}
	if slices.Contains(got, 0) {
		t.Errorf("ports %v", got)
	}
	if at := fmt.Sprintf("127.0.0.1:%d", got[1]); b.stun.Addrs()[0].String() != at {
		t.Errorf("STUN is on %v, not %s", b.stun.Addrs(), at)
	}
}
