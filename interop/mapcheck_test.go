package interop

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
	"tailscale.com/tailcfg"

	"github.com/detour-relay/detour/internal/derpmap"
)

// loadAsHeadscale reads a file of derp.paths as Headscale's loader does: straight
// into Tailscale's types, of which its merging keeps the regions that are not nil.
func loadAsHeadscale(text []byte) (map[int]*tailcfg.DERPRegion, error) {
	var m tailcfg.DERPMap
	if err := yaml.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	return kept(m), nil
}

// loadURL reads what derp.urls give.
func loadURL(text []byte) (map[int]*tailcfg.DERPRegion, error) {
	var m tailcfg.DERPMap
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	return kept(m), nil
}

func kept(m tailcfg.DERPMap) map[int]*tailcfg.DERPRegion {
	out := make(map[int]*tailcfg.DERPRegion)
	for id, r := range m.Regions {
		if r != nil {
			out[id] = r
		}
	}
	return out
}

// goodMap is a map without a mistake.
func goodMap(t *rapid.T) derpmap.Map {
	m := derpmap.Map{Regions: make(map[int]*derpmap.Region)}
	for _, id := range rapid.SliceOfNDistinct(rapid.IntRange(900, 998), 1, 3, rapid.ID[int]).Draw(t, "ids") {
		r := &derpmap.Region{RegionID: id, RegionCode: fmt.Sprintf("c%d", id), RegionName: rapid.StringMatching(`[A-Z][a-z ]{0,8}[a-z]`).Draw(t, "name")}
		for i := range rapid.IntRange(1, 2).Draw(t, "nodes") {
			name := fmt.Sprintf("%d%c", id, 'a'+i)
			r.Nodes = append(r.Nodes, &derpmap.Node{
				Name: name, RegionID: id, HostName: name + ".example.com",
				CertName: rapid.SampledFrom([]string{"", derpmap.PinPrefix + strings.Repeat("0a", 32), "relay.example.com"}).Draw(t, "cert"),
				IPv4:     rapid.SampledFrom([]string{"", fmt.Sprintf("198.51.%d.%d", id-890, i+1), "none"}).Draw(t, "ipv4"),
				STUNPort: rapid.SampledFrom([]int{0, 3479, -1}).Draw(t, "stun"),
				DERPPort: rapid.SampledFrom([]int{0, 8443}).Draw(t, "port"),
			})
		}
		m.Regions[id] = r
	}
	return m
}

// spoil changes text as tired people do, in no or a few places.
func spoil(t *rapid.T, text string) string {
	lines := strings.Split(text, "\n")
	for range rapid.IntRange(0, 2).Draw(t, "mistakes") {
		i := rapid.IntRange(0, len(lines)-1).Draw(t, "line")
		line := lines[i]
		switch rapid.IntRange(0, 5).Draw(t, "mistake") {
		case 0:
			lines[i] = strings.NewReplacer("id", "ID", "name", "Name", "port", "Port", "nodes", "Nodes", "Host", "host").Replace(line)
		case 1:
			if key, value, ok := strings.Cut(line, ": "); ok {
				lines[i] = key + `: "` + strings.Trim(value, `"`) + `"`
			}
		case 2:
			lines = slices.Delete(lines, i, i+1)
		case 3:
			lines = slices.Insert(lines, i, line)
		case 4:
			lines[i] = strings.Replace(line, "900", `"900"`, 1)
		case 5:
			lines[i] = " " + line
		}
		if len(lines) == 0 {
			break
		}
	}
	return strings.Join(lines, "\n")
}

// TestCheckAgreesWithReaders spoils good maps. What has no finding that breaks is
// read by Headscale, and by us, to the same regions; what Headscale refuses is not
// called good.
func TestCheckAgreesWithReaders(t *testing.T) {
	for name, form := range map[string]struct {
		form derpmap.Form
		url  bool
		load func([]byte) (map[int]*tailcfg.DERPRegion, error)
	}{
		"YAML": {derpmap.FormHeadscale, false, loadAsHeadscale},
		"JSON": {derpmap.FormJSON, true, loadURL},
	} {
		t.Run(name, func(t *testing.T) {
			good, bad := 0, 0
			rapid.Check(t, func(t *rapid.T) {
				text, err := form.form.Encode(goodMap(t))
				if err != nil {
					t.Fatal(err)
				}
				text = []byte(spoil(t, string(text)))
				o := derpmap.CheckOptions{Form: form.form, IsURL: form.url}
				theirs, loadErr := form.load(text)
				report, err := derpmap.Check(text, o)
				if err != nil || report.Count(derpmap.Breaks) > 0 {
					bad++
					return
				}
				good++
				if loadErr != nil {
					t.Fatalf("called good, and refused by Headscale: %v\n%s", loadErr, text)
				}
				ours, err := form.form.Parse(text)
				if err != nil {
					t.Fatalf("called good, and refused by us: %v\n%s", err, text)
				}
				if want := kept(theirMap(ours)); !reflect.DeepEqual(theirs, want) {
					t.Fatalf("Headscale reads %s\nfrom\n%s", dump(theirs), text)
				}
				for id, r := range theirs {
					usable(t, id, r)
				}
			})
			if good == 0 || bad == 0 {
				t.Errorf("%d maps were good and %d bad: the test is a poor one", good, bad)
			}
		})
	}
}

// usable is what a map that is called good must have, however it was spoilt.
func usable(t *rapid.T, id int, r *tailcfg.DERPRegion) {
	if r.RegionID != id || len(r.Nodes) == 0 {
		t.Fatalf("region %d: %s", id, dump(r))
	}
	for _, n := range r.Nodes {
		if n == nil || n.RegionID != id || n.Name == "" || n.HostName == "" {
			t.Fatalf("region %d: %s", id, dump(r))
		}
	}
}
