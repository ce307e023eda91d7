package derpmap_test

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
	"pgregory.net/rapid"
)

// forms are the written forms, each with what reads it back.
func forms() map[string]struct {
	encode func(derpmap.Map) ([]byte, error)
	decode func([]byte) (derpmap.Map, error)
} {
	return map[string]struct {
		encode func(derpmap.Map) ([]byte, error)
		decode func([]byte) (derpmap.Map, error)
	}{
		"json":      {derpmap.JSON, derpmap.ParseJSON},
		"headscale": {derpmap.Headscale, derpmap.ParseHeadscale},
		"policy":    {derpmap.Policy, parsePolicy},
	}
}

func parsePolicy(section []byte) (derpmap.Map, error) {
	var file struct {
		DERPMap derpmap.Map `json:"derpMap"`
	}
	err := json.Unmarshal(append(append([]byte{'{'}, section...), '}'), &file)
	return file.DERPMap, err
}

func TestRoundTrip(t *testing.T) {
	for name, form := range forms() {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := drawMap(t)
				text, err := form.encode(m)
				if err != nil {
					t.Fatal(err)
				}
				back, err := form.decode(text)
				if err != nil {
					t.Fatalf("%v in\n%s", err, text)
				}
				if !reflect.DeepEqual(back, m) {
					t.Fatalf("came back different from\n%s", text)
				}
				again, err := form.encode(back)
				if err != nil || !bytes.Equal(again, text) {
					t.Fatalf("the second writing differs (%v):\n%s\n%s", err, text, again)
				}
			})
		})
	}
}

func TestFullMapRoundTrip(t *testing.T) {
	for name, form := range forms() {
		text, err := form.encode(fullMap())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if back, err := form.decode(text); err != nil || !reflect.DeepEqual(back, fullMap()) {
			t.Errorf("%s: came back as %+v, %v", name, back, err)
		}
	}
}

func drawMap(t *rapid.T) derpmap.Map {
	ids := rapid.OneOf(rapid.IntRange(900, 910), rapid.Int())
	return derpmap.Map{
		HomeParams: rapid.Ptr(rapid.Custom(func(t *rapid.T) derpmap.HomeParams {
			return derpmap.HomeParams{RegionScore: maybeNil(t, rapid.MapOf(ids, rapid.Float64()))}
		}), true).Draw(t, "home params"),
		Regions:            maybeNil(t, rapid.MapOfN(ids, rapid.Ptr(rapid.Custom(drawRegion), true), -1, 4)),
		OmitDefaultRegions: rapid.Bool().Draw(t, "omit"),
	}
}

func drawRegion(t *rapid.T) derpmap.Region {
	nodes := rapid.SliceOfN(rapid.Ptr(rapid.Custom(drawNode), true), 0, 3)
	r := derpmap.Region{
		RegionID: rapid.Int().Draw(t, "id"), RegionCode: text().Draw(t, "code"), RegionName: text().Draw(t, "name"),
		Latitude: rapid.Float64().Draw(t, "latitude"), Longitude: rapid.Float64().Draw(t, "longitude"),
		Avoid: rapid.Bool().Draw(t, "avoid"), NoMeasureNoHome: rapid.Bool().Draw(t, "no home"),
	}
	if rapid.Bool().Draw(t, "has nodes") {
		r.Nodes = nodes.Draw(t, "nodes")
	}
	return r
}

func drawNode(t *rapid.T) derpmap.Node {
	return derpmap.Node{
		Name: text().Draw(t, "name"), RegionID: rapid.Int().Draw(t, "id"), HostName: text().Draw(t, "host"),
		CertName: text().Draw(t, "cert"), IPv4: text().Draw(t, "ipv4"), IPv6: text().Draw(t, "ipv6"),
		STUNPort: rapid.Int().Draw(t, "stun port"), STUNOnly: rapid.Bool().Draw(t, "stun only"),
		DERPPort: rapid.Int().Draw(t, "port"), InsecureForTests: rapid.Bool().Draw(t, "insecure"),
		STUNTestIP: text().Draw(t, "test ip"), CanPort80: rapid.Bool().Draw(t, "port 80"),
	}
}

// text mixes what maps hold with what YAML takes for another type or chokes on.
func text() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.SampledFrom([]string{
			"", " ", "900", "0x10", "1e3", "1:20", ".5", "-", "~", "null", "true", "yes", "n", "<<", "2001-02-03", "2001:db8::1", "::1",
			"198.51.100.7", "none", "a: b", "a #b", "# a", "'", `"`, "[a]", "{a}", "- a", "a\nb", "\na", "a\n", " a", "a ", "\t", "\r\n", "\x00",
			"\u0085", "\u2028", "\ufeff", "\ufffd", "\ufffe", "上海", "😀", "!!int 1", "&a", "*a", "%a", "@a", "`a", "|", ">", "?", "? a", "---", "...",
			pin, "<&>",
		}),
		rapid.StringMatching(`[a-z0-9.-]{1,20}`),
		rapid.String(),
	)
}

func maybeNil[M ~map[K]V, K comparable, V any](t *rapid.T, g *rapid.Generator[M]) M {
	if rapid.Bool().Draw(t, "nil") {
		return nil
	}
	return g.Draw(t, "map")
}

func TestUnrepresentable(t *testing.T) {
	bad := map[string]derpmap.Map{
		"nan":        {Regions: map[int]*derpmap.Region{1: {Latitude: math.NaN()}}},
		"inf":        {Regions: map[int]*derpmap.Region{1: {Longitude: math.Inf(-1)}}},
		"score":      {HomeParams: &derpmap.HomeParams{RegionScore: map[int]float64{1: math.Inf(1)}}},
		"region":     {Regions: map[int]*derpmap.Region{1: {RegionName: "\xff"}}},
		"code":       {Regions: map[int]*derpmap.Region{1: {RegionCode: "\xff"}}},
		"node":       {Regions: map[int]*derpmap.Region{1: {Nodes: []*derpmap.Node{nil, {HostName: "a\xc3"}}}}},
		"stuntestip": {Regions: map[int]*derpmap.Region{1: {Nodes: []*derpmap.Node{{STUNTestIP: "\xff"}}}}},
	}
	for name, m := range bad {
		for form, f := range forms() {
			if text, err := f.encode(m); err == nil {
				t.Errorf("%s as %s: no error, but\n%s", name, form, text)
			}
		}
	}
}
