package interop

import (
	"context"
	"net/netip"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/probe"
)

// nowhere is a resolver without names: what is dialled stands in the map.
type nowhere struct{}

func (nowhere) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) { return nil, nil }

// A doctor finds nothing wrong with derper's own server, nor with Detour, but that
// they are open to everybody here.
func TestDoctorAtDerper(t *testing.T) {
	for name, r := range regions(t) {
		n := r.region.Nodes[0]
		d := probe.Examine(t.Context(), probe.DoctorOptions{
			World: probe.World{Resolver: nowhere{}}, Known: true,
			Node: &derpmap.Node{
				Name: n.Name, RegionID: n.RegionID, HostName: n.HostName, CertName: n.CertName, IPv4: n.IPv4, IPv6: n.IPv6,
				DERPPort: n.DERPPort, STUNPort: derpmap.STUNOff,
			},
		})
		passed := map[string]bool{}
		for _, f := range d.Findings {
			passed[f.Check] = f.State == probe.Passed
			if f.State == probe.Failed || f.State == probe.Warned && f.Code != "admission.open" {
				t.Errorf("%s: %+v", name, f)
			}
		}
		for _, check := range []string{"tls.trust", "http", "faststart", "login", "relay.small", "relay.large", "relay.disco", "ping"} {
			if !passed[check] {
				t.Errorf("%s: %s has not passed", name, check)
			}
		}
	}
}
