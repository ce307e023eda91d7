package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/detour-relay/detour/internal/bench"
	"github.com/detour-relay/detour/internal/key"
)

// Each attack is made, for a moment, against a relay that is closed but for the pair.
func TestBenchAttack(t *testing.T) {
	var admit, flags []string
	for i := range 2 {
		k := key.NewPrivate()
		name := filepath.Join(t.TempDir(), string(rune('a'+i)))
		if err := os.WriteFile(name, []byte(`{"PrivateKey": "`+k.Reveal()+`"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		admit = append(admit, "--admit-key", k.Public().String())
		flags = append(flags, "--quiet-key", name)
	}
	s, relay := benchRelay(t, append(admit, "--also-listen", "127.0.0.1:0,proxy_protocol=127.0.0.1")...)
	ports := regexp.MustCompile(`127\.0\.0\.1:[0-9]+`).FindAllString(s.stdout.String(), -1)
	first := bound(t, s, "relay")
	next := slices.IndexFunc(ports, func(p string) bool { return p != first })
	if next < 0 {
		t.Fatalf("no second port in:\n%s", s.stdout)
	}
	through := ports[next]
	r := detour(t, append(slices.Concat(relay, flags), "--attack", "--attack-through", through, "--duration", "60ms", "--warmup", "10ms", "--json")...)
	r.want(t, exitOK, "{\n", "")
	var got bench.AttackReport
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || !got.Complete || len(got.Attacks) < 9 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, a := range got.Attacks {
		if a.Sent == 0 || (a.Connections == 0) != (a.Name == "alone") {
			t.Errorf("%+v", a)
		}
	}
	for _, wrong := range [][]string{
		{"--attack"},
		{"--attack", "--attack-through", "192.0.2.1:1"},
		{"--attack", "--attack-through", through, "--attack-rate", "0"},
	} {
		detour(t, slices.Concat(relay, flags, wrong)...).want(t, exitFailed, "", "; hint: ")
	}
	detour(t, append(relay, "--attack")...).want(t, exitFailed, "", "needs 2 --quiet-key files; hint: ")
}
