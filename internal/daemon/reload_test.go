package daemon

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
)

// await polls until ok, and fails after a time that no machine needs.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit, look := time.After(20*time.Second), time.NewTicker(5*time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("waited in vain until %s", what)
		case <-look.C:
		}
	}
}

// replace gives the files of old the content of next, the certificate first.
func replace(t *testing.T, old, next issued) {
	t.Helper()
	for from, to := range map[string]string{next.cert: old.cert, next.key: old.key} {
		write(t, to+".new", read(t, from))
		if err := os.Rename(to+".new", to); err != nil {
			t.Fatal(err)
		}
	}
}

// Two names on one relay; one certificate is replaced while a client is connected.
func TestFilesAreReadAgain(t *testing.T) {
	first, second := issue(t, "relay.example.org", time.Now().AddDate(0, 1, 0)), issue(t, "other.example.org", time.Now().AddDate(0, 1, 0))
	b := mustBuild(t, settings(t, func(c *config.Config) {
		open(c)
		c.Hostname, c.CertMode, c.Cert, c.Key = "relay.example.org", config.CertFiles, first.cert, first.key
		c.CertPair, c.StrictSNI = []string{second.cert + "," + second.key}, true
	}))
	b.run()
	dial := func(name string, i issued) (*client.Client, error) {
		o := b.options()
		o.Host, o.TLS = name, &tls.Config{RootCAs: i.roots}
		return client.Dial(t.Context(), o)
	}
	for name, i := range map[string]issued{"relay.example.org": first, "other.example.org": second} {
		c, err := dial(name, i)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c.Close()
	}
	if _, err := dial("unknown.example.org", first); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name that no certificate covers: %v", err)
	}
	held, err := dial("relay.example.org", first)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	next := issue(t, "relay.example.org", time.Now().AddDate(0, 2, 0))
	replace(t, first, next)
	b.Reload()
	await(t, "the new certificate is served", func() bool { return b.Stats().CertFiles.Reloads == 1 })
	fresh, err := dial("relay.example.org", next)
	if err != nil {
		t.Fatalf("with the new authority: %v", err)
	}
	defer fresh.Close()
	exchange(t, held, fresh) // it is not disturbed
	s := b.Stats()
	if len(s.Cert.Certificates) != 2 || s.Cert.RefusedNames != 1 || s.Cert.DaysLeft < 50 {
		t.Errorf("stats %+v", s.Cert)
	}

	// What is broken, or lacks the hostname, is not taken.
	replace(t, first, issue(t, "unknown.example.org", time.Now().AddDate(0, 2, 0)))
	b.Reload()
	await(t, "it is refused", func() bool { return b.Stats().CertFiles.Refused > 0 })
	if c, err := dial("relay.example.org", next); err != nil {
		t.Errorf("the old one is not served: %v", err)
	} else {
		c.Close()
	}
	if h := b.health(t); !h.OK {
		t.Errorf("health %+v", h)
	}
}

// Each is a clear error at the start; the same at a reload is in internal/cert.
func TestBadFilesAtTheStart(t *testing.T) {
	good, other := issue(t, "relay.example.org", time.Now().AddDate(0, 1, 0)), issue(t, "relay.example.org", time.Now().AddDate(0, 1, 0))
	expired := issue(t, "relay.example.org", time.Now().AddDate(0, 0, -1))
	dir := t.TempDir()
	zeros := dir + "/zeros.pem"
	write(t, zeros, string(bytes.Repeat([]byte{0}, 1<<20)))
	for what, tt := range map[string]struct {
		cert, key string
		pairs     []string
		want      []string
	}{
		"missing":               {dir + "/none.pem", good.key, nil, []string{"none.pem", "no such file", "--cert"}},
		"key of another":        {good.cert, other.key, nil, []string{"is not the key of"}},
		"expired":               {expired.cert, expired.key, nil, []string{"expired at", "renew it"}},
		"a directory":           {dir, good.key, nil, []string{"is a directory"}},
		"zeros":                 {zeros, good.key, nil, []string{"is not PEM"}},
		"two for one name":      {good.cert, good.key, []string{other.cert + "," + other.key}, []string{"are both for \"relay.example.org\"", "take one of them out"}},
		"wrong pair":            {good.cert, good.key, []string{zeros}, []string{"zeros.pem", "is not PEM"}},
		"key of another (pair)": {"", "", []string{good.cert + "," + other.key}, []string{"is not the key of"}},
		"missing (pair)":        {good.cert, good.key, []string{dir + "/none.pem"}, []string{"none.pem", "check the path given by --cert-pair"}},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := build(t, settings(t, func(c *config.Config) {
				c.CertMode, c.Cert, c.Key, c.CertPair = config.CertFiles, tt.cert, tt.key, tt.pairs
			}))
			wantError(t, err, tt.want...)
		})
	}
}

// The name that clients dial may be in any of the certificates; the map is theirs.
func TestHostnameInAFurtherPair(t *testing.T) {
	first, second := issue(t, "a.example.org", time.Now().AddDate(0, 1, 0)), issue(t, "b.example.org", time.Now().AddDate(0, 1, 0))
	c := settings(t, func(c *config.Config) {
		c.CertMode, c.Cert, c.Key, c.CertPair = config.CertFiles, "", "", []string{first.cert + "," + first.key, second.cert + "," + second.key}
		c.Hostname = "b.example.org"
	})
	b := mustBuild(t, c)
	if got := b.id.cert.Names(); got[0] != "b.example.org" {
		t.Errorf("the map is made for %q", got)
	}
	b.cfg.Hostname = "c.example.org"
	wantError(t, b.checkName(b.source.Certificates()), `not valid for "c.example.org"`)
	text, err := json.Marshal(b.Stats().CertFiles)
	if err != nil || string(text) != `{"reloads":0,"refused":0,"refusing":[]}` {
		t.Errorf("stats %s, %v", text, err)
	}
}
