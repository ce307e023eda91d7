package derpmap_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
	"pgregory.net/rapid"
)

func allForms() []derpmap.Form {
	return []derpmap.Form{derpmap.FormHeadscale, derpmap.FormJSON, derpmap.FormPolicy}
}

// Whatever the map and whichever the way, nothing is lost, and the form of what
// is written is recognized.
func TestConvertRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMap(t)
		from := rapid.SampledFrom(allForms()).Draw(t, "from")
		to := rapid.SampledFrom(allForms()).Draw(t, "to")
		text, err := from.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := derpmap.DetectForm("", text); got != from {
			t.Fatalf("%s is taken for %s:\n%s", from, got, text)
		}
		there, losses, err := derpmap.Convert(text, from, to)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range losses {
			if !strings.Contains(l.What, "Headscale") && from != derpmap.FormHeadscale {
				t.Fatalf("lost from our own writing: %+v", l)
			}
		}
		back, _, err := derpmap.Convert(there, to, from)
		if err != nil {
			t.Fatal(err)
		}
		// Values and not texts are compared: YAML has no -0, which equals 0.
		if got, err := from.Parse(back); err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("to %s and back (%v):\n%s\nwas\n%s", to, err, back, text)
		}
		if got, err := to.Parse(there); err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%v: %+v\nwas %+v", err, got, m)
		}
	})
}

func TestConvertSaysWhatIsLost(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to derpmap.Form
		text     string
		want     []derpmap.Loss // What: a part of it
	}{
		{"comment in YAML", derpmap.FormHeadscale, derpmap.FormJSON, "regions:\n  # mine\n  900: {regionid: 900} # x\n", []derpmap.Loss{{2, "comments"}}},
		{"document", derpmap.FormHeadscale, derpmap.FormJSON, "regions: {}\n---\na: 1\n", []derpmap.Loss{{2, "second YAML document"}}},
		{"key in YAML", derpmap.FormHeadscale, derpmap.FormJSON, "regions:\n  900:\n    RegionID: 900\n", []derpmap.Loss{{3, `"RegionID"`}}},
		{"comment in JSON", derpmap.FormJSON, derpmap.FormJSON, "{\"Regions\": {},\n// x\n}", []derpmap.Loss{{2, "comments"}}},
		{"comma in JSON", derpmap.FormJSON, derpmap.FormJSON, "{\"Regions\": {},\n}", nil},
		{"rest of a policy", derpmap.FormPolicy, derpmap.FormJSON, "// all\n{\"acls\": [], // x\n\"derpMap\": {\"Regions\": {}}}", nil},
		{"comment in a policy", derpmap.FormPolicy, derpmap.FormJSON, "// all\n{\"acls\": [],\n\"derpMap\": {\"Regions\": {\n/* x */}}}", []derpmap.Loss{{4, "comments"}}},
		{"twice", derpmap.FormJSON, derpmap.FormJSON, "{\"Regions\": {\"1\": null,\n\"1\": null}}", []derpmap.Loss{{2, "stands at line 1 already"}}},
		{
			"no use", derpmap.FormJSON, derpmap.FormHeadscale, "{\"omitDefaultRegions\": true,\n\"HomeParams\": {},\n\"Regions\": {\n\"1\": null}}",
			[]derpmap.Loss{{1, "omitDefaultRegions"}, {2, "HomeParams"}, {4, "null region 1"}},
		},
	} {
		_, losses, err := derpmap.Convert([]byte(tt.text), tt.from, tt.to)
		same := err == nil && len(losses) == len(tt.want)
		for i := range losses {
			same = same && losses[i].Line == tt.want[i].Line && strings.Contains(losses[i].What, tt.want[i].What)
		}
		if !same {
			t.Errorf("%s: %v, %+v, want %+v", tt.name, err, losses, tt.want)
		}
	}
}

func TestConvertRefuses(t *testing.T) {
	for _, form := range allForms() {
		_, _, err := derpmap.Convert([]byte(`{"derpMap": {"Regions": {"900": {"RegionID": "x"}}}, "Regions": [], "regions": []}`), form, derpmap.FormJSON)
		var e *derpmap.ParseError
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", form, err)
		}
		if _, _, err := derpmap.Convert(make([]byte, derpmap.MaxSize+1), form, derpmap.FormJSON); !errors.Is(err, derpmap.ErrTooLarge) {
			t.Errorf("%s: too large: %v", form, err)
		}
	}
}
