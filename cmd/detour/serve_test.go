package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestServe(t *testing.T) {
	dir := stateDir(t)
	detour(t, "healthcheck", "--state-dir", dir).want(t, exitFailed, "", `is the relay running? start it with "detour serve"`)

	s := start(t, append([]string{"serve"}, freePorts(dir)...)...)
	for _, text := range []string{"detour admit pending", "--admit any", "\n    nodes:\n", `"Regions": {`, `"derpMap": {`, "203.0.113.7"} {
		if !strings.Contains(s.stdout.String(), text) {
			t.Errorf("the start-up text does not say %q:\n%s", text, s.stdout)
		}
	}
	detour(t, "healthcheck", "--state-dir", dir).want(t, exitOK, "ok\n", "")
	second := detour(t, append([]string{"serve"}, freePorts(dir)...)...)
	second.want(t, exitFailed, "", "another relay is running with this state directory")

	if status := s.stop(); status != exitOK {
		t.Errorf("exit status %d", status)
	}
	for _, text := range []string{"made a server key", "serving", "stopped"} {
		if !strings.Contains(s.stderr.String(), text) {
			t.Errorf("the log does not say %q:\n%s", text, s.stderr)
		}
	}
	detour(t, "healthcheck", "--state-dir", dir).want(t, exitFailed, "", "hint: ")
}

func TestHealthcheckWithoutAdmin(t *testing.T) {
	r := detour(t, "healthcheck", "--state-dir", stateDir(t), "--admin-listen", "off")
	r.want(t, exitFailed, "", "admin_listen is off")
}

func TestJSONLog(t *testing.T) {
	s := start(t, append([]string{"serve"}, freePorts(stateDir(t), "--log-format", "json", "--log-level", "debug")...)...)
	s.stop()
	for line := range strings.SplitSeq(strings.TrimSpace(s.stderr.String()), "\n") {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "}") {
			t.Errorf("log line %q", line)
		}
	}
}

func TestServeWithWrongSettings(t *testing.T) {
	r := detour(t, "serve", "--state-dir", stateDir(t), "--region-id", "0", "--log-level", "loud")
	r.want(t, exitFailed, "", "config: 2 problems:\n  ")
	for _, text := range []string{"region_id (--region-id)", "900 to 999", "log_level (--log-level)"} {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("%q is not in %q", text, r.stderr)
		}
	}
}

// What the relay prints and what detour map prints with its flags is the same.
func TestServePrintsTheMap(t *testing.T) {
	dir := stateDir(t)
	s := start(t, append([]string{"serve"}, freePorts(dir)...)...)
	s.stop()
	for _, format := range []string{"headscale", "json", "policy"} {
		args := freePorts(dir, "--listen", bound(t, s, "relay"), "--stun-listen", bound(t, s, "STUN"), "--format", format)
		r := detour(t, append([]string{"map"}, args...)...)
		if r.status != exitOK || r.stdout == "" || !strings.Contains(s.stdout.String(), r.stdout) {
			t.Errorf("%s: %+v\nserve printed:\n%s", format, r, s.stdout)
		}
	}
}

// bound finds an address in the start-up text.
func bound(t *testing.T, s *server, part string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^ +` + part + ` +(127\.0\.0\.1:[0-9]+)`).FindStringSubmatch(s.stdout.String())
	if m == nil {
		t.Fatalf("no address of %s in:\n%s", part, s.stdout)
	}
	return m[1]
}

func TestStdoutThatIsClosed(t *testing.T) {
	var stderr output
	stderr.begun = make(chan struct{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.Close()
	if status := run(t.Context(), append([]string{"serve"}, freePorts(stateDir(t))...), w, &stderr); status != exitFailed {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(stderr.String(), "print the start-up text") {
		t.Errorf("stderr: %s", stderr.String())
	}
}

// SIGHUP never ends the relay: it reads certificate files again, where there are any.
func TestHangup(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGHUP")
	}
	// Should the relay not take it, the test fails, and not the whole process.
	guard := make(chan os.Signal, 1)
	signal.Notify(guard, syscall.SIGHUP)
	defer signal.Stop(guard)
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	hangUp := func() {
		t.Helper()
		if err := self.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}

	h := catchHangups()
	hangUp() // during the start: kept
	<-guard
	told := make(chan struct{})
	h.tell(func() { told <- struct{}{} })
	<-told
	h.stop()

	dir, certs := stateDir(t), t.TempDir()
	cert, key := filepath.Join(certs, "203.0.113.7.crt"), filepath.Join(certs, "203.0.113.7.key")
	for _, tt := range []struct{ args, want []string }{
		{append([]string{"serve"}, freePorts(dir)...), []string{"took the settings of the DERP map anew", "no certificate files", "restart"}},
		{append([]string{"serve"}, freePorts(stateDir(t), "--cert-mode", "files", "--cert", cert, "--key", key)...), []string{"nothing new"}},
		{[]string{"derper", "-hostname=203.0.113.7", "-certmode=manual", "-certdir=" + certs, "-a=127.0.0.1:0", "-http-port=-1", "-stun-port=0", "-c=" + filepath.Join(dir, "derper.key")}, []string{"nothing new"}},
	} {
		s := start(t, tt.args...)
		if _, err := os.Stat(cert); err != nil { // the first one's pin will do as files
			for from, to := range map[string]string{"pin.crt": cert, "pin.key": key} {
				write(t, to, read(t, filepath.Join(dir, from)))
			}
		}
		hangUp()
		for _, words := range tt.want {
			s.stderr.await(t, words)
		}
		if status := s.stop(); status != exitOK {
			t.Errorf("%q: exit status %d\n%s", tt.args, status, s.stderr)
		}
	}
}

func TestStateDirectoryOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	r := detour(t, append([]string{"serve"}, freePorts(filepath.Join(file, "state"))...)...)
	r.want(t, exitFailed, "", "--state-dir")
}
