package daemon

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/config"
)

const twoKeys = "nodekey:1111111111111111111111111111111111111111111111111111111111111111 " +
	"nodekey:2222222222222222222222222222222222222222222222222222222222222222"

func TestBanner(t *testing.T) {
	domain := issue(t, "relay.example.org", time.Now().AddDate(0, 1, 0))
	tests := []struct {
		name   string
		change func(*config.Config)
		addrs  []string // nil: public ones
	}{
		{name: "public"},
		{name: "private", addrs: []string{"127.0.0.1", "172.17.0.2", "192.168.1.5", "fd00::5"}},
		{name: "no-address", addrs: []string{"127.0.0.1"}},
		{name: "private-but-told", addrs: []string{"172.17.0.2"}, change: func(c *config.Config) {
			c.PublicIPv4 = addrOf("198.51.100.4")
		}},
		{name: "domain-files", change: func(c *config.Config) {
			c.Hostname, c.CertMode, c.Cert, c.Key = "relay.example.org", config.CertFiles, domain.cert, domain.key
		}},
		{name: "admit-any", change: func(c *config.Config) { c.Admit = []string{config.AdmitAny} }},
		{name: "admit-key", change: func(c *config.Config) { c.AdmitKey = strings.Fields(twoKeys)[:1] }},
		{name: "admit-keys", change: func(c *config.Config) { c.AdmitKey = strings.Fields(twoKeys) }},
		{name: "stun-only", change: func(c *config.Config) { c.Listen = config.Off }},
		{name: "no-stun", change: func(c *config.Config) { c.STUNListen, c.AdminListen = config.Off, config.Off }},
		{name: "http", change: func(c *config.Config) { c.HTTPListen = "127.0.0.1:0" }},
		{name: "doors", change: func(c *config.Config) {
			c.PublicPort, c.PublicSTUNPort, c.ProxyProtocol = 7443, 13478, []string{"192.0.2.0/24"}
			c.AlsoListen = []string{"127.0.0.1:0,public_port=9443", "127.0.0.1:0,tls=off,public_port=9444"}
		}},
		{name: "behind-proxy", change: func(c *config.Config) { c.TLS, c.Hostname = false, "relay.example.org" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := mustBuild(t, settings(t, tt.change), tt.addrs...)
			var out strings.Builder
			if err := b.Banner(&out); err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", "banner", tt.name+".txt"), b.normal(out.String()))
		})
	}
}

// normal replaces what differs from run to run.
func (b *bed) normal(text string) string {
	hex := b.ServerKey().Hex()
	words := []string{hex, "<server key>", hex[:8], "<key>", b.Config().StateDir, "<state>"}
	if b.id.cert != nil && b.id.cert.Pin() != "" {
		words = append(words, b.id.cert.Pin(), "<pin>")
	}
	text = strings.NewReplacer(words...).Replace(text)
	for _, p := range []struct{ name, listen string }{
		{"<relay>", b.Config().Listen}, {"<also>", alsoAt(b, 0)}, {"<plain>", alsoAt(b, 1)}, {"<stun>", b.Config().STUNListen}, {"<http>", b.Config().HTTPListen},
	} {
		if n := portOf(p.listen); n != 0 {
			text = regexp.MustCompile(fmt.Sprintf(`\b%d\b`, n)).ReplaceAllString(text, p.name)
		}
	}
	return text
}

// alsoAt is the n-th address of also_listen, or nothing.
func alsoAt(b *bed, n int) string {
	if doors := b.Config().Doors(); len(doors) > n+1 {
		return doors[n+1].Address
	}
	return ""
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		write(t, path, got)
		return
	}
	if want := read(t, path); got != want {
		t.Errorf("%s\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, fmt.Errorf("closed pipe") }

func TestBannerThatCannotBeWritten(t *testing.T) {
	if err := mustBuild(t, settings(t, nil)).Banner(broken{}); err == nil {
		t.Error("no error")
	}
}
