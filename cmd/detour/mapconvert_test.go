package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
)

func TestMapConvert(t *testing.T) {
	dir := t.TempDir()
	file, policy, bad := filepath.Join(dir, "derp.yaml"), filepath.Join(dir, "policy.hujson"), filepath.Join(dir, "bad.json")
	write(t, file, "# mine\n"+goodMap)
	write(t, bad, "{")
	r := detour(t, "map", "convert", "--to", "policy", file)
	r.want(t, exitOK, `"derpMap": {`, "detour: warning: "+file+":1: comments are left out\n")
	write(t, policy, "{\n\t// who may\n\t\"acls\": [],\n"+r.stdout+",\n}\n")
	r = detour(t, "map", "convert", "--to", "json", policy)
	r.want(t, exitOK, `"HostName": "relay.example.com"`, "")
	if strings.Contains(r.stdout, "acls") {
		t.Errorf("the rest of the policy came along:\n%s", r.stdout)
	}
	write(t, filepath.Join(dir, "derp.json"), r.stdout)
	r = detour(t, "map", "convert", "--to", "headscale", filepath.Join(dir, "derp.json"))
	r.want(t, exitOK, goodMap, "")

	detour(t, "map", "convert", "--to", "json", bad).want(t, exitCannot, "", "detour: "+bad+": reading DERP map as JSON: ")
	detour(t, "map", "convert", "--to", "json", "--from", "policy", filepath.Join(dir, "derp.json")).want(t, exitCannot, "", "there is no derpMap in it; hint: ")
	detour(t, "map", "convert", file).want(t, exitUsage, "", "which form is it to be?")
	detour(t, "map", "convert", "--to", "xml", file).want(t, exitUsage, "", `--to: "xml" is no form of a DERP map; hint: `)
	detour(t, "map", "check", "--for", "me", file).want(t, exitUsage, "", `--for: "me" reads no DERP map; hint: `)
}

func TestMapDiff(t *testing.T) {
	dir := t.TempDir()
	a, b, asJSON := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml"), filepath.Join(dir, "a.json")
	write(t, a, goodMap)
	write(t, b, strings.Replace(goodMap, "relay.example.com", "other.example.com", 1))
	write(t, asJSON, detour(t, "map", "convert", "--to", "json", a).stdout)

	detour(t, "map", "diff", a, asJSON).want(t, exitOK, "the maps say the same\n", "")
	r := detour(t, "map", "diff", a, b)
	r.want(t, exitFailed, "region 900 (lab): changed\n    node 900a: HostName: \"relay.example.com\", now \"other.example.com\"\n    effect: ", "")
	if !strings.HasSuffix(r.stdout, "\nread for headscale: 1 change\n") {
		t.Errorf("got %s", r.stdout)
	}
	detour(t, "map", "diff", a, b+".missing").want(t, exitCannot, "", "; hint: ")
	write(t, b, "regions: [")
	detour(t, "map", "diff", b, a).want(t, exitCannot, "", "as Headscale YAML")
	detour(t, "map", "diff", a).want(t, exitUsage, "", "compares two maps, and 1 are given; hint: ")
	detour(t, "map", "diff", "-", "-").want(t, exitUsage, "", "standard input; hint: ")

	write(t, b, "regions: {}\n")
	var d struct {
		Same bool
		derpmap.Difference
	}
	r = detour(t, "map", "diff", "--json", "--for", "tailscaled", a, b)
	r.want(t, exitFailed, `"same": false`, "")
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil || d.Same || d.For != derpmap.ForTailscaled || len(d.Changes) != 1 ||
		d.Changes[0].Kind != derpmap.Removed || d.Changes[0].Region != 900 {
		t.Errorf("%v: %s", err, r.stdout)
	}
}

// A URL may hold secrets, which no message shows.
func TestMapURLsAreShownWithoutSecrets(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	address := strings.Replace(srv.URL, "http://", "http://user:secret1@", 1) + "/derp.json?token=secret2"
	for range 2 { // once refused, once out of reach
		r := detour(t, "map", "check", address)
		r.want(t, exitCannot, "", srv.URL+"/derp.json")
		if strings.Contains(r.stderr, "secret") {
			t.Errorf("shown: %s", r.stderr)
		}
		srv.Close()
	}
}
