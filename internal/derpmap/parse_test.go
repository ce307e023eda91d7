package derpmap_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
)

func TestParseJSON(t *testing.T) {
	want := derpmap.Map{Regions: map[int]*derpmap.Region{
		1:   nil,
		900: {RegionID: 900, RegionCode: "lab", Nodes: []*derpmap.Node{{Name: "900a", RegionID: 900, HostName: "h", DERPPort: 8443}}},
	}, OmitDefaultRegions: true}
	for _, text := range []string{
		`{"Regions":{"1":null,"900":{"RegionID":900,"RegionCode":"lab","Nodes":[{"Name":"900a","RegionID":900,"HostName":"h","DERPPort":8443}]}},"omitDefaultRegions":true}`,
		`{"regions":{"1":null,"900":{"regionid":900,"REGIONCODE":"lab","nodes":[{"name":"900a","regionId":900,"hostName":"h","derpPort":8443,"new":[1]}]}},"OmitDefaultRegions":true,"x":{}}`,
	} {
		if got, err := derpmap.ParseJSON([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\ngot %+v, %v", text, got, err)
		}
	}
}

func TestParseHeadscale(t *testing.T) {
	const text = `
regions:
  1: null
  900: &lab
    regionid: 900
    regioncode: lab
    regionname: Lab relay
    nodes:
      - {name: 900a, regionid: 900, hostname: 198.51.100.7, ipv4: 198.51.100.7, ipv6: none, derpport: 8443, stunport: -1,
         certname: "sha256-raw:00", canport80: true, insecurefortests: true, HostName: ignored, unknown: 1}
  901:
    RegionID: 901
    nodes: []
---
regions: {2: null}
`
	want := derpmap.Map{Regions: map[int]*derpmap.Region{
		1: nil,
		900: {RegionID: 900, RegionCode: "lab", RegionName: "Lab relay", Nodes: []*derpmap.Node{{
			Name: "900a", RegionID: 900, HostName: "198.51.100.7", IPv4: "198.51.100.7", IPv6: "none", DERPPort: 8443, STUNPort: -1,
			CertName: "sha256-raw:00", CanPort80: true, InsecureForTests: true,
		}}},
		901: {Nodes: []*derpmap.Node{}},
	}}
	if got, err := derpmap.ParseHeadscale([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := derpmap.ParseHeadscale(nil); err != nil || !reflect.DeepEqual(got, derpmap.Map{}) {
		t.Errorf("empty file: got %+v, %v", got, err)
	}
}

func TestParseErrors(t *testing.T) {
	cases := []struct {
		name   string
		parse  func([]byte) (derpmap.Map, error)
		text   string
		line   int
		reason string // a part of it
		hint   string // a part of it; "" when there is none
	}{
		{"json syntax", derpmap.ParseJSON, "{\n\"Regions\": {\n\"900\": }}", 3, "invalid character '}'", ""},
		{"json cut", derpmap.ParseJSON, "{\n", 1, "unexpected end", ""},
		{"json empty", derpmap.ParseJSON, "", 1, "unexpected end", ""},
		{"json tail", derpmap.ParseJSON, "{}\n{}", 2, "after top-level value", ""},
		{"json list", derpmap.ParseJSON, "[]", 1, "the map: want an object, got array", ""},
		{"json type", derpmap.ParseJSON, "{\"Regions\": {\"900\": {\n\"RegionID\":\n\"900\"\n}}}", 3, "RegionID: want a whole number, got string", ""},
		{"json key", derpmap.ParseJSON, "{\"Regions\":\n{\"lab\": null}}", 2, "want a whole number, got number lab", ""},
		{"json bool", derpmap.ParseJSON, `{"omitDefaultRegions":"no"}`, 1, "omitDefaultRegions: want true or false, got string", ""},
		{"json nodes", derpmap.ParseJSON, `{"Regions":{"1":{"Nodes":{}}}}`, 1, "Nodes: want a list, got object", ""},
		{"json name", derpmap.ParseJSON, `{"Regions":{"1":{"RegionName":1}}}`, 1, "RegionName: want text in quotes, got number", ""},
		{"json float", derpmap.ParseJSON, `{"Regions":{"1":{"Latitude":"1"}}}`, 1, "Latitude: want a number, got string", ""},
		{"yaml quoted key", derpmap.ParseHeadscale, "regions:\n  \"900\":\n    regionid: 900\n", 2, "!!str `900` into int", "without quotes"},
		{"yaml quoted id", derpmap.ParseHeadscale, "regions:\n  900:\n    regionid: \"900\"\n", 3, "!!str `900` into int", "without quotes"},
		{"yaml quoted port", derpmap.ParseHeadscale, "regions:\n  900:\n    nodes:\n    - name: a\n      derpport: \"8443\"", 5, "`8443` into int", "without quotes"},
		{"yaml syntax", derpmap.ParseHeadscale, "regions:\n  900: a: b\n", 2, "mapping values are not allowed", ""},
		{"yaml list", derpmap.ParseHeadscale, "- a\n", 1, "cannot unmarshal !!seq", ""},
		{"yaml twice", derpmap.ParseHeadscale, "regions:\n  900: null\n  900: null\n", 3, "already defined at line 2", ""},
		{"yaml deep", derpmap.ParseHeadscale, "a:\n  " + strings.Repeat("[", 200) + strings.Repeat("]", 200), 2, "nested more than", ""},
		{"yaml cycle", derpmap.ParseHeadscale, "regions: &a\n  1: *a\n", 1, "nested more than", ""},
		{"yaml keys", derpmap.ParseHeadscale, "{" + manyKeys(20_000) + "}", 1, "too many keys", ""},
		{"yaml aliases", derpmap.ParseHeadscale, "x: &x {" + manyKeys(2000) + "}\ny: [" + strings.Repeat("*x,", 100) + "]\n", 1, "too many keys", ""},
		{"yaml same keys", derpmap.ParseHeadscale, strings.Repeat("a: 1\n", 100_000), 2, "already defined at line 1", ""},
		{"yaml nan", derpmap.ParseHeadscale, "regions:\n  900: {latitude: .nan}\n", 0, "region 900: latitude", ""},
		{"yaml binary", derpmap.ParseHeadscale, "regions:\n  900: {regioncode: !!binary /w==}\n", 0, "region 900: region code or name is not UTF-8", ""},
		{"yaml many", derpmap.ParseHeadscale, "regions:\n  a: null\n  b: null\n  c: null\n  d: null\n  e: null\n", 2, "and 2 more", "without quotes"},
	}
	for _, c := range cases {
		m, err := c.parse([]byte(c.text))
		var e *derpmap.ParseError
		if !errors.As(err, &e) {
			t.Errorf("%s: got error %v", c.name, err)
			continue
		}
		if !reflect.DeepEqual(m, derpmap.Map{}) {
			t.Errorf("%s: half a map with the error: %+v", c.name, m)
		}
		if e.Line != c.line || !strings.Contains(e.Reason, c.reason) {
			t.Errorf("%s: got line %d: %s", c.name, e.Line, e.Reason)
		}
		if c.hint == "" != (e.Hint == "") || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: hint %q", c.name, e.Hint)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %q", c.name, err)
		}
	}
}

// manyKeys is a flow mapping's inside of n different keys, on one line.
func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d: 1, ", i)
	}
	return b.String()
}

func TestParseErrorText(t *testing.T) {
	_, err := derpmap.ParseHeadscale([]byte("regions:\n  \"900\": null\n"))
	const want = "reading DERP map as Headscale YAML: line 2: cannot unmarshal !!str `900` into int" +
		"; hint: region ids, ports and other numbers are digits without quotes"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestParseTooLarge(t *testing.T) {
	fits := bytes.Repeat([]byte{'\n'}, derpmap.MaxSize)
	copy(fits, "{}")
	for name, parse := range map[string]func([]byte) (derpmap.Map, error){
		"json": derpmap.ParseJSON, "headscale": derpmap.ParseHeadscale,
	} {
		if _, err := parse(fits); err != nil {
			t.Errorf("%s: %d bytes: %v", name, len(fits), err)
		}
		if _, err := parse(append(fits, '\n')); !errors.Is(err, derpmap.ErrTooLarge) {
			t.Errorf("%s: one byte more: %v", name, err)
		}
	}
}

func FuzzParseJSON(f *testing.F) {
	seedForms(f, derpmap.JSON)
	for _, s := range []string{
		"", "null", "[]", `{"Regions":{"1":null,"1":{}}}`, `{"regions":{"0900":{"nodes":[null,{"name":"\ud800"}]}}}`,
		`{"HomeParams":{"RegionScore":{"1":1e308}}}`, `{"Regions":{"x":1}}`, "{\n\"Regions\":\n{\"1\":[]}}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzParse(t, data, derpmap.ParseJSON, derpmap.JSON)
	})
}

func FuzzParseHeadscale(f *testing.F) {
	seedForms(f, derpmap.Headscale)
	for _, s := range []string{
		"", "null", "- a", "regions: {\"900\": null}", "regions:\n  1: &a {regionid: 1}\n  2: *a\n", "regions: {900: {latitude: .inf}}",
		"regions: {1: {<<: {regionid: 1}, nodes: [~]}}", "regions: {1: {regioncode: !!binary /w==}}", "a: &a [*a]", "regions: {0x10: {regionid: 1.0}}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzParse(t, data, derpmap.ParseHeadscale, derpmap.Headscale)
	})
}

func seedForms(f *testing.F, encode func(derpmap.Map) ([]byte, error)) {
	f.Helper()
	for _, m := range []derpmap.Map{{}, fullMap()} {
		text, err := encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
}

// fuzzParse: whatever is taken can be written and is read back the same;
// whatever is refused is refused in one line that stays within the text.
func fuzzParse(t *testing.T, data []byte, parse func([]byte) (derpmap.Map, error), encode func(derpmap.Map) ([]byte, error)) {
	m, err := parse(data)
	if err != nil {
		var e *derpmap.ParseError
		if !errors.As(err, &e) {
			t.Fatalf("error of type %T: %v", err, err)
		}
		if lines := len(data) + 2; e.Line < 0 || e.Line > lines {
			t.Fatalf("line %d of %d bytes", e.Line, len(data))
		}
		return
	}
	text, err := encode(m)
	if err != nil {
		t.Fatalf("read but cannot be written: %v", err)
	}
	if back, err := parse(text); err != nil || !reflect.DeepEqual(back, m) {
		t.Fatalf("came back as %+v, %v from\n%s", back, err, text)
	}
}
