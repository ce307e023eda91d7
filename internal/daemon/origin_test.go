package daemon

import (
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/config"
)

// The file that is named is that of the certificate which clients of the map are
// served.
func TestCertOrigin(t *testing.T) {
	end := time.Now().AddDate(0, 3, 0)
	first, second := issue(t, "first.example", end), issue(t, "second.example", end)
	for name, want := range map[string]string{
		"": first.cert, "first.example": first.cert, "second.example": second.cert,
	} {
		c := settings(t, func(c *config.Config) {
			c.CertMode, c.Hostname = config.CertFiles, name
			c.Cert, c.Key, c.CertPair = first.cert, first.key, []string{second.cert + "," + second.key}
		})
		if got := CertOrigin(c); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
	pinned := settings(t, nil)
	if got := CertOrigin(pinned); got != pinned.Cert {
		t.Errorf("a pin: %s", got)
	}
	waiting := acmeConfig(t)
	b := mustBuild(t, waiting)
	if err := b.acme.giveUpFirst(); err != nil {
		t.Fatal(err)
	}
	if got := CertOrigin(waiting); got != waiting.Cert {
		t.Errorf("a pin before the authority's certificate is there: %s", got)
	}
}
