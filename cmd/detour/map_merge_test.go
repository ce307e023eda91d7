package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMapMerge(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	yaml := put("one.yaml", "omitdefaultregions: true\nregions:\n"+
		"  900:\n    regionid: 900\n    nodes: [{name: a, regionid: 900, hostname: a.example}]\n"+
		"  901:\n    regionid: 901\n    nodes: [{name: b, regionid: 901, hostname: b.example}]\n")
	json := put("two.json", `{"Regions":{"901":{"RegionID":901,"Nodes":[{"Name":"c","RegionID":901,"HostName":"c.example"}]},"900":null}}`)
	token := put("token", "a token of some length")
	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer a token of some length" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"Regions":{"902":{"RegionID":902,"Nodes":[{"Name":"d","RegionID":902,"HostName":"d.example"}]}}}`)
	}))
	t.Cleanup(served.Close)

	got := detour(t, "map", "merge", yaml, json, served.URL+"/m?x=secret", "--token-file", token, "--format", "json")
	if got.status != exitOK {
		t.Fatalf("%+v", got)
	}
	for _, want := range []string{`"a.example"`, `"c.example"`, `"d.example"`} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("%s is not in %s", want, got.stdout)
		}
	}
	if strings.Contains(got.stdout, "b.example") || strings.Contains(got.stdout, "omit") {
		t.Errorf("what Headscale drops is in %s", got.stdout)
	}
	for _, want := range []string{"omitdefaultregions of " + yaml, "region 901 of " + yaml + " is replaced as a whole by that of " + json, "region 900 of " + json + " is null"} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("%q is not in %s", want, got.stderr)
		}
	}
	if got := detour(t, "map", "merge", yaml); got.status != exitOK || !strings.Contains(got.stdout, "derp:") || !strings.Contains(got.stdout, "regionid: 900") {
		t.Errorf("%+v", got)
	}

	for name, tt := range map[string]struct {
		args   []string
		status int
		want   string
	}{
		"no map":         {nil, exitUsage, "no map is given"},
		"unknown form":   {[]string{yaml, "--format", "xml"}, exitUsage, "headscale, json or policy"},
		"no such file":   {[]string{filepath.Join(dir, "none")}, exitFailed, "no such file"},
		"broken":         {[]string{put("broken.yaml", "regions: [")}, exitFailed, "broken.yaml"},
		"no regions":     {[]string{put("upper.yaml", "Regions:\n  900: {RegionID: 900}\n")}, exitFailed, "lower case"},
		"without token":  {[]string{served.URL}, exitFailed, "401"},
		"no token there": {[]string{served.URL, "--token-file", filepath.Join(dir, "none")}, exitFailed, "--token-file"},
		"no pin":         {[]string{"https://a.example", "--pin", "x"}, exitFailed, "lower-case hex"},
	} {
		t.Run(name, func(t *testing.T) {
			got := detour(t, append([]string{"map", "merge"}, tt.args...)...)
			if got.status != tt.status || !strings.Contains(got.stderr, tt.want) || got.stdout != "" {
				t.Errorf("%+v", got)
			}
		})
	}
}
