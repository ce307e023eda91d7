package derpmap

import (
	"fmt"
	"slices"
	"testing"
)

func regionOf(id int, code string, names ...string) *Region {
	r := &Region{RegionID: id, RegionCode: code}
	for _, n := range names {
		r.Nodes = append(r.Nodes, &Node{Name: n, RegionID: id, HostName: n + ".example.org"})
	}
	return r
}

func TestMerge(t *testing.T) {
	first := Map{
		HomeParams: &HomeParams{}, OmitDefaultRegions: true,
		Regions: map[int]*Region{900: regionOf(900, "a", "900a"), 901: regionOf(901, "b", "901a"), 902: regionOf(902, "c", "902a")},
	}
	second := Map{Regions: map[int]*Region{
		900: regionOf(900, "a2", "900x", "900y"), // replaced as a whole
		901: regionOf(901, "b", "901a"),          // the very same: nothing to say
		902: nil,                                 // skipped
		903: regionOf(903, "d", "903a"),
	}}
	got, notes := Merge(Named{"one.yaml", first}, Named{"two.json", second})
	want := Map{Regions: map[int]*Region{900: second.Regions[900], 901: second.Regions[901], 902: first.Regions[902], 903: second.Regions[903]}}
	if a, b := mustJSON(t, got), mustJSON(t, want); a != b {
		t.Errorf("got %s\nwant %s", a, b)
	}
	var texts []string
	for _, n := range notes {
		texts = append(texts, fmt.Sprintf("%d %d %s %s", n.Kind, n.Region, n.Name, n.By))
		if n.String() == "" {
			t.Errorf("%+v says nothing", n)
		}
	}
	if w := []string{"2 0 one.yaml ", "3 0 one.yaml ", "0 900 one.yaml two.json", "1 902 two.json "}; !slices.Equal(texts, w) {
		t.Errorf("notes %q\nwant  %q", texts, w)
	}
	if m, _ := Merge(); m.Regions == nil || len(m.Regions) != 0 {
		t.Errorf("of nothing: %+v", m)
	}
}

func mustJSON(t *testing.T, m Map) string {
	t.Helper()
	text, err := JSON(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
