package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tailscale.com/envknob"
	"tailscale.com/net/netns"
	"tailscale.com/tailcfg"

	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/daemon"
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/key"
)

const (
	// patience bounds every wait for something that must happen.
	patience = 20 * time.Second
	// meshHex is the mesh key of all relays here.
	meshHex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	// ours is what tests resolve to 127.0.0.1, by the IPv4 field of a DERP map.
	ours = "relay.example"
)

func TestMain(m *testing.M) {
	// Sockets stay on loopback and need no mark or device.
	netns.SetEnabled(false)
	envknob.Setenv("IN_TS_TEST", "1")
	os.Exit(m.Run())
}

// detour is a whole relay, started from a config as `detour serve` does it.
type detour struct {
	*daemon.Daemon
	t testing.TB
}

// startDetour runs a relay on loopback until the test ends. It admits everybody,
// unless change says otherwise.
func startDetour(t testing.TB, change func(*config.Config)) *detour {
	t.Helper()
	cfg := config.Defaults(config.Host{Home: t.TempDir()})
	cfg.Listen, cfg.STUNListen, cfg.HTTPListen, cfg.AdminListen = "127.0.0.1:0", "127.0.0.1:0", config.Off, config.Off
	cfg.Hostname, cfg.PublicIPv4 = "127.0.0.1", netip.MustParseAddr("127.0.0.1")
	cfg.Admit = []string{config.AdmitAny}
	cfg.MeshKeyFile = filepath.Join(t.TempDir(), "mesh.key")
	writeFile(t, cfg.MeshKeyFile, meshHex+"\n")
	if change != nil {
		change(&cfg)
	}
	d, err := daemon.New(t.Context(), cfg, daemon.Options{
		Version: "interop", Logger: slog.New(slog.NewTextHandler(logTo{t}, nil)),
		InterfaceAddrs: func() ([]netip.Addr, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("detour: %v", err)
		}
	})
	return &detour{d, t}
}

// derpMap is the map that `detour map` prints, read by Tailscale's types.
func (d *detour) derpMap(forOldClients bool) *tailcfg.DERPMap {
	d.t.Helper()
	m, _, err := d.Map(forOldClients)
	if err != nil {
		d.t.Fatal(err)
	}
	text, err := derpmap.JSON(m)
	if err != nil {
		d.t.Fatal(err)
	}
	var out tailcfg.DERPMap
	if err := json.Unmarshal(text, &out); err != nil {
		d.t.Fatal(err)
	}
	return &out
}

// region is the only one of derpMap.
func (d *detour) region(forOldClients bool) *tailcfg.DERPRegion {
	d.t.Helper()
	for _, r := range d.derpMap(forOldClients).Regions {
		if len(r.Nodes) == 1 {
			return r
		}
	}
	d.t.Fatal("the DERP map has no region with one node")
	return nil
}

// logTo writes a relay's log to the test's.
type logTo struct{ t testing.TB }

func (l logTo) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(bytes.ToValidUTF8(b, nil))))
	return len(b), nil
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustMesh(t testing.TB, text string) key.Mesh {
	t.Helper()
	k, err := key.ParseMesh(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
