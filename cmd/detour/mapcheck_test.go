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

const goodMap = `regions:
  900:
    regionid: 900
    regioncode: lab
    regionname: Lab
    nodes:
      - name: 900a
        regionid: 900
        hostname: relay.example.com
`

func TestMapCheck(t *testing.T) {
	dir := t.TempDir()
	good, bad, broken := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "broken.yaml")
	write(t, good, goodMap)
	write(t, bad, strings.Replace(goodMap, "        regionid: 900\n", "", 1))
	write(t, broken, "regions: [")

	detour(t, "map", "check", good).want(t, exitOK, good+": Headscale YAML, read for headscale, 1 region, 1 node: 0 break, 0 warn, 0 notes\n", "")
	detour(t, "map", "check", bad).want(t, exitFailed, bad+":7: breaks: region 900, node 900a: no RegionID (node-region-missing)\n    effect: ", "")
	detour(t, "map", "check", broken).want(t, exitCannot, "", "detour: "+broken+": reading DERP map as Headscale YAML: line 1:")
	detour(t, "map", "check", good+".missing").want(t, exitCannot, "", "; hint: ")
	detour(t, "map", "check", "--for", "tailscale", good).want(t, exitFailed, "detour map convert --to policy", "")
	detour(t, "map", "check", "--from", "json", good).want(t, exitCannot, "", "as JSON")

	var report struct {
		Source string
		Good   bool
		derpmap.Report
	}
	r := detour(t, "map", "check", "--json", bad)
	r.want(t, exitFailed, `"source": `, "")
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || report.Good || report.Source != bad || report.Nodes != 1 ||
		len(report.Findings) != 1 || report.Findings[0].Line != 7 || report.Findings[0].Severity != derpmap.Breaks {
		t.Errorf("%v: %+v\n%s", err, report, r.stdout)
	}
}

func TestMapCheckOfURL(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/map.json":
			_, _ = w.Write([]byte(`{"Regions":{"900":{"RegionID":900,"RegionCode":"a","RegionName":"A","Nodes":[{"Name":"900a","RegionID":900,"HostName":"a.example"}]}}}`))
		case "/map.yaml":
			_, _ = w.Write([]byte(goodMap))
		case "/large":
			_, _ = w.Write(make([]byte, derpmap.MaxSize+1))
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	detour(t, "map", "check", srv.URL+"/map.json").want(t, exitOK, ": JSON, read for headscale, 1 region, 1 node: 0 break, 0 warn, 0 notes", "")
	detour(t, "map", "check", srv.URL+"/map.yaml").want(t, exitFailed, "YAML at a URL", "")
	detour(t, "map", "check", srv.URL+"/large").want(t, exitCannot, "", "larger than 4 MiB")
	detour(t, "map", "check", srv.URL+"/nothing").want(t, exitCannot, "", "404 Not Found")
	srv.Close()
	detour(t, "map", "check", srv.URL+"/map.json").want(t, exitCannot, "", "; hint: ")
}

func TestAskPort80(t *testing.T) {
	var answer string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch answer {
		case "right":
			w.Header().Set("X-Tailscale-Response", "response "+r.Header.Get("X-Tailscale-Challenge"))
			w.WriteHeader(http.StatusNoContent)
		case "plain":
			w.WriteHeader(http.StatusNoContent)
		case "elsewhere":
			http.Redirect(w, r, "https://portal.example/", http.StatusFound)
		}
	}))
	defer srv.Close()
	host, port, _ := strings.Cut(strings.TrimPrefix(srv.URL, "http://"), ":")
	for want, tell := range map[derpmap.PortAnswer]string{
		{}: "right", {Wrong: "204 without the X-Tailscale-Response that clients look for"}: "plain", {Wrong: "with status 302 Found"}: "elsewhere",
	} {
		answer = tell
		if got := askPort80(t.Context(), []string{host}, port)[host]; got != want {
			t.Errorf("%s: %+v", tell, got)
		}
	}
	srv.Close()
	if got := askPort80(t.Context(), []string{host}, port)[host]; got != (derpmap.PortAnswer{Silent: true}) {
		t.Errorf("closed: %+v", got)
	}
}
