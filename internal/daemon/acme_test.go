package daemon

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
)

const acmeName = "relay.example"

func TestWhatToCertify(t *testing.T) {
	public := derpmap.Addresses{IPv4: netip.MustParseAddr("203.0.113.7"), IPv6: netip.MustParseAddr("2001:db8::7")}
	for _, tt := range []struct {
		set      []string
		hostname string
		names    []string
		ips      string
	}{
		{nil, "", nil, "203.0.113.7 2001:db8::7"},
		{nil, acmeName, []string{acmeName}, ""},
		{nil, "198.51.100.4", nil, "198.51.100.4"},
		{[]string{"B.example", "198.51.100.4", "*.a.example"}, acmeName, []string{"b.example", "*.a.example"}, "198.51.100.4"},
	} {
		names, ips := acmeNames(config.Config{ACMEName: tt.set, Hostname: tt.hostname}, public)
		var texts []string
		for _, ip := range ips {
			texts = append(texts, ip.String())
		}
		if !reflect.DeepEqual(names, tt.names) || strings.Join(texts, " ") != tt.ips {
			t.Errorf("acme_name %q, hostname %q: %q and %q, want %q and %q", tt.set, tt.hostname, names, texts, tt.names, tt.ips)
		}
	}
}

// acmeConfig is a relay in cert_mode acme in a state directory of its own.
func acmeConfig(t *testing.T) config.Config {
	t.Helper()
	return settings(t, func(c *config.Config) {
		c.CertMode, c.ACMEName, c.Hostname = config.CertACME, []string{acmeName}, acmeName
		c.ACMEDirectory = "https://127.0.0.1:1/dir"
	})
}

func TestModeAtStart(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		pin, force bool
		want       acmeMode
		wantErr    string
	}{
		{name: "new relay", want: acmeNew},
		{name: "was in pin mode", pin: true, want: acmePin},
		{name: "was stopped in its first minute", file: "new\n", pin: true, want: acmeNew},
		{name: "printed the pin", file: "pin\n", pin: true, want: acmePin},
		{name: "changed over", file: "ca\n", pin: true, want: acmeCA},
		{name: "damaged", file: "x", wantErr: "says neither pin nor ca"},
		{name: "new, no pin wanted", force: true, want: acmeCA},
		{name: "pin, to be changed over", file: "pin", pin: true, force: true, want: acmePin},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := acmeConfig(t)
			c.ACMESwitch = tt.force
			if err := os.MkdirAll(acmeDir(c), 0o700); err != nil {
				t.Fatal(err)
			}
			if tt.file != "" {
				if err := os.WriteFile(modeFile(c), []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tt.pin {
				if err := os.WriteFile(c.Cert, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			u, err := newAuthority(c, derpmap.Addresses{}, slog.New(slog.DiscardHandler))
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) || !strings.Contains(err.Error(), "hint: ") {
					t.Fatalf("got error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if u.mode != tt.want {
				t.Errorf("mode %s, want %s", u.mode, tt.want)
			}
			select {
			case <-u.settled:
				if tt.want == acmeNew {
					t.Error("settled although no map may be printed yet")
				}
			default:
				if tt.want != acmeNew {
					t.Error("not settled")
				}
			}
		})
	}
}

// course is an authority under test, within a bubble of synctest.
type course struct {
	*authority
	t      *testing.T
	log    *logText
	served []*cert.Certificate
}

func newCourse(t *testing.T, c config.Config) *course {
	t.Helper()
	k := &course{t: t, log: &logText{}}
	u, err := newAuthority(c, derpmap.Addresses{}, slog.New(slog.NewTextHandler(k.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	u.serve = func(list []*cert.Certificate) error { k.served = list; return nil }
	u.loadStored()
	k.authority = u
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- u.settle(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return k
}

// issue hands over a certificate that is valid for life from now on.
func (k *course) issue(life time.Duration) {
	k.t.Helper()
	k.issueFor(acmeName, life)
}

func (k *course) issueFor(name string, life time.Duration) {
	k.t.Helper()
	certPEM, keyPEM := selfSigned(k.t, name, time.Now(), time.Now().Add(life))
	k.take(name, certPEM, keyPEM)
}

// selfSigned makes a certificate that signs itself.
func selfSigned(t *testing.T, name string, from, to time.Time) (certPEM, keyPEM []byte) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func (k *course) want(mode acmeMode, settled bool, served int) {
	k.t.Helper()
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	isSettled := false
	select {
	case <-k.settled:
		isSettled = true
	default:
	}
	text, _ := os.ReadFile(filepath.Join(k.cfg.StateDir, "acme", "mode"))
	if k.mode != mode || isSettled != settled || len(k.served) != served || strings.TrimSpace(string(text)) != string(mode) {
		k.t.Fatalf("mode %s (file %q), settled %t, %d certificates served; want %s, %t, %d; log:\n%s",
			k.mode, text, isSettled, len(k.served), mode, settled, served, k.log)
	}
}

func TestFirstCertificateInTime(t *testing.T) {
	c := acmeConfig(t)
	synctest.Test(t, func(t *testing.T) {
		k := newCourse(t, c)
		k.want(acmeNew, false, 0)
		time.Sleep(acmeFirstWait - time.Second)
		k.want(acmeNew, false, 0)
		k.issue(90 * 24 * time.Hour)
		k.want(acmeCA, true, 1)
		time.Sleep(time.Hour)
		k.want(acmeCA, true, 1)
		if c := k.published(nil); c == nil || c.Names()[0] != acmeName {
			t.Errorf("published %v", c)
		}
	})
}

func TestFirstCertificateTooLate(t *testing.T) {
	c := acmeConfig(t)
	synctest.Test(t, func(t *testing.T) {
		k := newCourse(t, c)
		time.Sleep(acmeFirstWait)
		k.want(acmePin, true, 0)
		k.issue(90 * 24 * time.Hour)
		k.want(acmePin, true, 0) // clients hold the pin
		k.issue(90 * 24 * time.Hour)
		time.Sleep(3 * acmeRemind)
		synctest.Wait()
		if n := strings.Count(k.log.String(), "certificate is ready"); n != 4 {
			t.Errorf("reminded %d times at once and in three days:\n%s", n, k.log)
		}
	})
	c.ACMESwitch = true
	synctest.Test(t, func(t *testing.T) {
		k := newCourse(t, c)
		k.want(acmePin, true, 0) // not before there is something to change over to
		select {
		case <-k.changed:
			t.Error("a new map is printed before there is a new certificate")
		default:
		}
		k.issue(90 * 24 * time.Hour)
		k.want(acmeCA, true, 1)
		<-k.changed
		k.issue(90 * 24 * time.Hour)
	})
	c.ACMESwitch = false // it may be left out again
	synctest.Test(t, func(t *testing.T) {
		k := newCourse(t, c)
		k.want(acmeCA, true, 0)
		if k.published(nil) != nil {
			t.Error("something is published without a certificate")
		}
	})
}

func TestHealthOfAuthorityCertificates(t *testing.T) {
	c := acmeConfig(t)
	c.ACMESwitch = true
	synctest.Test(t, func(t *testing.T) {
		k := newCourse(t, c)
		wantProblem := func(after time.Duration, want string) {
			t.Helper()
			list := k.problems(time.Now().Add(after))
			if (want == "") != (len(list) == 0) || want != "" && !strings.Contains(list[0], want) {
				t.Errorf("after %v: %q, want %q", after, list, want)
			}
		}
		const day = 24 * time.Hour
		wantProblem(0, "there is no certificate for "+acmeName)
		k.issue(90 * day)
		wantProblem(0, "")
		wantProblem(79*day, "") // it was to be renewed at 60
		wantProblem(81*day, "its renewal fails")
		wantProblem(91*day, "expired")
	})
}

// What is there is served, and health says what is not, whichever of two names
// fails; without the first there is no reason to leave the pin.
func TestOneOfTwoNames(t *testing.T) {
	const other = "other.example"
	c := acmeConfig(t)
	c.ACMEName = []string{acmeName, other}
	synctest.Test(t, func(t *testing.T) {
		k := newCourse(t, c)
		k.issueFor(other, 90*24*time.Hour)
		k.want(acmeNew, false, 0)
		time.Sleep(acmeFirstWait + time.Second)
		k.want(acmePin, true, 0)
		if list := k.problems(time.Now()); len(list) != 0 {
			t.Errorf("%q, though clients are shown the pin", list)
		}
	})
	c = acmeConfig(t)
	c.ACMEName = []string{acmeName, other}
	synctest.Test(t, func(t *testing.T) {
		k := newCourse(t, c)
		k.issue(90 * 24 * time.Hour)
		k.want(acmeCA, true, 1)
		if list := k.problems(time.Now()); len(list) != 1 || !strings.Contains(list[0], "no certificate for "+other) {
			t.Errorf("problems %q, want the other name's", list)
		}
		k.issueFor(other, 90*24*time.Hour)
		k.want(acmeCA, true, 2)
		if list := k.problems(time.Now()); len(list) != 0 {
			t.Errorf("problems %q", list)
		}
	})
}

func TestMapFollowsTheMode(t *testing.T) {
	c := acmeConfig(t)
	b := mustBuild(t, c)
	if _, err := os.Stat(modeFile(c)); err != nil {
		t.Fatal(err)
	}
	if _, err := loadACMECert(c); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("a map before the mode is known: %v", err)
	}
	if m, _, err := b.Map(false); err != nil || m.Regions[c.RegionID].Nodes[0].HostName != acmeName {
		t.Errorf("the map %+v, %v", m, err)
	}
	if err := b.acme.giveUpFirst(); err != nil {
		t.Fatal(err)
	}
	pin, err := loadACMECert(c)
	if err != nil || pin == nil || pin.Pin() == "" {
		t.Fatalf("in mode pin: %v, %v", pin, err)
	}
	c.ACMESwitch = true // as in `detour map --acme-switch`
	if crt, err := loadACMECert(c); err != nil || crt != nil {
		t.Errorf("for the change over: %v, %v", crt, err)
	}
	c.ACMESwitch = false
	if err := b.acme.setMode(acmeCA); err != nil {
		t.Fatal(err)
	}
	if crt, err := loadACMECert(c); err != nil || crt != nil {
		t.Errorf("in mode ca: %v, %v", crt, err)
	}
	if m, _, err := b.Map(false); err != nil || m.Regions[c.RegionID].Nodes[0].CertName != "" {
		t.Errorf("the map in mode ca %+v, %v", m, err)
	}
	if h := b.Health(); h.OK || len(h.Problems) != 1 {
		t.Errorf("health in mode ca without certificate: %+v", h)
	}
}
