package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"testing"

	"tailscale.com/tailcfg"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// regions are one of Detour and one of derper, each with its server key.
func regions(t *testing.T) map[string]struct {
	region *tailcfg.DERPRegion
	server key.Public
} {
	d := startDetour(t, named)
	s, region := startDerper(t)
	return map[string]struct {
		region *tailcfg.DERPRegion
		server key.Public
	}{
		"detour": {d.region(false), d.ServerKey()},
		"derper": {region, ourPublic(s.PublicKey())},
	}
}

func TestOwnClientConnects(t *testing.T) {
	for relayName, r := range regions(t) {
		for name, c := range map[string]struct {
			change func(*client.Options)
			fast   bool
		}{
			"fast":      {func(*client.Options) {}, true},
			"slow":      {func(o *client.Options) { o.NoFastStart = true }, false},
			"TLS 1.2":   {func(o *client.Options) { o.TLS = &tls.Config{MaxVersion: tls.VersionTLS12} }, false},
			"WebSocket": {func(o *client.Options) { o.WebSocket = true }, false},
		} {
			t.Run(relayName+"/"+name, func(t *testing.T) {
				o := optionsFor(r.region.Nodes[0])
				c.change(&o)
				a, b := mustDial(t, o), mustDial(t, o)
				if a.FastStarted() != c.fast || a.ServerKey() != r.server || a.ServerInfo().Version != derp.ProtocolVersion {
					t.Errorf("fast start %v, relay %v, info %+v", a.FastStarted(), a.ServerKey(), a.ServerInfo())
				}
				packet := bytes.Repeat([]byte("x"), derp.MaxPacket)
				for _, pair := range [][2]*client.Client{{a, b}, {b, a}} {
					if err := pair[0].Send(pair[1].PublicKey(), packet); err != nil {
						t.Fatal(err)
					}
					m, err := recvSoon(pair[1])
					if p, ok := m.(client.Packet); !ok || p.From != pair[0].PublicKey() || !bytes.Equal(p.Data, packet) {
						t.Fatalf("received %T, %v", m, err)
					}
				}
			})
		}
	}
}

// recvSoon is c.Recv, but waits no longer than patience.
func recvSoon(c *client.Client) (client.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	return c.Recv()
}

func TestOwnClientPings(t *testing.T) {
	for name, r := range regions(t) {
		c := mustDial(t, optionsFor(r.region.Nodes[0]))
		ended := make(chan error, 1)
		go func() {
			for {
				if _, err := c.Recv(); err != nil {
					ended <- err
					return
				}
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for range 3 {
			if d, err := c.Ping(ctx); err != nil || d <= 0 {
				t.Errorf("%s: %v, %v", name, d, err)
			}
		}
		cancel()
		c.Close()
		<-ended
	}
}

// TestOwnClientByCA trusts a relay by its authority.
func TestOwnClientByCA(t *testing.T) {
	ca := newAuthority(t)
	d := startDetour(t, withFiles(t, ca))
	o := optionsFor(d.region(false).Nodes[0])
	if c, err := client.Dial(t.Context(), o); err == nil {
		c.Close()
		t.Error("an unknown authority is trusted")
	}
	o.TLS = &tls.Config{RootCAs: ca.roots()}
	if c := mustDial(t, o); !c.FastStarted() {
		t.Error("no fast start")
	}
}

func TestOwnClientRefused(t *testing.T) {
	d := startDetour(t, func(c *config.Config) { c.Admit, c.Refusal = nil, config.RefusalClose })
	if _, err := client.Dial(t.Context(), optionsFor(d.region(false).Nodes[0])); !errors.Is(err, io.EOF) {
		t.Errorf("not admitted, and yet: %v", err)
	}
}
