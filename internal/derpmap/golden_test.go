package derpmap_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const pin = derpmap.PinPrefix + "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"

// lab is a relay with a domain on the default ports; the cases change it.
func lab(change func(*derpmap.Relay)) derpmap.Relay {
	r := derpmap.Relay{
		RegionID: 900, RegionCode: "lab", RegionName: "Lab relay", NodeName: "900a",
		Hostname: "relay.example.com", Port: 443, STUNPort: 3478, TLS: true,
	}
	if change != nil {
		change(&r)
	}
	return r
}

func goldenRelays() map[string]derpmap.Relay {
	v4, v6 := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")
	return map[string]derpmap.Relay{
		"domain": lab(nil),
		"ip-pin": lab(func(r *derpmap.Relay) {
			r.Hostname, r.IPv4, r.Port, r.STUNPort, r.Pin = "", v4, 8443, 3479, pin
		}),
		"insecure": lab(func(r *derpmap.Relay) {
			r.Hostname, r.IPv4, r.Port, r.Pin, r.Insecure = "", v4, 8443, pin, true
		}),
		"stun-only": lab(func(r *derpmap.Relay) {
			r.Port, r.IPv4, r.Pin = 0, v4, pin
		}),
		"dual-stack": lab(func(r *derpmap.Relay) {
			r.Hostname, r.IPv4, r.IPv6, r.Pin = "", v4, v6, pin
		}),
		"port-80": lab(func(r *derpmap.Relay) {
			r.IPv4, r.CanPort80, r.STUNPort = v4, true, 0
		}),
	}
}

func TestGolden(t *testing.T) {
	for name, relay := range goldenRelays() {
		m, err := relay.Map()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for suffix, encode := range map[string]func(derpmap.Map) ([]byte, error){
			".headscale.yaml": derpmap.Headscale,
			".json":           derpmap.JSON,
			".policy.hujson":  derpmap.Policy,
		} {
			got, err := encode(m)
			if err != nil {
				t.Errorf("%s%s: %v", name, suffix, err)
				continue
			}
			golden(t, name+suffix, got)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (run with -update if this is meant); got:\n%s\nwant:\n%s", path, got, want)
	}
}

// A map with everything in it and with all that is easily lost: null regions,
// null nodes, absent lists, text that YAML would take for something else.
func fullMap() derpmap.Map {
	return derpmap.Map{
		HomeParams:         &derpmap.HomeParams{RegionScore: map[int]float64{900: 0.5, 10000: 2}},
		OmitDefaultRegions: true,
		Regions: map[int]*derpmap.Region{
			1:     nil,
			2:     {RegionID: 2},
			10000: {RegionID: 10000, RegionCode: "true", RegionName: "900", Nodes: []*derpmap.Node{}},
			900: {
				RegionID: 900, RegionCode: "sha", RegionName: "上海: #1 \"a\" & <b>",
				Latitude: 31.25, Longitude: -121.5, Avoid: true, NoMeasureNoHome: true,
				Nodes: []*derpmap.Node{nil, {
					Name: "900a", RegionID: 900, HostName: "1e3", CertName: pin, IPv4: "none", IPv6: "2001:db8::7",
					STUNPort: -1, STUNOnly: true, DERPPort: 8443, InsecureForTests: true, STUNTestIP: "198.51.100.9", CanPort80: true,
				}},
			},
		},
	}
}

func TestHeadscaleText(t *testing.T) {
	got, err := derpmap.Headscale(fullMap())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "full.headscale.yaml", got)
	for _, line := range []string{
		`certname: "` + pin + `"`, `ipv6: "2001:db8::7"`, `regionname: "900"`, `regioncode: "true"`,
		`regionid: 900`, `  900:`, `  1: null`, `nodes: null`, `nodes: []`, `stunport: -1`, `canport80: true`,
	} {
		if !strings.Contains(string(got), line+"\n") {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
	if !strings.HasPrefix(string(got), "# ") || !strings.Contains(string(got), "derp.paths") {
		t.Errorf("the comment does not say where the file goes:\n%s", got)
	}
	if strings.Index(string(got), "  900:") > strings.Index(string(got), "  10000:") {
		t.Error("regions are not in ascending order")
	}
}

// The bytes that tailcfg.DERPMap marshals to, apart from white space.
func TestJSONIsTailcfg(t *testing.T) {
	cases := map[string]derpmap.Map{
		`{"Regions":null}`: {},
		`{"HomeParams":{},"Regions":{"1":null,"2":{"RegionID":2,"RegionCode":"","RegionName":"","Nodes":null}},"omitDefaultRegions":true}`: {
			HomeParams: &derpmap.HomeParams{}, OmitDefaultRegions: true,
			Regions: map[int]*derpmap.Region{1: nil, 2: {RegionID: 2}},
		},
		`{"HomeParams":{"RegionScore":{}},"Regions":{}}`: {
			HomeParams: &derpmap.HomeParams{RegionScore: map[int]float64{}}, Regions: map[int]*derpmap.Region{},
		},
		`{"Regions":{"9":{"RegionID":9,"RegionCode":"c","RegionName":"n","Latitude":1.5,"Longitude":-2,"Avoid":true,"NoMeasureNoHome":true,` +
			`"Nodes":[{"Name":"9a","RegionID":9,"HostName":"h","CertName":"x","IPv4":"4","IPv6":"6","STUNPort":-1,"STUNOnly":true,"DERPPort":8443,` +
			`"InsecureForTests":true,"STUNTestIP":"s","CanPort80":true},{"Name":"","RegionID":0,"HostName":""},null]}}}`: {
			Regions: map[int]*derpmap.Region{9: {
				RegionID: 9, RegionCode: "c", RegionName: "n", Latitude: 1.5, Longitude: -2, Avoid: true, NoMeasureNoHome: true,
				Nodes: []*derpmap.Node{{
					Name: "9a", RegionID: 9, HostName: "h", CertName: "x", IPv4: "4", IPv6: "6", STUNPort: -1, STUNOnly: true,
					DERPPort: 8443, InsecureForTests: true, STUNTestIP: "s", CanPort80: true,
				}, {}, nil},
			}},
		},
	}
	for want, m := range cases {
		got, err := derpmap.JSON(m)
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, got); err != nil {
			t.Fatal(err)
		}
		if compact.String() != want {
			t.Errorf("got  %s\nwant %s", compact.String(), want)
		}
		if back, err := derpmap.ParseJSON(got); err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%s came back as %+v, %v", want, back, err)
		}
	}
}

func TestPolicyText(t *testing.T) {
	got, err := derpmap.Policy(derpmap.Map{Regions: map[int]*derpmap.Region{1: nil}})
	if err != nil {
		t.Fatal(err)
	}
	want := "\t\"derpMap\": {\n\t\t\"OmitDefaultRegions\": false,\n\t\t\"Regions\": {\n\t\t\t\"1\": null\n\t\t}\n\t}\n"
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	pasted := "{\n" + string(got) + "\t,\n\t\"acls\": []\n}"
	if !json.Valid([]byte(pasted)) {
		t.Errorf("not a member of an object:\n%s", pasted)
	}
}
