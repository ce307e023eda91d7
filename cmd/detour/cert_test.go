package main

import (
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/key"
)

// TestCertRotate takes the four steps beside a running relay, and some that are out
// of turn.
func TestCertRotate(t *testing.T) {
	dir := stateDir(t)
	detour(t, "cert", "rotate", "--state-dir", dir, "--port", "8444").want(t, exitFailed, "", "hint: ")
	s := start(t, append([]string{"serve"}, freePorts(dir, "--admit", "any")...)...)
	main := bound(t, s, "relay")
	same := func(args ...string) []string {
		return append(args, "--state-dir", dir, "--listen", main, "--stun-listen", "off", "--http-listen", "off", "--public-ipv4", "203.0.113.7")
	}
	pinOf := regexp.MustCompile(`sha256-raw:[0-9a-f]{64}`)
	shown := detour(t, same("cert", "show")...)
	shown.want(t, exitOK, "file     "+dir+"/pin.crt", "")
	old := pinOf.FindString(shown.stdout)
	login := func(address, pin string) error {
		c, err := client.Dial(t.Context(), dialed(t, address, pin))
		if err == nil {
			c.Close()
		}
		return err
	}
	step := func(words string, args ...string) string {
		t.Helper()
		r := detour(t, same(append([]string{"cert", "rotate"}, args...)...)...)
		r.want(t, exitOK, words, "")
		return r.stdout
	}
	nodes := func() (list []string) {
		t.Helper()
		m := detour(t, same("map", "--format", "json")...)
		m.want(t, exitOK, "{", "warning: ")
		return pinOf.FindAllString(m.stdout, -1)
	}

	detour(t, same("cert", "rotate")...).want(t, exitUsage, "", "which step is it?")
	detour(t, same("cert", "rotate", "--end", "--published-as", "8444")...).want(t, exitUsage, "", "belong to --port")
	detour(t, same("cert", "rotate", "--end", "--proxied")...).want(t, exitUsage, "", "belong to --port")
	detour(t, same("cert", "rotate", "--withdraw")...).want(t, exitFailed, "", "no rotation is under way; hint: ")
	_, taken, _ := net.SplitHostPort(main)
	detour(t, same("cert", "rotate", "--port", taken)...).want(t, exitFailed, "", "is the relay's already; hint: ")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	second := l.Addr().String()
	_, port, _ := net.SplitHostPort(second)
	go func() { // somebody else's; ends with l
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	// The port is somebody else's: the map must not go out, and the old certificate must not go.
	detour(t, same("cert", "rotate", "--port", port)...).want(t, exitFailed, "", "the new map must not go out yet: the second port "+second)
	detour(t, same("cert", "rotate", "--withdraw")...).want(t, exitFailed, "", "the old port stays open until then")
	s.stderr.await(t, "is stuck")
	shown = detour(t, same("cert", "show")...)
	shown.want(t, exitOK, "BUT THAT IS NOT SO NOW: the second port "+second, "")
	shown.want(t, exitOK, "--end gives the rotation up", "")
	l.Close()
	s.stderr.await(t, "phase=both")
	detour(t, same("cert", "rotate", "--port", port)...).want(t, exitFailed, "", "under way already; hint: ")
	detour(t, same("cert", "rotate", "--finish")...).want(t, exitFailed, "", "not at that step; hint: ")
	shown = detour(t, same("cert", "show")...)
	shown.want(t, exitOK, "Step 1 of 4", "")
	if strings.Contains(shown.stdout, "NOT SO NOW") {
		t.Errorf("all is well, and it is said:\n%s", shown.stdout)
	}
	pins := pinOf.FindAllString(shown.stdout, -1)
	if len(pins) != 2 || pins[0] != old || len(nodes()) != 2 {
		t.Fatalf("pins %q, the map's %q", pins, nodes())
	}
	fresh := pins[1]
	if err := login(main, old); err != nil {
		t.Error(err)
	}
	if err := login(second, fresh); err != nil {
		t.Error(err)
	}

	step("Step 2 of 4", "--withdraw")
	s.stderr.await(t, "phase=moved")
	detour(t, same("cert", "rotate", "--end")...).want(t, exitFailed, "", "--finish goes on, --back goes back")
	step("Step 1 of 4", "--back")
	detour(t, same("cert", "rotate", "--back")...).want(t, exitFailed, "", "not at that step; hint: ")
	eventually(t, "the old port is open again", func() bool { return login(main, old) == nil })
	step("Step 2 of 4", "--withdraw")
	eventually(t, "the old port is closed again", func() bool { return login(main, old) != nil })
	if err := login(main, old); err == nil {
		t.Error("the old port is open")
	}
	if got := nodes(); len(got) != 1 || got[0] != fresh {
		t.Errorf("the map's pins %q", got)
	}
	step("Step 3 of 4", "--finish")
	s.stderr.await(t, "phase=closing")
	if err := login(main, fresh); err != nil {
		t.Error(err)
	}
	step("The rotation is over", "--end")
	s.stderr.await(t, `phase=""`)
	if err := login(main, fresh); err != nil {
		t.Error(err)
	}
	shown = detour(t, same("cert", "show")...)
	if strings.Contains(shown.stdout, "Step") || pinOf.FindString(shown.stdout) != fresh {
		t.Errorf("afterwards:\n%s", shown.stdout)
	}
	detour(t, same("key", "show")...).want(t, exitOK, key.Public{}.String()[:8], "")
}

// eventually polls until ok, and fails after a time that no machine needs.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit, look := time.After(20*time.Second), time.NewTicker(20*time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("waited in vain until %s", what)
		case <-look.C:
		}
	}
}

// What a step means for a proxy in front is said with it, and what a NAT may be.
func TestCertRotateBehindAProxy(t *testing.T) {
	cfg := config.Config{Listen: ":443"}
	for _, tt := range []struct {
		r    cert.Rotation
		want string
	}{
		{cert.Rotation{Phase: cert.PhaseBoth}, ""},
		{cert.Rotation{Phase: cert.PhaseBoth, Place: cert.Place{PublicPort: 9}}, "begin anew with --proxied"},
		{cert.Rotation{Phase: cert.PhaseBoth, Place: cert.Place{PublicPort: 9, Proxied: true}}, "close the proxy's port for the old certificate"},
		{cert.Rotation{Phase: cert.PhaseMoved, Place: cert.Place{PublicPort: 9, Proxied: true}}, "must be closed by now"},
		{cert.Rotation{Phase: cert.PhaseClosing, Place: cert.Place{PublicPort: 9, Proxied: true}}, "Open the proxy's port for the relay's own again"},
	} {
		tt.r.Listen = ":8444"
		var out strings.Builder
		if err := explainRotation(&out, tt.r, cfg); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); !strings.Contains(got, tt.want) || strings.Contains(got, "prox") != (tt.want != "") || strings.Contains(got, "%!") {
			t.Errorf("%+v:\n%s\nwants %q", tt.r, got, tt.want)
		}
	}
}
