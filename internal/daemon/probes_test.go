package daemon

import (
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/admit"
	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/key"
)

// Probes come into a closed relay, reach each other and nobody else, and are cut off.
func TestProbesAreLetIn(t *testing.T) {
	member, x, y := key.NewPrivate(), key.NewPrivate(), key.NewPrivate()
	b := mustBuild(t, settings(t, func(c *config.Config) { c.Admit, c.AdmitKey = []string{"none"}, []string{member.Public().String()} }))
	b.run()
	c := control{b.Daemon}
	for _, q := range []admin.ProbeRequest{
		{}, {Keys: []key.Public{{1}}}, {Keys: []key.Public{{1}, {2}, {3}}, Seconds: 1}, {Keys: []key.Public{{1}}, Seconds: 86401},
	} {
		_, err := c.Probe(q)
		wantError(t, err, "; hint: ")
	}
	r, err := c.Probe(admin.ProbeRequest{Keys: []key.Public{x.Public(), y.Public()}, Seconds: 60})
	if err != nil || r.ServerKey != b.ServerKey().String() || r.Open || time.Until(r.Until) > time.Minute {
		t.Fatalf("%+v, %v", r, err)
	}
	inside, one, other := b.visit(member), b.visit(x), b.options()
	other.Key = y
	two := b.dial(other)
	await(t, "all are in", func() bool { return b.Stats().Relay.Connections == 3 })
	if s := c.Status(); s.Probes != 2 || len(c.Probes()) != 2 || s.Peers[1].Tenant != admit.GuestTenant {
		t.Errorf("status %+v", s)
	}
	if err := one.Send(member.Public(), []byte("to a member")); err != nil {
		t.Fatal(err)
	}
	await(t, "a probe reaches no member", func() bool { return b.Stats().Relay.Dropped["other_tenant"]["other"].Packets == 1 })
	if err := inside.Send(y.Public(), []byte("to a probe")); err != nil {
		t.Fatal(err)
	}
	await(t, "no member reaches a probe", func() bool { return b.Stats().Relay.Dropped["other_tenant"]["other"].Packets == 2 })
	if err := one.Send(y.Public(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := two.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := m.(client.Packet); ok && string(p.Data) == "hello" {
			break
		}
	}
	if n := c.EndProbes(); n.Ended != 2 {
		t.Errorf("%d ended", n.Ended)
	}
	await(t, "they are cut off", func() bool { _, ended := one.state(); return ended })
	if _, ended := inside.state(); ended {
		t.Error("a member is cut off with them")
	}
}
