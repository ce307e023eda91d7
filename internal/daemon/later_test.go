package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/config"
)

// TestNamelessCertificateGivesWay follows the advice of a first start that had
// nothing to publish: set --hostname.
func TestNamelessCertificateGivesWay(t *testing.T) {
	cfg := settings(t, nil)
	nowhere := Options{InterfaceAddrs: func() ([]netip.Addr, error) { return nil, nil }}
	d := mustNew(t, cfg, nowhere)
	first := d.id.cert.Pin()
	d.Close()

	cfg.Hostname = "198.51.100.9" // clients check no name: the pin stays
	d = mustNew(t, cfg, nowhere)
	if got := d.id.cert.Pin(); got != first {
		t.Errorf("an address as hostname changed the pin from %s to %s", first, got)
	}
	d.Close()

	cfg.Hostname = "relay.example.com"
	d = mustNew(t, cfg, nowhere)
	if got := d.id.cert.Names(); len(got) != 1 || got[0] != cfg.Hostname || d.id.cert.Pin() == first {
		t.Errorf("certificate for %q, pin changed: %v", got, d.id.cert.Pin() != first)
	}
	for _, file := range []string{cfg.Cert, cfg.Key} {
		if _, err := os.Stat(file + ".nameless"); err != nil {
			t.Error(err)
		}
	}
	d.Close()

	cfg.Hostname = "other.example.com"
	if _, err := New(t.Context(), cfg, withLog(nowhere)); err == nil || !strings.Contains(err.Error(), "relay.example.com") {
		t.Errorf("a certificate with a name gave way: %v", err)
	}
}

// TestDerperWithoutAdminSocket puts the admin socket where none can be made.
func TestDerperWithoutAdminSocket(t *testing.T) {
	cfg := settings(t, func(c *config.Config) {
		c.AdminListen = "unix:" + filepath.Join(c.StateDir, "no", "such", "directory", "admin.sock")
	})
	if _, err := New(t.Context(), cfg, withLog(Options{})); err == nil {
		t.Error("detour serve goes on without the admin socket it was told to have")
	}
	d := mustNew(t, cfg, Options{Derper: true})
	defer d.Close()
	if got := d.Config().AdminListen; got != config.Off {
		t.Errorf("admin listener %q", got)
	}
}

func withLog(o Options) Options {
	o.Version, o.Logger = "test", slog.New(slog.DiscardHandler)
	return o
}

func mustNew(t *testing.T, cfg config.Config, o Options) *Daemon {
	t.Helper()
	d, err := New(t.Context(), cfg, withLog(o))
	if err != nil {
		t.Fatal(err)
	}
	return d
}
