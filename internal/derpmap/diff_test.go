package derpmap_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
	"pgregory.net/rapid"
)

// twoNodes is a map of one region, which the cases change.
func twoNodes(change func(m *derpmap.Map, r *derpmap.Region, a, b *derpmap.Node)) derpmap.Map {
	a := &derpmap.Node{Name: "900a", RegionID: 900, HostName: "a.example", CertName: pin}
	b := &derpmap.Node{Name: "900b", RegionID: 900, HostName: "b.example"}
	r := &derpmap.Region{RegionID: 900, RegionCode: "lab", RegionName: "Lab", Nodes: []*derpmap.Node{a, b}}
	m := derpmap.Map{Regions: map[int]*derpmap.Region{900: r}}
	if change != nil {
		change(&m, r, a, b)
	}
	return m
}

const redialled = "close their connection to this region, dial it anew"

// What is in a Difference, one line each.
func lines(d derpmap.Difference) string {
	var all []string
	for _, c := range d.Changes {
		all = append(all, string(c.Kind))
		all = append(append(all, c.Details...), c.Effects...)
	}
	return strings.Join(append(all, d.Notes...), "\n")
}

func TestDiff(t *testing.T) {
	type change = func(m *derpmap.Map, r *derpmap.Region, a, b *derpmap.Node)
	scores := func(of map[int]float64) change {
		return func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) {
			m.HomeParams = &derpmap.HomeParams{RegionScore: of}
		}
	}
	for _, tt := range []struct {
		name   string
		before change
		after  change
		reader derpmap.Consumer
		want   []string // what is said, parts of it
		not    string   // what is not
	}{
		{name: "pin", after: func(_ *derpmap.Map, _ *derpmap.Region, a, _ *derpmap.Node) { a.CertName = "" }, want: []string{"changed", "node 900a: CertName: \"sha256-raw:", "now none", redialled, "cert rotate"}},
		{name: "order", after: func(_ *derpmap.Map, r *derpmap.Region, a, b *derpmap.Node) { r.Nodes = []*derpmap.Node{b, a} }, want: []string{"order of nodes: 900a, 900b, now 900b, 900a", redialled, "dial the node 900b first"}},
		{name: "order under Headscale", reader: derpmap.ForHeadscale, after: func(_ *derpmap.Map, r *derpmap.Region, a, b *derpmap.Node) { r.Nodes = []*derpmap.Node{b, a} }, want: []string{"none by itself: Headscale shuffles", "shuffles the nodes of a region anew"}, not: redialled},
		{name: "name alone", after: func(_ *derpmap.Map, r *derpmap.Region, _, _ *derpmap.Node) { r.RegionName = "x" }, want: []string{`RegionName: "Lab", now "x"`, redialled}},
		{name: "port", after: func(_ *derpmap.Map, _ *derpmap.Region, _, b *derpmap.Node) { b.DERPPort = 8443 }, want: []string{"node 900b: DERPPort: none, now 8443", redialled}, not: "cert rotate"},
		{name: "insecure", after: func(_ *derpmap.Map, _ *derpmap.Region, _, b *derpmap.Node) { b.InsecureForTests = true }, want: []string{"check no certificate of the node 900b"}},
		{name: "new node", before: func(_ *derpmap.Map, r *derpmap.Region, a, _ *derpmap.Node) { r.Nodes = []*derpmap.Node{a} }, want: []string{"node 900b is new: b.example port 443", redialled}, not: "first"},
		{name: "first node gone", after: func(_ *derpmap.Map, r *derpmap.Region, _, b *derpmap.Node) { r.Nodes = []*derpmap.Node{b} }, want: []string{"node 900a is gone", "dial the node 900b first"}},
		{name: "no names", before: func(_ *derpmap.Map, _ *derpmap.Region, a, b *derpmap.Node) { a.Name, b.Name = "", "" }, after: func(_ *derpmap.Map, r *derpmap.Region, a, b *derpmap.Node) {
			a.Name, b.Name = "", ""
			r.Nodes = append([]*derpmap.Node{nil}, r.Nodes...)
		}, want: []string{"node number 1: null in one", `node number 2: HostName: "b.example", now "a.example"`, "node number 3: new"}},
		{name: "no home", after: func(_ *derpmap.Map, r *derpmap.Region, _, _ *derpmap.Node) { r.NoMeasureNoHome = true }, want: []string{"NoMeasureNoHome: false, now true", "nobody measures it any more"}},
		{name: "home again", before: func(_ *derpmap.Map, r *derpmap.Region, _, _ *derpmap.Node) { r.NoMeasureNoHome = true }, want: []string{"may become their home"}},
		{name: "no list", before: func(_ *derpmap.Map, r *derpmap.Region, _, _ *derpmap.Node) { r.Nodes = nil }, after: func(_ *derpmap.Map, r *derpmap.Region, _, _ *derpmap.Node) { r.Nodes = []*derpmap.Node{} }, want: []string{"Nodes: an empty list", redialled}},
		{name: "new region", after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) {
			m.Regions[901] = &derpmap.Region{RegionID: 901, Nodes: []*derpmap.Node{{Name: "901a"}}}
		}, want: []string{"added", "measure it by their next full report"}},
		{name: "new region, no home", after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) {
			m.Regions[901] = &derpmap.Region{RegionID: 901, NoMeasureNoHome: true, Nodes: []*derpmap.Node{{Name: "901a"}}}
		}, want: []string{"added", "do not measure it"}},
		{name: "new region, no nodes", after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { m.Regions[901] = &derpmap.Region{} }, want: []string{"added", "no node"}},
		{name: "gone", after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { delete(m.Regions, 900) }, want: []string{"removed", "chooses another"}, not: "Tailscale"},
		{name: "gone under Headscale", reader: derpmap.ForHeadscale, after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { delete(m.Regions, 900) }, want: []string{"removed", "that one comes back"}},
		{name: "null under Headscale", reader: derpmap.ForHeadscale, after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { m.Regions[900] = nil }, want: []string{"removed", "skips null regions"}},
		{name: "null for nothing", reader: derpmap.ForHeadscale, after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { m.Regions[1] = nil }, want: []string{"null", "none: Headscale skips"}},
		{name: "null for clients", after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { m.Regions[1] = nil }, want: []string{"none: clients drop"}},
		{name: "null in a policy", reader: derpmap.ForTailscale, after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { m.Regions[1] = nil }, want: []string{"of that id goes"}},
		{name: "null out of a policy", reader: derpmap.ForTailscale, before: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { m.Regions[1] = nil }, want: []string{"comes back"}},
		{name: "override gone", reader: derpmap.ForTailscale, before: func(m *derpmap.Map, r *derpmap.Region, _, _ *derpmap.Node) { m.Regions[1] = r }, want: []string{"removed", "Tailscale's own region of that id comes back"}},
		{name: "omit", reader: derpmap.ForTailscale, after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { m.OmitDefaultRegions = true }, want: []string{"Tailscale's own regions go"}},
		{name: "omit no more", reader: derpmap.ForTailscale, before: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { m.OmitDefaultRegions = true }, want: []string{"Tailscale's own regions come"}},
		{name: "omit under Headscale", reader: derpmap.ForHeadscale, after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { m.OmitDefaultRegions = true }, want: []string{"none: Headscale"}},
		{name: "omit for clients", after: func(m *derpmap.Map, _ *derpmap.Region, _, _ *derpmap.Node) { m.OmitDefaultRegions = true }, want: []string{"clients skip it"}},
		{name: "scores", before: scores(map[int]float64{1: 1, 2: 2, 3: 3}), after: scores(map[int]float64{1: 1, 2: 3, 4: 4}), want: []string{"region 2: 2, now 3", "region 3 is gone: 3", "region 4: 4", "with the new scores"}},
		{name: "scores under Headscale", reader: derpmap.ForHeadscale, after: scores(map[int]float64{1: 1}), want: []string{"none: Headscale"}},
		{name: "scores left out", before: scores(map[int]float64{1: 1}), want: []string{"clients keep those that they have"}},
		{name: "scores reset", after: scores(map[int]float64{}), want: []string{"HomeParams: none, now an empty RegionScore", "with the new scores"}},
	} {
		reader := tt.reader
		if reader == "" {
			reader = derpmap.ForTailscaled
		}
		d := derpmap.Diff(twoNodes(tt.before), twoNodes(tt.after), reader)
		if len(d.Changes) != 1 {
			t.Errorf("%s: %d changes", tt.name, len(d.Changes))
		}
		got := lines(d)
		for _, want := range tt.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", tt.name, want, got)
			}
		}
		if tt.not != "" && strings.Contains(got, tt.not) {
			t.Errorf("%s: %q in\n%s", tt.name, tt.not, got)
		}
	}
}

// Maps differ exactly if they are not the same, and every change says something.
func TestDiffOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawMap(t), drawMap(t)
		reader := rapid.SampledFrom([]derpmap.Consumer{derpmap.ForHeadscale, derpmap.ForTailscale, derpmap.ForTailscaled}).Draw(t, "reader")
		if d := derpmap.Diff(a, a, reader); len(d.Changes) > 0 {
			t.Fatalf("a map differs from itself: %+v", d)
		}
		d := derpmap.Diff(a, b, reader)
		for _, c := range d.Changes {
			if len(c.Effects) == 0 || len(c.Details) == 0 && c.Kind == derpmap.Changed {
				t.Fatalf("says nothing: %+v", c)
			}
		}
		x, err := derpmap.JSON(derpmap.Map{HomeParams: a.HomeParams, OmitDefaultRegions: a.OmitDefaultRegions, Regions: orEmpty(a.Regions)})
		if err != nil {
			t.Fatal(err)
		}
		y, err := derpmap.JSON(derpmap.Map{HomeParams: b.HomeParams, OmitDefaultRegions: b.OmitDefaultRegions, Regions: orEmpty(b.Regions)})
		if err != nil {
			t.Fatal(err)
		}
		if same := string(x) == string(y); same != (len(d.Changes) == 0) {
			t.Fatalf("same: %v, but %+v", same, d)
		}
	})
}

// orEmpty makes no difference between no regions and none.
func orEmpty(regions map[int]*derpmap.Region) map[int]*derpmap.Region {
	if regions == nil {
		return map[int]*derpmap.Region{}
	}
	return maps.Clone(regions)
}
