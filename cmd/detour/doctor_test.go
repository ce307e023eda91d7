package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/probe"
)

// fixedPorts are flags for a relay at ports that were free a moment ago, published
// at this host's own address.
func fixedPorts(t *testing.T, dir string, more ...string) []string {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	return append([]string{
		"--state-dir", dir, "--listen", tcp.Addr().String(), "--stun-listen", udp.LocalAddr().String(), "--http-listen", "off",
		"--public-ipv4", "127.0.0.1",
	}, more...)
}

// doctor runs detour doctor and reads its report by check.
func doctor(t *testing.T, args ...string) (result, map[string]probe.Finding) {
	t.Helper()
	r := detour(t, append([]string{"doctor", "--json", "--lang", "en"}, args...)...)
	var report struct {
		Failed bool
		Relays []probe.Diagnosis
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	if report.Failed != (r.status == exitFailed) {
		t.Errorf("failed %v, exit status %d", report.Failed, r.status)
	}
	found := map[string]probe.Finding{}
	for _, f := range report.Relays[0].Findings {
		found[f.Check] = f
	}
	return r, found
}

// A closed relay is looked at from its host, from elsewhere with and without a
// token, and by its map; then it is gone.
func TestDoctor(t *testing.T) {
	dir := stateDir(t)
	flags := fixedPorts(t, dir)
	s := start(t, append([]string{"serve"}, flags...)...)

	here, found := doctor(t, append(flags, "--node-key", key.NewPrivate().Public().String())...)
	for check, code := range map[string]string{
		"local": "local.well", "relay.large": "relay.good", "stun": "stun.good", "admission": "admission.waits", "member": "member.refused", "version": "version.local",
	} {
		if found[check].Code != code {
			t.Errorf("on its host, %s: %+v", check, found[check])
		}
	}
	if here.status != exitFailed {
		t.Errorf("a node that is not admitted: exit status %d", here.status)
	}

	url := "https://" + flags[3]
	if _, found := doctor(t, strings.TrimPrefix(url, "https://")); found["relay.login"].Code != "relay.closed" || found["tls.trust"].Code != "trust.needs_pin" {
		t.Errorf("from elsewhere: %+v", found)
	}
	token, file := detour(t, "admit", "probe-token", "--state-dir", dir), filepath.Join(t.TempDir(), "token")
	write(t, file, token.stdout)
	r, found := doctor(t, url, "--token-file", file)
	if found["relay.disco"].Code != "relay.good" || r.status != exitOK {
		t.Errorf("with a token: %+v", found)
	}

	made := detour(t, append([]string{"map"}, flags...)...)
	at := filepath.Join(t.TempDir(), "map.yaml")
	write(t, at, made.stdout)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(detour(t, append([]string{"map", "--format", "json"}, flags...)...).stdout))
	}))
	defer site.Close()
	for _, m := range []string{at, site.URL} {
		if r, found := doctor(t, "--map", m, "--region", "900", "--token-file", file); r.status != exitOK || found["tls.trust"].Code != "trust.pin" || found["relay.usual"].Code != "relay.good" {
			t.Errorf("by the map at %s: %+v", m, found)
		}
	}
	detour(t, "doctor", "--map", at, "--lang", "zh", "--token-file", file).want(t, exitOK, "一切正常", "")

	s.stop()
	if r, found := doctor(t, flags...); r.status != exitFailed || found["local"].Code != "local.down" || found["tcp4"].Code != "tcp.refused" || found["tls"].After == "" {
		t.Errorf("gone: %+v", found)
	}
	detour(t, append([]string{"doctor", "--lang", "en"}, flags...)...).want(t, exitFailed, "FAIL  Relay process", "")
}

// What keeps doctor from running ends with status 2 and a next step.
func TestDoctorThatCannotRun(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	write(t, bad, "nonsense")
	many := filepath.Join(dir, "many.json")
	var nodes []string
	for i := range maxVisits + 1 {
		nodes = append(nodes, `{"Name":"n`+strconv.Itoa(i)+`","RegionID":1,"HostName":"a.test"}`)
	}
	write(t, many, `{"Regions":{"1":{"RegionID":1,"RegionCode":"x","Nodes":[`+strings.Join(nodes, ",")+`]}}}`)
	for _, args := range [][]string{
		{"--state-dir", stateDir(t)},
		{"https://a.test/path"},
		{"ftp://a.test"},
		{"--lang", "fr"},
		{"--region", "x"},
		{"a.test", "--map", many},
		{"--map", filepath.Join(dir, "none")},
		{"--map", many, "--region", "y"},
		{"--map", many},
		{"a.test", "--token-file", bad},
		{"a.test", "--token-file", dir},
		{"a.test", "--node-key", "x"},
		{"--map", "http://127.0.0.1:1/"},
	} {
		detour(t, append([]string{"doctor"}, args...)...).want(t, exitUsage, "", "hint: ")
	}
}
