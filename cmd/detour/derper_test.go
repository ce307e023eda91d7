package main

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/key"
)

func TestDerperHelp(t *testing.T) {
	for _, flag := range []string{"-h", "-help", "--help"} {
		r := detour(t, "derper", flag)
		r.want(t, exitOK, "", "-verify-clients")
		for _, text := range []string{"Usage: detour derper", "-certmode", "DERP_DOMAIN", "not supported yet"} {
			if !strings.Contains(r.stderr, text) {
				t.Errorf("%s does not say %q", flag, text)
			}
		}
	}
}

func TestDerperVersion(t *testing.T) {
	detour(t, "derper", "-version").want(t, exitOK, "detour "+versionText()+"\n", "")
}

func TestDerperWrongFlag(t *testing.T) {
	detour(t, "derper", "-bogus").want(t, exitUsage, "", "detour: reading derper's flags: flag provided but not defined: -bogus\n")
}

// Each is named, from wherever it comes, and nothing is started.
func TestDerperUnsupportedFlags(t *testing.T) {
	dir := stateDir(t)
	t.Setenv("DERP_VERIFY_CLIENTS", "true") // which is carried out
	r := detour(t, "derper", "-a", "127.0.0.1:0", "-c", filepath.Join(dir, "derper.key"),
		"-mesh-with", "other", "-secrets-url", "https://secret.example.org", "-ace")
	r.want(t, exitFailed, "", "detour: ")
	for _, flag := range []string{"-mesh-with", "-secrets-url", "-ace"} {
		if !strings.Contains(r.stderr, "detour: "+flag+": not supported yet; hint: ") {
			t.Errorf("%s is not named in a line of its own:\n%s", flag, r.stderr)
		}
	}
	if strings.Contains(r.stderr, "secret.example.org") {
		t.Errorf("a value is printed:\n%s", r.stderr)
	}
}

// derper -certmode manual with an IP address: a certificate is made and pinned,
// and everybody may come, as its users expect.
func TestDerperManualWithAnAddress(t *testing.T) {
	dir := stateDir(t)
	args := []string{
		"derper", "-a", "127.0.0.1:0", "-http-port", "-1", "-stun-port", "0", "-certmode", "manual",
		"-hostname", "127.0.0.1", "-certdir", filepath.Join(dir, "certs"), "-c", filepath.Join(dir, "derper.key"),
	}
	s := start(t, args...)
	if !strings.Contains(s.stderr.String(), "detour: warning: every Tailscale client") {
		t.Errorf("no warning of the open door:\n%s", s.stderr)
	}
	pin := regexp.MustCompile(`sha256-raw:[0-9a-f]{64}`).FindString(s.stdout.String())
	c, err := client.Dial(t.Context(), dialed(t, bound(t, s, "relay"), pin))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if status := s.stop(); status != exitOK {
		t.Errorf("exit status %d", status)
	}
	for _, file := range []string{"derper.key", "certs/127.0.0.1.crt", "certs/127.0.0.1.key"} {
		read(t, filepath.Join(dir, filepath.FromSlash(file)))
	}

	again := start(t, args...)
	if !strings.Contains(again.stdout.String(), pin) {
		t.Error("the second start has another pin")
	}
}

// dialed are the options of a client that found the pin in a map.
func dialed(t *testing.T, addr, pin string) client.Options {
	t.Helper()
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return client.Options{Host: host, Port: uint16(port), CertName: pin, Key: key.NewPrivate()}
}

func TestServeAdmitsByFlag(t *testing.T) {
	known := key.NewPrivate()
	s := start(t, append([]string{"serve"}, freePorts(stateDir(t), "--admit-key", known.Public().String())...)...)
	pin := regexp.MustCompile(`sha256-raw:[0-9a-f]{64}`).FindString(s.stdout.String())
	o := dialed(t, bound(t, s, "relay"), pin)
	stranger, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if m, err := stranger.Recv(); err != nil || !strings.Contains(fmt.Sprint(m), "ask its operator to allow "+o.Key.Public().String()) {
		t.Errorf("the stranger is told %v, %v", m, err)
	}
	if hint := "let this node in with detour admit allow " + o.Key.Public().String(); !strings.Contains(s.stderr.String(), hint) {
		t.Errorf("the log does not say how to admit the stranger:\n%s", s.stderr)
	}
	o.Key = known
	c, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
