package main

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/client"
)

// Without variables it is the closed relay, with flags or a command as given.
func TestContainerServes(t *testing.T) {
	for _, command := range [][]string{{"container"}, {"container", "serve"}} {
		dir := stateDir(t)
		s := start(t, append(command, freePorts(dir)...)...)
		if !strings.Contains(s.stdout.String(), "  ask: those whom you let in") {
			t.Errorf("%q is not closed:\n%s", command, s.stdout)
		}
		t.Setenv("DETOUR_STATE_DIR", dir)
		detour(t, "healthcheck").want(t, exitOK, "ok\n", "")
		s.stop()
	}
	detour(t, "container", "version").want(t, exitOK, "detour "+versionText()+"\n", "")
	detour(t, "container", "sh").want(t, exitUsage, "", "unknown command \"sh\"; hint: ")
}

// derperInContainer starts what a community image's docker run line starts, as
// far as that can be had without root.
func derperInContainer(t *testing.T) (s *server, dir string) {
	t.Helper()
	dir = stateDir(t)
	t.Setenv("DERP_HOST", "127.0.0.1")
	t.Setenv("DERP_CERTS", filepath.Join(dir, "certs"))
	t.Setenv("DERP_ADDR", "127.0.0.1:0")
	t.Setenv("DERP_STUN_PORT", "0")
	t.Setenv("DERP_HTTP_PORT", "-1")
	t.Setenv("DERP_CONFIG_FILE", filepath.Join(dir, "key", "derper.key"))
	t.Setenv("DETOUR_ADMIN_LISTEN", "unix:"+filepath.Join(dir, "a.sock"))
	return start(t, "container"), dir
}

// With a community image's variables it is derper: open, and loud about it. The
// health check asks where the image says.
func TestContainerAsDerper(t *testing.T) {
	t.Setenv("DETOUR_LISTEN", ":1")
	t.Setenv("DETOUR_PUBLIC_IPV4", "203.0.113.9")
	s, dir := derperInContainer(t)
	for _, text := range []string{
		"detour: DERP_HOST is set, so this container runs `detour derper`", "detour: warning: every Tailscale client",
		"detour: warning: DETOUR_LISTEN has no effect",
	} {
		if !strings.Contains(s.stderr.String(), text) {
			t.Errorf("no %q in:\n%s", text, s.stderr)
		}
	}
	for _, text := range []string{"Admitted: EVERYBODY", "203.0.113.9"} {
		if !strings.Contains(s.stdout.String(), text) {
			t.Errorf("no %q in:\n%s", text, s.stdout)
		}
	}
	detour(t, "healthcheck").want(t, exitOK, "ok\n", "")
	read(t, filepath.Join(dir, "key", "derper.key"))
}

// Who says who may connect is heard.
func TestContainerAsDerperThatIsClosed(t *testing.T) {
	t.Setenv("DETOUR_ADMIT", "none")
	s, _ := derperInContainer(t)
	if text := s.stderr.String() + s.stdout.String(); !strings.Contains(text, "Admitted: nobody.") || strings.Contains(text, "every Tailscale client") {
		t.Errorf("not closed:\n%s", text)
	}
	pin := regexp.MustCompile(`sha256-raw:[0-9a-f]{64}`).FindString(s.stdout.String())
	if c, err := client.Dial(t.Context(), dialed(t, bound(t, s, "relay"), pin)); err == nil {
		c.Close()
		t.Error("a stranger is admitted")
	}
}

func TestRunAsOfNobody(t *testing.T) {
	if !isRoot() {
		s := start(t, append([]string{"serve"}, freePorts(stateDir(t), "--run-as", "no-such-user-here")...)...)
		s.stop() // without effect
		return
	}
	r := detour(t, append([]string{"serve"}, freePorts(stateDir(t), "--run-as", "no-such-user-here")...)...)
	r.want(t, exitFailed, "", "run_as: no user \"no-such-user-here\"")
}

func isRoot() bool { return thisHost().Root }
