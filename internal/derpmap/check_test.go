package derpmap_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
)

// A good map in each form. The cases change one thing in it.
const (
	goodYAML = `regions:
  900:
    regionid: 900
    regioncode: lab
    regionname: Lab
    nodes:
      - name: 900a
        regionid: 900
        hostname: relay.example.com
        certname: "` + pin + `"
        ipv4: 198.51.100.7
        derpport: 8443
        stunport: 3479
  901:
    regionid: 901
    regioncode: den
    regionname: Den
    nodes:
      - name: 901a
        regionid: 901
        hostname: 203.0.113.9
        certname: "` + pin + `"
`
	goodJSON = `{
  "Regions": {
    "900": {
      "RegionID": 900,
      "RegionCode": "lab",
      "RegionName": "Lab",
      "Nodes": [
        {"Name": "900a", "RegionID": 900, "HostName": "relay.example.com"}
      ]
    }
  }
}
`
	goodPolicy = `// a policy
{
  "acls": [],
  "derpMap": {
    "OmitDefaultRegions": false,
    "Regions": {
      "900": {
        "RegionID": 900,
        "RegionCode": "lab", // short
        "RegionName": "Lab",
        "Nodes": [
          {"Name": "900a", "RegionID": 900, "HostName": "relay.example.com"},
        ],
      },
    },
  },
}
`
)

// badMap is a good map but for one thing.
type badMap struct {
	rule string
	base string // one of the good maps
	old  string // its first occurrence gives way to new; empty: new is the whole text
	new  string
	line int
	// Where not those of the rule and the form.
	severity derpmap.Severity
	o        derpmap.CheckOptions
}

func badMaps() []badMap {
	return slices.Concat(badWriting(), badWholes(), badRegions(), badNodes(), badAddresses())
}

func badWriting() []badMap {
	tailscale, tailscaled := derpmap.CheckOptions{For: derpmap.ForTailscale}, derpmap.CheckOptions{For: derpmap.ForTailscaled}
	return []badMap{
		{rule: "wrong-form", base: goodYAML, line: 1, o: tailscale},
		{rule: "wrong-form", base: goodYAML, line: 1, o: tailscaled},
		{rule: "wrong-form", base: goodYAML, line: 1, o: derpmap.CheckOptions{IsURL: true}},
		{rule: "wrong-form", base: goodJSON, line: 1, o: tailscale},
		{rule: "wrong-form", base: goodPolicy, line: 1, o: tailscaled},
		{rule: "wrong-form", base: goodPolicy, line: 1, o: derpmap.CheckOptions{For: derpmap.ForHeadscale}},
		{rule: "loose-json", base: goodJSON, old: `"Lab",`, new: `"Lab", // new`, line: 6},
		{rule: "loose-json", base: goodJSON, old: "}\n      ]", new: "},\n      ]", line: 8, o: tailscaled},
		{rule: "json-in-paths", base: goodJSON, line: 1},
		{rule: "second-document", base: goodYAML, old: "  901:", new: "---\n  901:", line: 14},
		{rule: "key-twice", base: goodYAML, old: "  901:", new: "  900:", line: 14},
		{rule: "key-twice", base: goodJSON, old: `"RegionCode": "lab",`, new: "\"RegionCode\": \"lab\",\n\"regioncode\": \"lab\",", line: 6, severity: derpmap.Warns},
		{rule: "key-twice", base: goodJSON, old: `"900": {`, new: "\"0900\": null,\n\"900\": {", line: 4, severity: derpmap.Warns},
		{rule: "misspelt-key", base: goodYAML, old: "hostname", new: "hostName", line: 9},
		{rule: "misspelt-key", base: goodYAML, old: "    regionid", new: "    RegionID", line: 3},
		{rule: "misspelt-key", base: goodYAML, old: "derpport", new: "derp_port", line: 12},
		{rule: "misspelt-key", base: goodYAML, old: "regionname", new: "regionName", line: 5, severity: derpmap.Warns},
		{rule: "misspelt-key", base: goodYAML, old: "regions", new: "Regions", line: 1},
		{rule: "misspelt-key", base: goodJSON, old: "HostName", new: "host-name", line: 8},
		{rule: "unknown-key", base: goodYAML, old: "    regioncode", new: "    weight: 1\n    regioncode", line: 4},
		{rule: "unknown-key", base: goodJSON, old: `"RegionCode"`, new: `"Weight": 1, "RegionCode"`, line: 5},
		{rule: "quoted-number", base: goodYAML, old: "900:", new: `"900":`, line: 2},
		{rule: "quoted-number", base: goodYAML, old: "regionid: 900", new: `regionid: "900"`, line: 3},
		{rule: "quoted-number", base: goodYAML, old: "8443", new: "'8443'", line: 12},
		{rule: "wrong-type", base: goodYAML, old: "8443", new: "[8443]", line: 12},
		{rule: "wrong-type", base: goodYAML, old: "8443", new: "https", line: 12},
		{rule: "wrong-type", base: goodYAML, old: "  900:", new: "  lab:", line: 2},
		{rule: "wrong-type", new: "regions:\n- regionid: 900\n", line: 2},
		{rule: "wrong-type", new: "- regionid: 900\n", line: 1},
		{rule: "wrong-type", base: goodJSON, old: `: 900`, new: `: "900"`, line: 4},
		{rule: "wrong-type", base: goodJSON, old: `"900"`, new: `"lab"`, line: 3},
		{rule: "wrong-type", base: goodPolicy, old: "900,", new: "true,", line: 8},
		{rule: "cannot-load", base: goodYAML, old: "Lab\n", new: "!!binary /w==\n", line: 1},
		{rule: "cannot-load", base: goodYAML, old: "    regioncode", new: "    [a]: b\n    regioncode", line: 4},
		{rule: "bare-pin", base: goodYAML, old: `"` + pin + `"`, new: pin, line: 10},
	}
}

func badWholes() []badMap {
	const scores = "{\n\"HomeParams\": {\"RegionScore\": {\n\"900\": 0,\n\"901\": 2\n}},"
	tailscale, tailscaled := derpmap.CheckOptions{For: derpmap.ForTailscale}, derpmap.CheckOptions{For: derpmap.ForTailscaled}
	return []badMap{
		{rule: "no-regions", new: "", line: 1},
		{rule: "no-regions", new: "# none\nregions: {}\n", line: 2},
		{rule: "no-regions", new: "{}", line: 1},
		{rule: "no-regions", new: "regions:\n  1: null\n", line: 1, severity: derpmap.Warns},
		{rule: "no-regions", new: `{"derpMap": {}}`, line: 1},
		{rule: "no-home", base: goodJSON, old: `"RegionCode"`, new: `"NoMeasureNoHome": true, "RegionCode"`, line: 2},
		{rule: "home-params-dropped", base: goodYAML, old: "regions", new: "homeparams: {}\nregions", line: 1},
		{rule: "omit-default-dropped", base: goodYAML, old: "regions", new: "omitdefaultregions: true\nregions", line: 1},
		{rule: "omit-default-dropped", base: goodJSON, old: "{", new: "{\"omitDefaultRegions\": true,", line: 1, severity: derpmap.Note, o: tailscaled},
		{rule: "omit-default-alone", new: "{\"derpMap\": {\n\"OmitDefaultRegions\": true}}", line: 2},
		{rule: "score-ignored", base: goodJSON, old: "{", new: scores, line: 3, o: tailscaled},
		{rule: "score-unknown-region", base: goodJSON, old: "{", new: scores, line: 4, o: tailscaled},
		{rule: "region-id-reserved", base: strings.ReplaceAll(goodYAML, "900", "7"), line: 2},
		{rule: "region-id-reserved", base: strings.ReplaceAll(goodPolicy, "900", "7"), line: 7, severity: derpmap.Warns, o: tailscale},
	}
}

func badRegions() []badMap {
	second := func(rest string) string {
		return `"relay.example.com"},` + "\n" + `{"Name": "900b", "RegionID": 900, ` + rest
	}
	return []badMap{
		{rule: "null-region", base: goodYAML, old: "regions:", new: "regions:\n  1: null", line: 2},
		{rule: "null-region", base: goodYAML, old: "regions:", new: "regions:\n  1:", line: 2},
		{
			rule: "null-region", base: goodJSON, old: `"900"`, new: `"1": null, "900"`, line: 3, severity: derpmap.Note,
			o: derpmap.CheckOptions{For: derpmap.ForTailscaled},
		},
		{rule: "region-id-range", base: strings.ReplaceAll(goodYAML, "901", "65536"), line: 14},
		{rule: "region-id-range", base: strings.ReplaceAll(goodYAML, "901", "-1"), line: 14},
		{rule: "region-id-range", base: strings.ReplaceAll(goodYAML, "901", "0"), line: 14},
		{rule: "region-id-missing", base: goodYAML, old: "    regionid: 900\n", new: "", line: 2},
		{rule: "region-id-mismatch", base: goodYAML, old: "regionid: 900", new: "regionid: 902", line: 3},
		{rule: "region-999", base: strings.ReplaceAll(goodYAML, "901", "999"), line: 14},
		{rule: "region-code-missing", base: goodYAML, old: "    regioncode: lab\n", new: "", line: 2},
		{rule: "region-code-twice", base: goodYAML, old: "lab", new: "den", line: 16},
		{rule: "region-name-missing", base: goodYAML, old: "Lab", new: `""`, line: 5},
		{rule: "coordinates", base: goodYAML, old: "    regioncode", new: "    latitude: 121.5\n    regioncode", line: 4},
		{rule: "coordinates", base: goodYAML, old: "    regioncode", new: "    longitude: -312\n    regioncode", line: 4},
		{rule: "avoid-deprecated", base: goodYAML, old: "    regioncode", new: "    avoid: true\n    regioncode", line: 4},
		{rule: "no-nodes", new: "regions:\n  900: {regionid: 900}\n", line: 2},
		{rule: "no-nodes", new: "regions:\n  900:\n    regionid: 900\n    nodes: []\n", line: 4},
		{rule: "null-node", base: goodYAML, old: "    nodes:\n", new: "    nodes:\n      -\n", line: 7},
		{rule: "null-node", base: goodJSON, old: `"Nodes": [`, new: `"Nodes": [null,`, line: 7},
		{rule: "stun-only-region", base: goodYAML, old: "derpport: 8443", new: "stunonly: true", line: 6},
		{rule: "no-stun", base: goodYAML, old: "3479", new: "-1", line: 6},
		{rule: "shuffled-nodes", base: goodJSON, old: `"relay.example.com"`, new: second(`"HostName": "b.example"`), line: 7},
		{rule: "mesh-needed", base: goodJSON, old: `"relay.example.com"`, new: second(`"HostName": "b.example"`), line: 7},
		{rule: "same-relay-twice", base: goodJSON, old: `"relay.example.com"`, new: second(`"HostName": "Relay.Example.com", "DERPPort": 443`), line: 9},
		{rule: "same-relay-elsewhere", base: goodYAML, old: "198.51.100.7\n        derpport: 8443", new: "203.0.113.9", line: 18},
	}
}

func badNodes() []badMap {
	host := func(rule, name string) badMap {
		return badMap{rule: rule, base: goodYAML, old: "relay.example.com", new: name, line: 9}
	}
	cert := func(rule, name string) badMap {
		return badMap{rule: rule, base: goodYAML, old: pin, new: name, line: 10}
	}
	const digits = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
	return []badMap{
		{rule: "node-name-missing", base: goodYAML, old: "name: 900a\n        ", new: "", line: 7},
		{rule: "node-name-twice", base: goodYAML, old: "901a", new: "900a", line: 19},
		{rule: "node-region-missing", base: goodYAML, old: "        regionid: 900\n", new: "", line: 7},
		{rule: "node-region-mismatch", base: goodYAML, old: "        regionid: 900", new: "        regionid: 901", line: 8},
		{rule: "hostname-missing", base: goodYAML, old: "        hostname: relay.example.com\n", new: "", line: 7},
		host("hostname-form", "https://relay.example.com"),
		host("hostname-form", "relay.example.com:8443"),
		host("hostname-form", "relay.example.com/derp"),
		host("hostname-form", `"[2001:db8::7]"`),
		host("hostname-form", `" relay.example.com"`),
		host("hostname-form", "上海.example"),
		host("hostname-form", "203.0.113.300"),
		host("hostname-form", `"fe80::1%eth0"`),
		host("hostname-form", "relay..example.com"),
		{rule: "ipv6-hostname-443", base: goodYAML, old: "203.0.113.9", new: `"2001:db8::7"`, line: 21},
		{rule: "host-differs", base: goodYAML, old: "relay.example.com", new: "198.51.100.8", line: 11},
		{rule: "ip-name-unchecked", base: goodYAML, old: "203.0.113.9\n        certname: \"" + pin + "\"", new: "203.0.113.9", line: 21},
		cert("pin-form", derpmap.PinPrefix+strings.ToUpper(digits)),
		cert("pin-form", derpmap.PinPrefix+digits[1:]),
		cert("pin-form", derpmap.PinPrefix+digits+"00"),
		cert("pin-form", derpmap.PinPrefix+strings.Repeat("g", 64)),
		cert("pin-form", "SHA256-RAW:"+digits),
		cert("pin-form", "sha256:"+digits),
		cert("pin-form", "sha256-raw: "+digits),
		cert("pin-form", digits),
		cert("certname-form", "https://relay.example.com"),
		cert("certname-form", "*.*.example.com"),
		{rule: "insecure", base: goodJSON, old: `"relay.example.com"`, new: `"relay.example.com", "InsecureForTests": true`, line: 8},
		{rule: "insecure-with-pin", base: goodYAML, old: "derpport", new: "insecurefortests: true\n        derpport", line: 12},
	}
}

func badAddresses() []badMap {
	node := func(rule, old, text string, line int) badMap {
		return badMap{rule: rule, base: goodYAML, old: old, new: text, line: line}
	}
	portal := func(rule string, answers map[string]derpmap.PortAnswer) badMap {
		b := node(rule, "derpport", "canport80: true\n        derpport", 12)
		b.o.Probe = func(ipv4 []string) map[string]derpmap.PortAnswer {
			if !slices.Equal(ipv4, []string{"198.51.100.7"}) {
				return nil
			}
			return answers
		}
		return b
	}
	return []badMap{
		node("family-off", "ipv4: 198.51.100.7", "ipv4: relay.example.com", 11),
		node("family-off", "ipv4: 198.51.100.7", `ipv4: "198.51.100.7:443"`, 11),
		node("family-off", "ipv4: 198.51.100.7", `ipv4: "2001:db8::7"`, 11),
		node("family-off", "ipv4: 198.51.100.7", "ipv6: 198.51.100.7", 11),
		node("no-address", "ipv4: 198.51.100.7", "ipv4: none\n        ipv6: none", 7),
		node("no-address", "203.0.113.9", "203.0.113.9\n        ipv4: none", 19),
		node("address-impossible", "198.51.100.7", "0.0.0.0", 11),
		node("address-impossible", "203.0.113.9", "224.0.0.1", 21),
		node("address-private", "198.51.100.7", "192.168.1.7", 11),
		node("address-private", "203.0.113.9", "127.0.0.1", 21),
		node("derp-port-range", "8443", "65536", 12),
		node("derp-port-range", "8443", "-1", 12),
		node("stun-port-range", "3479", "65536", 13),
		node("stun-off", "3479", "-1", 13),
		node("stun-only-no-stun", "stunport: 3479", "stunport: -1\n        stunonly: true", 13),
		node("stun-test-ip", "derpport", "stuntestip: 198.51.100.8\n        derpport", 12),
		node("port80-no-ipv4", "ipv4: 198.51.100.7", "canport80: true", 11),
		node("port80-no-ipv4", "ipv4: 198.51.100.7", "canport80: true\n        ipv4: none", 11),
		{rule: "port80-unused", base: strings.Replace(goodYAML, "    nodes:", "    nomeasurenohome: true\n    nodes:", 1), old: "derpport", new: "canport80: true\n        derpport", line: 13},
		node("port80-not-looked-at", "derpport", "canport80: true\n        derpport", 12),
		portal("port80-silent", map[string]derpmap.PortAnswer{"198.51.100.7": {Silent: true}}),
		portal("port80-wrong", map[string]derpmap.PortAnswer{"198.51.100.7": {Wrong: "with status 302"}}),
	}
}

func TestCheckFindsEveryRule(t *testing.T) {
	tried := make(map[string]bool)
	severities := make(map[string]derpmap.Severity)
	for _, r := range derpmap.Rules() {
		severities[r.ID] = r.Severity
	}
	for _, tt := range badMaps() {
		tried[tt.rule] = true
		text := tt.base
		if tt.old == "" && tt.base == "" {
			text = tt.new
		} else if !strings.Contains(text, tt.old) {
			t.Fatalf("%s: the good map has no %q", tt.rule, tt.old)
		} else if tt.old != "" {
			text = strings.Replace(text, tt.old, tt.new, 1)
		}
		report, err := derpmap.Check([]byte(text), tt.o)
		if err != nil {
			t.Errorf("%s: %v in\n%s", tt.rule, err, text)
			continue
		}
		want := tt.severity
		if want == "" {
			want = severities[tt.rule]
		}
		if !slices.ContainsFunc(report.Findings, func(f derpmap.Finding) bool {
			return f.Rule == tt.rule && f.Severity == want && f.Line == tt.line
		}) {
			t.Errorf("want %s, %s, at line %d; got %+v from\n%s", tt.rule, want, tt.line, report.Findings, text)
		}
		for _, f := range report.Findings {
			if f.Problem == "" || f.Effect == "" || f.Fix == "" {
				t.Errorf("%s: not whole: %+v", tt.rule, f)
			}
		}
	}
	for id := range severities {
		if !tried[id] {
			t.Errorf("no bad map for the rule %s", id)
		}
	}
	if len(tried) != len(derpmap.Rules()) {
		t.Errorf("%d rules were tried, %d there are, perhaps some twice", len(tried), len(derpmap.Rules()))
	}
}

// One mistake has one finding that breaks, lest people look for two.
func TestCheckSaysItOnce(t *testing.T) {
	for _, change := range [][2]string{
		{"    regionid: 900", `    regionid: "900"`},
		{"    regionid: 900", "    RegionID: 900"},
		{"        regionid: 900", "        regionID: 900"},
		{"hostname", "hostName"},
		{"- name", "- Name"},
		{"900:", `"900":`},
		{"    nodes:", "    Nodes:"},
		{"regions:", "Regions:"},
		{"nodes:\n      - name: 900a\n        regionid: 900\n        hostname: relay.example.com\n", "nodes:\n        regionid: 900\n        hostname: relay.example.com\n"},
	} {
		text := strings.Replace(goodYAML, change[0], change[1], 1)
		report, err := derpmap.Check([]byte(text), derpmap.CheckOptions{})
		if err != nil || report.Count(derpmap.Breaks) != 1 {
			t.Errorf("%s: %v, %+v", change[1], err, report.Findings)
		}
	}
}

func TestCheckOfGoodMaps(t *testing.T) {
	for name, text := range map[string]string{"yaml": goodYAML, "policy": goodPolicy} {
		report, err := derpmap.Check([]byte(text), derpmap.CheckOptions{})
		if err != nil || len(report.Findings) > 0 || report.Regions == 0 || report.Nodes == 0 {
			t.Errorf("%s: %v, %+v", name, err, report)
		}
	}
	report, err := derpmap.Check([]byte(goodJSON), derpmap.CheckOptions{IsURL: true})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("json: %v, %+v", err, report)
	}
	// Odd, and right all the same.
	odd := strings.NewReplacer("relay.example.com", "Relay.Example.com.", `"`+pin+`"`, `"*.example.com"`).Replace(goodYAML)
	report, err = derpmap.Check([]byte(odd), derpmap.CheckOptions{})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("odd names: %v, %+v", err, report)
	}
	// A policy that takes two of Tailscale's regions away, as its manual has it.
	report, err = derpmap.Check([]byte(`{"derpMap": {"Regions": {"1": null, "2": null}}}`), derpmap.CheckOptions{})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("policy of nulls: %v, %+v", err, report)
	}
}

// What `detour map` prints has no finding that breaks a client, in any form.
func TestCheckOfOurOwnMaps(t *testing.T) {
	for name, relay := range goldenRelays() {
		m, err := relay.Map()
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []derpmap.Form{derpmap.FormHeadscale, derpmap.FormJSON, derpmap.FormPolicy} {
			text, err := form.Encode(m)
			if err != nil {
				t.Fatal(err)
			}
			report, err := derpmap.Check(text, derpmap.CheckOptions{})
			if err != nil || report.Form != form {
				t.Errorf("%s as %s: read as %s, %v", name, form, report.Form, err)
			}
			for _, f := range report.Findings {
				if f.Severity == derpmap.Breaks && (name != "stun-only" || f.Rule != "stun-only-region") {
					t.Errorf("%s as %s: %+v", name, form, f)
				}
			}
		}
	}
}

// A report stays within bounds, and counts what it does not list.
func TestCheckListsAHundredOfAKind(t *testing.T) {
	text := `{"Regions":{"900":{"RegionID":900,"Nodes":[` + strings.Repeat("\n{},", 199) + "{}]}}}"
	report, err := derpmap.Check([]byte(text), derpmap.CheckOptions{})
	if err != nil || report.More != 300 || report.Nodes != 200 || report.Count(derpmap.Breaks) != 300 {
		t.Errorf("%v: %d breaks, %d more", err, report.Count(derpmap.Breaks), report.More)
	}
}

func TestCheckUnreadable(t *testing.T) {
	for name, text := range map[string]string{
		"yaml":      "regions: [",
		"json":      "{\"Regions\": {",
		"deep":      strings.Repeat("[", 1000),
		"deep yaml": "a: " + strings.Repeat("[", 500) + strings.Repeat("]", 500),
		"large":     strings.Repeat(" ", derpmap.MaxSize+1),
	} {
		_, err := derpmap.Check([]byte(text), derpmap.CheckOptions{})
		var e *derpmap.ParseError
		if !errors.As(err, &e) && !errors.Is(err, derpmap.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := derpmap.Check([]byte(goodJSON), derpmap.CheckOptions{Form: derpmap.FormPolicy})
	if err == nil || !strings.Contains(err.Error(), "no derpMap") {
		t.Errorf("a policy without a map: %v", err)
	}
}

func TestDetectForm(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       derpmap.Form
	}{
		{"", goodYAML, derpmap.FormHeadscale},
		{"", goodJSON, derpmap.FormJSON},
		{"", goodPolicy, derpmap.FormPolicy},
		{"", "\n// x\n/* y */ \"DerpMap\" : {}", derpmap.FormPolicy},
		{"", `"derpMap"`, derpmap.FormHeadscale},
		{"", "{regions: {900: null}}", derpmap.FormHeadscale},
		{"", "{", derpmap.FormJSON},
		{"a/b.yaml", `{"regions": {}}`, derpmap.FormHeadscale},
		{"a/b.YML", `{"regions": {}}`, derpmap.FormHeadscale},
		{"a/b.json", "", derpmap.FormJSON},
		{"", "", derpmap.FormHeadscale},
		{"", "// only a comment", derpmap.FormHeadscale},
		{"", strings.Repeat("{", 200), derpmap.FormJSON},
	} {
		if got := derpmap.DetectForm(tt.name, []byte(tt.text)); got != tt.want {
			t.Errorf("%q named %q: %s, want %s", tt.text, tt.name, got, tt.want)
		}
	}
}

// The manual names every rule, in both languages.
func TestManualHasEveryRule(t *testing.T) {
	for _, page := range []string{"../../docs/map.md", "../../docs/map.zh-CN.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, r := range derpmap.Rules() {
			if !strings.Contains(string(text), "| `"+r.ID+"` | "+string(r.Severity)+" |") {
				t.Errorf("%s has no row for %s, %s", page, r.ID, r.Severity)
			}
		}
	}
}
