package relaytest

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/web"
)

// Admission answers about every peer alike.
type Admission relay.Verdict

// Everybody admits.
var Everybody = Admission{Admitted: true}

// Admit implements relay.Admitter.
func (a Admission) Admit(context.Context, key.Public, netip.Addr) relay.Verdict {
	return relay.Verdict(a)
}

// Seated implements relay.Admitter.
func (Admission) Seated(relay.Verdict) {}

// Live starts a whole relay on loopback, with TLS, HTTP and a pin certificate but
// no STUN, and returns it as a map has it. It ends with the test, and needs the
// real clock.
func Live(t testing.TB, a relay.Admitter) *derpmap.Node {
	t.Helper()
	k := key.NewPrivate()
	s := relay.New(relay.Options{Key: k, Admit: a})
	dir := t.TempDir()
	c, _, err := cert.LoadOrCreatePin(filepath.Join(dir, "pin.crt"), filepath.Join(dir, "pin.key"), []string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certs, err := cert.New(cert.Options{Certificate: c, ServerKeyHex: k.Public().Hex()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := web.New(web.Options{Relay: s, TLS: certs.TLSConfig()})
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(ctx) })
	serving.Go(func() { _ = front.Serve(ctx) })
	serving.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { front.ServeConn(ctx, raw, func(bool) {}) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		serving.Wait()
	})
	return &derpmap.Node{
		Name: "900a", RegionID: 900, HostName: "127.0.0.1", IPv4: "127.0.0.1", IPv6: "none", CertName: c.Pin(),
		DERPPort: l.Addr().(*net.TCPAddr).Port, STUNPort: derpmap.STUNOff,
	}
}
