package daemon

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
)

func TestFirstStartMakesTheState(t *testing.T) {
	c := settings(t, nil)
	b := mustBuild(t, c)
	modes := map[string]fs.FileMode{
		".":          fs.ModeDir | 0o700,
		"server.key": 0o600,
		"pin.crt":    0o644,
		"pin.key":    0o600,
		"admin.sock": fs.ModeSocket | 0o600,
	}
	for name, want := range modes {
		info, err := os.Lstat(filepath.Join(c.StateDir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if runtime.GOOS != "windows" && info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
	// The form that derper reads and writes.
	text := read(t, c.ServerKey)
	if !regexp.MustCompile(`^\{\s*"PrivateKey": "privkey:[0-9a-f]{64}"\s*\}\s*$`).MatchString(text) {
		t.Error("the server key file is not in derper's format")
	}
	for _, what := range []string{"made a server key", "made a certificate", "203.0.113.7 2001:db8::7"} {
		if !strings.Contains(b.log.String(), what) {
			t.Errorf("the log does not say %q:\n%s", what, b.log)
		}
	}
	if secret := text[strings.Index(text, "privkey:")+8:][:64]; strings.Contains(b.log.String(), secret) {
		t.Error("the log holds the private key")
	}
}

func TestRestartKeepsTheState(t *testing.T) {
	c := settings(t, nil)
	first := mustBuild(t, c)
	k, pin := first.ServerKey(), first.id.cert.Pin()
	first.Close()
	if _, err := os.Lstat(filepath.Join(c.StateDir, "admin.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the admin socket is still there: %v", err)
	}
	for _, addrs := range [][]string{{"203.0.113.7", "2001:db8::7"}, {"198.51.100.9"}, {"172.17.0.2"}} {
		again := mustBuild(t, c, addrs...)
		if again.ServerKey() != k {
			t.Errorf("on %v the server key is another", addrs)
		}
		if again.id.cert.Pin() != pin {
			t.Errorf("on %v the pin is another", addrs)
		}
		if strings.Contains(again.log.String(), "made a") {
			t.Errorf("something was made again:\n%s", again.log)
		}
		again.Close()
	}
}

// A derper's key file serves as it is, with what else derper may have put there.
func TestDerpersKeyFileIsTaken(t *testing.T) {
	c := settings(t, func(c *config.Config) { c.ServerKey = filepath.Join(t.TempDir(), "derper.key") })
	const secret = "privkey:a8e4b2c6d0f1a3b5c7d9e1f3a5b7c9d1e3f5a7b9c1d3e5f7a9b1c3d5e7f9a17b"
	write(t, c.ServerKey, `{"PrivateKey":"`+secret+`","Other":1}`)
	b := mustBuild(t, c)
	k, err := LoadServerKey(c.ServerKey)
	if err != nil || k.Public() != b.ServerKey() {
		t.Errorf("%v, %v", b.ServerKey(), err)
	}
}

func TestOneStateDirectoryOneRelay(t *testing.T) {
	c := settings(t, nil)
	first := mustBuild(t, c)
	_, err := build(t, c)
	wantError(t, err, "another relay is running with this state directory", "--state-dir")
	// The loser has left the winner's socket alone.
	stop := first.run()
	if got := first.health(t); !got.OK {
		t.Errorf("the first relay: %v", got.Problems)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	mustBuild(t, c)
}

func TestHostnameThatThePinLacks(t *testing.T) {
	c := settings(t, nil)
	mustBuild(t, c).Close()
	before := read(t, c.Cert) + read(t, c.Key)

	c.Hostname = "relay.example.org"
	_, err := build(t, c)
	wantError(t, err, `"relay.example.org"`, "203.0.113.7", "pin.crt", "every DERP map")
	if read(t, c.Cert)+read(t, c.Key) != before {
		t.Error("the certificate was touched")
	}
	c.Hostname = "192.0.2.1" // of an address clients check no name
	mustBuild(t, c)
	if read(t, c.Cert)+read(t, c.Key) != before {
		t.Error("the certificate was touched")
	}
}

func TestHostnameIsInANewPin(t *testing.T) {
	c := settings(t, func(c *config.Config) { c.Hostname = "relay.example.org" })
	b := mustBuild(t, c)
	if names := strings.Join(b.id.cert.Names(), " "); names != "relay.example.org 203.0.113.7 2001:db8::7" {
		t.Errorf("the certificate is for %q", names)
	}
}

// Nothing but the operator's own hand replaces a key file.
func TestBadServerKeyFileIsNotTouched(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", "", "is not JSON"},
		{"text", "privkey:00", "is not JSON"},
		{"another object", `{"Key":"x"}`, "has no PrivateKey"},
		{"cut off", `{"PrivateKey":"privkey:abcd"}`, "PrivateKey"},
		{"zero", `{"PrivateKey":"privkey:` + strings.Repeat("0", 64) + `"}`, "server.key"},
		{"huge", strings.Repeat(" ", maxKeyFile+1), "at most 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := settings(t, nil)
			if err := os.Mkdir(c.StateDir, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, c.ServerKey, tt.text)
			_, err := build(t, c)
			wantError(t, err, tt.want, c.ServerKey)
			if read(t, c.ServerKey) != tt.text {
				t.Error("the file was touched")
			}
			if _, err := CreateServerKey(c.ServerKey); !errors.Is(err, fs.ErrExist) {
				t.Errorf("CreateServerKey: %v", err)
			}
			if read(t, c.ServerKey) != tt.text {
				t.Error("CreateServerKey touched the file")
			}
		})
	}
}

func TestCreateServerKeyLeavesNothingElse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	k, err := CreateServerKey(filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := LoadServerKey(filepath.Join(dir, "server.key")); err != nil || again.Public() != k.Public() {
		t.Errorf("read back: %v, %v", again.Public(), err)
	}
	if _, err := CreateServerKey(filepath.Join(dir, "server.key")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the second time: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}

func TestMeshKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mesh.key")
	tests := []struct {
		name, text string
		want       string // empty: it is taken
	}{
		{"good", strings.Repeat("ab", 32), ""},
		{"with a newline", strings.Repeat("ab", 32) + "\n", ""},
		{"empty", "", "openssl rand -hex 32"},
		{"short", "abcd", "openssl rand -hex 32"},
		{"zero", strings.Repeat("0", 64), "all zero"},
		{"no hex", strings.Repeat("zz", 32), "openssl rand -hex 32"},
		{"huge", strings.Repeat("a", maxKeyFile+1), "at most 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			write(t, file, tt.text)
			c := settings(t, func(c *config.Config) { c.MeshKeyFile = file })
			_, err := build(t, c)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, tt.want, file)
			if len(tt.text) > 60 && strings.Contains(err.Error(), tt.text[:60]) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
	c := settings(t, func(c *config.Config) { c.MeshKeyFile = file + ".missing" })
	_, err := build(t, c)
	wantError(t, err, "read the mesh key", "--mesh-key-file")
	c.MeshKeyFile = t.TempDir()
	_, err = build(t, c)
	wantError(t, err, "read the mesh key", "is not a file", "--mesh-key-file")
}

func TestStateDirectoryThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	c := settings(t, nil)
	c.StateDir = filepath.Join(file, "state")
	_, err := build(t, c)
	wantError(t, err, "make the state directory", "--state-dir")
}

// A start that fails late gives back all that it has bound.
func TestFailedStartReleasesEverything(t *testing.T) {
	taken, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free := mustBuild(t, settings(t, nil))
	listen := free.Config().Listen
	free.Close()

	c := settings(t, func(c *config.Config) {
		c.Listen, c.STUNListen, c.HTTPListen = listen, taken.LocalAddr().String(), "127.0.0.1:0"
	})
	_, err = build(t, c)
	wantError(t, err, "another program has this UDP port", "--stun-listen")
	c.STUNListen = config.Off
	mustBuild(t, c)
}

func TestTakenPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = build(t, settings(t, func(c *config.Config) { c.Listen = taken.Addr().String() }))
	wantError(t, err, "another program has this port", "--listen")
	_, err = build(t, settings(t, func(c *config.Config) { c.HTTPListen = taken.Addr().String() }))
	wantError(t, err, "another program has this port", "--http-listen")
}

func TestAddressesThatCannotBeListed(t *testing.T) {
	failed := errors.New("no netlink")
	_, err := New(t.Context(), settings(t, nil), Options{InterfaceAddrs: func() ([]netip.Addr, error) { return nil, failed }})
	if !errors.Is(err, failed) {
		t.Errorf("New: %v", err)
	}
}

// Where a relay cannot start with an expired certificate, it can outlive one.
func TestHealthOfAnExpiredCertificate(t *testing.T) {
	b := mustBuild(t, settings(t, nil))
	past := time.Now().AddDate(-1, 0, 0)
	old := issue(t, "relay.example.org", past)
	c, err := cert.LoadFiles(old.cert, old.key, past.AddDate(0, 0, -1))
	if err != nil {
		t.Fatal(err)
	}
	if b.source, err = cert.New(cert.Options{Certificate: c, ServerKeyHex: b.ServerKey().Hex()}); err != nil {
		t.Fatal(err)
	}
	b.id.cert = c
	b.run()
	got := b.health(t) // with a log line too
	if got.OK || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "expired on "+past.UTC().Format(time.DateOnly)) {
		t.Errorf("health: %+v", got)
	}
	if _, warnings, err := b.Map(false); err != nil || !strings.Contains(strings.Join(warnings, "\n"), "has expired") {
		t.Errorf("Map warns %q, %v", warnings, err)
	}
}
