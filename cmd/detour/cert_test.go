package main

import (
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/client"
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
	detour(t, same("cert", "rotate", "--end", "--published-as", "8444")...).want(t, exitUsage, "", "belongs to --port")
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
	l.Close()
	s.stderr.await(t, "phase=both")
	detour(t, same("cert", "rotate", "--port", port)...).want(t, exitFailed, "", "under way already; hint: ")
	detour(t, same("cert", "rotate", "--finish")...).want(t, exitFailed, "", "not at that step; hint: ")
	shown = detour(t, same("cert", "show")...)
	shown.want(t, exitOK, "Step 1 of 4", "")
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
