package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
)

// ran returns the state directory of a relay that has run once, and the flags
// for its map.
func ran(t *testing.T) (dir string, flags []string) {
	t.Helper()
	dir = stateDir(t)
	start(t, append([]string{"serve"}, freePorts(dir)...)...).stop()
	return dir, freePorts(dir, "--listen", ":8443", "--stun-listen", ":3478")
}

func TestMap(t *testing.T) {
	_, flags := ran(t)
	asJSON := detour(t, append([]string{"map", "--format", "json"}, flags...)...)
	asJSON.want(t, exitOK, `"CertName": "sha256-raw:`, "")
	fromJSON, err := derpmap.ParseJSON([]byte(asJSON.stdout))
	if err != nil {
		t.Fatal(err)
	}
	asYAML := detour(t, append([]string{"map"}, flags...)...)
	asYAML.want(t, exitOK, "regions:\n", "")
	fromYAML, err := derpmap.ParseHeadscale([]byte(asYAML.stdout))
	if err != nil {
		t.Fatal(err)
	}
	policy := detour(t, append([]string{"map", "--format", "policy"}, flags...)...)
	policy.want(t, exitOK, `"derpMap": {`, "")
	var inPolicy struct{ DerpMap json.RawMessage }
	if err := json.Unmarshal([]byte("{"+policy.stdout+"}"), &inPolicy); err != nil {
		t.Fatal(err)
	}
	fromPolicy, err := derpmap.ParseJSON(inPolicy.DerpMap)
	if err != nil {
		t.Fatal(err)
	}
	want := *fromJSON.Regions[900].Nodes[0]
	if want.HostName != "203.0.113.7" || want.DERPPort != 8443 || want.InsecureForTests {
		t.Errorf("node %+v", want)
	}
	for name, m := range map[string]derpmap.Map{"headscale": fromYAML, "policy": fromPolicy} {
		if got := *m.Regions[900].Nodes[0]; got != want {
			t.Errorf("%s: %+v\njson: %+v", name, got, want)
		}
	}
}

func TestMapForOldClients(t *testing.T) {
	_, flags := ran(t)
	r := detour(t, append([]string{"map", "--for-old-clients", "--format", "json"}, flags...)...)
	r.want(t, exitOK, `"InsecureForTests": true`, "detour: warning: InsecureForTests turns certificate checks off")
	if m, err := derpmap.ParseJSON([]byte(r.stdout)); err != nil || m.Regions[900].Nodes[0].CertName != "" {
		t.Errorf("standard output is not the map alone, or has a pin: %v\n%s", err, r.stdout)
	}
}

func TestMapThatCannotBe(t *testing.T) {
	dir := stateDir(t)
	detour(t, "map", "--state-dir", dir).want(t, exitFailed, "", "this relay has not run yet")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the state directory was made: %v", err)
	}
	dir, _ = ran(t)
	detour(t, append([]string{"map"}, freePorts(dir)...)...).want(t, exitFailed, "", "name a port")
}

// Flags override the environment, which overrides the file.
func TestLayersOfSettings(t *testing.T) {
	_, flags := ran(t)
	file := filepath.Join(t.TempDir(), "relay.yaml")
	write(t, file, "region_id: 901\nregion_name: from file\nregion_code: file\n")
	flags = append([]string{"map", "--format", "json", "--config", file}, flags...)
	region := func(args ...string) *derpmap.Region {
		t.Helper()
		r := detour(t, append(flags, args...)...)
		m, err := derpmap.ParseJSON([]byte(r.stdout))
		if err != nil || len(m.Regions) != 1 {
			t.Fatalf("%v: %+v", err, r)
		}
		for _, r := range m.Regions {
			return r
		}
		return nil
	}
	if r := region(); r.RegionID != 901 || r.RegionName != "from file" {
		t.Errorf("file: %+v", r)
	}
	t.Setenv("DETOUR_REGION_ID", "902")
	t.Setenv("DETOUR_REGION_CODE", "env")
	if r := region(); r.RegionID != 902 || r.RegionCode != "env" || r.RegionName != "from file" {
		t.Errorf("environment over file: %+v", r)
	}
	if r := region("--region-id", "903", "--region-id", "904"); r.RegionID != 904 || r.RegionCode != "env" || r.RegionName != "from file" {
		t.Errorf("flags over environment over file: %+v", r)
	}
}

func TestConfigFromTheEnvironment(t *testing.T) {
	good, bad := filepath.Join(t.TempDir(), "good.yaml"), filepath.Join(t.TempDir(), "bad.yaml")
	write(t, good, "{}\n")
	write(t, bad, "region_id: 0\n")
	t.Setenv("DETOUR_CONFIG", bad)
	dir := stateDir(t)
	detour(t, "key", "generate", "--state-dir", dir).want(t, exitFailed, "", bad+":1")
	detour(t, "key", "generate", "--state-dir", dir, "--config", good).want(t, exitOK, "nodekey:", "")
}

func TestConfigExampleIsRight(t *testing.T) {
	r := detour(t, "config", "example")
	r.want(t, exitOK, string(config.Example()), "")
	file := filepath.Join(t.TempDir(), "relay.yaml")
	write(t, file, r.stdout)
	detour(t, "config", "check", file).want(t, exitOK, "Who may connect\n  nodes that one of these allows:\n    ask", "")
}

func TestConfigCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "relay.yaml")
	write(t, file, "region_id: 901\nlisten: :7443\n")
	detour(t, "config", "check", file).want(t, exitOK, "region: 901, code detour-901", "")
	t.Setenv("DETOUR_REGION_ID", "902")
	detour(t, "config", "check", file).want(t, exitOK, "region: 902, code detour-902", "")
	write(t, file, "listen: :7443\nregoin_id: 901\n")
	detour(t, "config", "check", file).want(t, exitFailed, "", "did you mean region_id?")
	detour(t, "config", "check", file+".missing").want(t, exitFailed, "", "hint: ")
}

func TestKey(t *testing.T) {
	dir := stateDir(t)
	detour(t, "key", "show", "--state-dir", dir).want(t, exitFailed, "", "no server key at "+filepath.Join(dir, "server.key"))

	made := detour(t, "key", "generate", "--state-dir", dir)
	made.want(t, exitOK, "nodekey:", "")
	public, _, _ := strings.Cut(made.stdout, "\n")
	detour(t, "key", "show", "--state-dir", dir).want(t, exitOK, public, "")
	detour(t, "key", "show", "--state-dir", dir).want(t, exitOK, "certificate  none yet", "")

	file := filepath.Join(dir, "server.key")
	before := read(t, file)
	detour(t, "key", "generate", "--state-dir", dir).want(t, exitFailed, "", file+" exists already and is not touched")
	if read(t, file) != before {
		t.Error("the key was overwritten")
	}
	other := filepath.Join(dir, "more", "derper.key")
	detour(t, "key", "generate", other).want(t, exitOK, "in "+other, "")
	if strings.Contains(read(t, other), strings.TrimPrefix(public, "nodekey:")) {
		t.Error("the second key is the first")
	}
	write(t, file, "{}")
	detour(t, "key", "show", "--state-dir", dir).want(t, exitFailed, "", "has no PrivateKey")
}

func TestKeyShowHasThePin(t *testing.T) {
	dir, flags := ran(t)
	m := detour(t, append([]string{"map", "--format", "json"}, flags...)...)
	show := detour(t, "key", "show", "--state-dir", dir)
	show.want(t, exitOK, "valid until 20", "")
	pin := show.stdout[strings.Index(show.stdout, "sha256-raw:"):]
	pin, _, _ = strings.Cut(pin, "\n")
	if !strings.Contains(m.stdout, `"`+pin+`"`) {
		t.Errorf("the pin %q is not in the map:\n%s", pin, m.stdout)
	}
	if text := read(t, filepath.Join(dir, "server.key")); strings.Contains(show.stdout, text[strings.Index(text, "privkey:")+8:][:64]) {
		t.Error("the private key is shown")
	}
	detour(t, "key", "show", "--state-dir", dir, "--tls=false").want(t, exitOK, "server key", "")
}
