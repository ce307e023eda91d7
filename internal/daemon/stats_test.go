package daemon

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/config"
)

// admin returns a client of the daemon's own control API.
func (b *bed) client(t *testing.T) *admin.Client {
	t.Helper()
	c, err := admin.NewClient(b.Config().AdminListen)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (b *bed) health(t *testing.T) admin.Health {
	t.Helper()
	h, err := b.client(t).Health(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHealthyFromTheStart(t *testing.T) {
	b := mustBuild(t, settings(t, nil))
	b.run()
	if h := b.health(t); !h.OK || len(h.Problems) != 0 {
		t.Errorf("health: %+v", h)
	}
}

func TestStatsShape(t *testing.T) {
	tests := []struct {
		name   string
		change func(*config.Config)
		want   string
	}{
		{
			"all", func(c *config.Config) { c.HTTPListen = "127.0.0.1:0" },
			"admin admit cert http http_listen listen relay server_key started stun version web",
		},
		{
			"without TLS", func(c *config.Config) { c.TLS = false },
			"admin admit listen relay server_key started stun version web",
		},
		{
			"STUN only", func(c *config.Config) { c.Listen = config.Off },
			"admin admit relay server_key started stun version",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := mustBuild(t, settings(t, tt.change))
			b.run()
			text, err := b.client(t).Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var stats map[string]any
			if err := json.Unmarshal(text, &stats); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(slices.Sorted(maps.Keys(stats)), " "); got != tt.want {
				t.Errorf("parts: %s\nwant:  %s", got, tt.want)
			}
			if stats["server_key"] != b.ServerKey().String() || stats["version"] != "test" {
				t.Errorf("server_key %v, version %v", stats["server_key"], stats["version"])
			}
			if secret := read(t, b.cfg.ServerKey)[len(`{"PrivateKey":`):]; strings.Contains(string(text), regexp.MustCompile(`[0-9a-f]{64}`).FindString(secret)) {
				t.Error("the private key is in it")
			}
			checkShape(t, "", stats)
		})
	}
}

// checkShape holds all figures to names in one style and to values that are there.
func checkShape(t *testing.T, path string, v any) {
	t.Helper()
	style := regexp.MustCompile(`^[a-z0-9]+([_.][a-z0-9]+)*$`)
	switch v := v.(type) {
	case nil:
		t.Errorf("%s is null", path)
	case map[string]any:
		for name, inner := range v {
			if !style.MatchString(name) {
				t.Errorf("%s/%s is not in snake_case", path, name)
			}
			checkShape(t, path+"/"+name, inner)
		}
	}
}
