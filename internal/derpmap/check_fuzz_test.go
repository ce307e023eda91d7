package derpmap_test

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
)

func FuzzParsePolicy(f *testing.F) {
	seedForms(f, derpmap.Policy)
	for _, s := range []string{
		goodPolicy, "", "null", "[]", "{}", `{"derpMap": null}`, `"derpMap": {}, // x`, `{"DERPMAP": {"Regions": {"1": null,},}, "derpMap": {}}`,
		"{/*", `{"a": "\`, "{\"derpMap\": {\"Regions\": /* \n */ []}}", "//", "\ufeff{}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzParse(t, data, derpmap.ParsePolicy, derpmap.Policy)
	})
}

// FuzzCheck: no text makes Check panic; what it calls good is read as it says, and
// by the parser of its form too; and what that parser refuses is not called good.
func FuzzCheck(f *testing.F) {
	readers := []derpmap.Consumer{"", derpmap.ForHeadscale, derpmap.ForTailscale, derpmap.ForTailscaled}
	for _, b := range badMaps() {
		text := b.new
		if b.base != "" {
			text = string(bytes.Replace([]byte(b.base), []byte(b.old), []byte(b.new), 1))
		}
		f.Add([]byte(text), byte(slices.Index(readers, b.o.For)))
	}
	for _, s := range []string{
		"a: &a {b: 1}\nregions: {1: *a, 2: {<<: [*a, {nodes: [~]}]}}", "? [a]\n: b", "regions: &r\n  1: {nodes: [{<<: *r}]}", "{regions: {900: {nodes: }}}",
		"--- {}\n--- {}\n", "regions: {0x384: {regionid: 900.0}}", `{"Regions":{"1":{"Nodes":[{"Name":"\ud800"}]}}}`, `"derpMap": {"Regions": {"1": {}}}`,
		"regions: !!map {1: !!null x}", "regions: {1: {regionid: !!int \"1\", regioncode: !!str 1}}", "<<: {regions: {1: }}", "//\n{ \"0000\": [],    } ", "%YAML 1.1\n---\n",
	} {
		f.Add([]byte(s), byte(0))
	}
	rules := make(map[string]bool)
	for _, r := range derpmap.Rules() {
		rules[r.ID] = true
	}
	f.Fuzz(func(t *testing.T, data []byte, reader byte) {
		o := derpmap.CheckOptions{For: readers[int(reader)%len(readers)]}
		report, err := derpmap.Check(data, o)
		if err != nil {
			return
		}
		for _, found := range report.Findings {
			if found.Line < 1 || found.Line > len(data)+2 || !rules[found.Rule] || found.Problem == "" || found.Effect == "" || found.Fix == "" {
				t.Fatalf("%+v", found)
			}
		}
		if report.Count(derpmap.Breaks) > 0 || slices.ContainsFunc(report.Findings, func(f derpmap.Finding) bool {
			return f.Rule == "loose-json" || f.Rule == "key-twice"
		}) {
			return
		}
		want, err := report.Form.Parse(data)
		if err != nil {
			if report.Form == derpmap.FormJSON && report.For == derpmap.ForTailscale {
				return
			}
			t.Fatalf("called good, and refused: %v", err)
		}
		got, problems, err := derpmap.Lenient(report.Form, data)
		if err != nil || problems > 0 || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v, %d problems: read as %+v, by the parser as %+v", err, problems, got, want)
		}
	})
}

// FuzzConvert: whatever is a map in one form can be written in each other, and
// differs in nothing.
func FuzzConvert(f *testing.F) {
	for _, s := range []string{goodYAML, goodJSON, goodPolicy, "", "{}", "regions: {1: ~}\n---\n", `{"Regions":{"1":{"RegionName":"\ud800"}},}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		from := derpmap.DetectForm("", data)
		m, err := derpmap.ParseLoose(from, data)
		if err != nil {
			return
		}
		for _, to := range allForms() {
			text, losses, err := derpmap.Convert(data, from, to)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range losses {
				if l.Line < 1 || l.Line > len(data)+2 || l.What == "" {
					t.Fatalf("%+v", l)
				}
			}
			back, err := to.Parse(text)
			if err != nil || !reflect.DeepEqual(back, m) {
				t.Fatalf("%v: came back as %+v from\n%s", err, back, text)
			}
			if d := derpmap.Diff(m, back, to.Consumer()); len(d.Changes) > 0 {
				t.Fatalf("%+v", d)
			}
		}
	})
}
