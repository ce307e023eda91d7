package daemon

import (
	"crypto/tls"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
)

// tomorrows is a certificate whose time begins in a month: to a clock that is a month
// late, one of today.
func tomorrows(t *testing.T) issued { return issue(t, acmeName, time.Now().AddDate(0, 4, 1)) }

// wantServed logs in with a clock that is right, which is two months ahead of this one.
func wantServed(t *testing.T, b *bed, i issued) {
	t.Helper()
	o := b.options()
	o.Host, o.CertName = acmeName, ""
	o.TLS = &tls.Config{RootCAs: i.roots, Time: func() time.Time { return time.Now().AddDate(0, 2, 0) }}
	c, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// A machine whose clock is late at the start serves what the authority gave to the
// run before, or gives now, and health says what is wrong.
func TestACMEWithALateClock(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stored bool
		mode   string
	}{
		{"stored", true, "ca\n"},
		{"stored, to leave the pin", true, "pin\n"},
		{"fresh, of a new relay", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := acmeConfig(t)
			open(&c)
			c.ACMESwitch = tt.mode == "pin\n"
			i := tomorrows(t)
			if err := os.MkdirAll(acmeDir(c), 0o700); err != nil {
				t.Fatal(err)
			}
			if tt.mode != "" {
				write(t, modeFile(c), tt.mode)
			}
			if tt.stored {
				keep(t, c, i)
			}
			b := mustBuild(t, c)
			if !tt.stored {
				b.acme.take(acmeName, []byte(read(t, i.cert)), []byte(read(t, i.key)))
				keep(t, c, i) // else it is asked for
			}
			b.run()
			wantServed(t, b, i)
			if m, _, err := b.Map(false); err != nil || m.Regions[900].Nodes[0].CertName != "" {
				t.Errorf("the map %+v, %v", m, err)
			}
			if h := b.Health(); h.OK || len(h.Problems) != 1 || !strings.Contains(h.Problems[0], "set the clock") {
				t.Errorf("health %+v", h)
			}
			await(t, "the log says it", func() bool { return strings.Contains(b.log.String(), "it is served all the same") })
		})
	}
}

// One that has expired, by a clock that is early, is served where clients expect it;
// the pin does not give way to it until the clock is set.
func TestACMEWithAnEarlyClock(t *testing.T) {
	c := acmeConfig(t)
	keep(t, c, issue(t, acmeName, time.Now().AddDate(0, 0, -1)))
	for mode, want := range map[acmeMode]string{acmeCA: "", acmePin: "sha256-raw:"} {
		write(t, modeFile(c), string(mode))
		c.ACMESwitch = mode == acmePin
		b := mustBuild(t, c)
		if leaf := b.source.Certificates()[0]; leaf.SelfSigned() != (mode == acmePin) {
			t.Errorf("mode %s: serves %s", mode, leaf.Names())
		}
		if m, _, err := b.Map(false); err != nil || !strings.HasPrefix(m.Regions[900].Nodes[0].CertName, want) {
			t.Errorf("mode %s: the map %+v, %v", mode, m, err)
		}
		if h := b.Health(); h.OK != (mode == acmePin) {
			t.Errorf("mode %s: health %+v", mode, h)
		}
		b.Close()
	}
}

// What is stored is offered again until it is of use.
func TestStoredIsOfferedAgain(t *testing.T) {
	c := acmeConfig(t)
	if err := os.MkdirAll(acmeDir(c), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, modeFile(c), "ca")
	synctest.Test(t, func(t *testing.T) {
		bad := issue(t, acmeName, time.Now().AddDate(0, 3, 0))
		write(t, bad.key, "x")
		keep(t, c, bad)
		k := newCourse(t, c)
		time.Sleep(3*acmeLook + time.Second)
		k.want(acmeCA, true, 0)
		if n := strings.Count(k.log.String(), "cannot serve"); n != 1 {
			t.Errorf("said %d times:\n%s", n, k.log)
		}
		keep(t, c, issue(t, acmeName, time.Now().AddDate(0, 3, 0)))
		time.Sleep(acmeLook)
		k.want(acmeCA, true, 1)
	})
	write(t, modeFile(c), "pin")
	c.ACMESwitch = true
	synctest.Test(t, func(t *testing.T) {
		old := issue(t, acmeName, time.Now().Add(-time.Hour))
		keep(t, c, old)
		k := newCourse(t, c)
		k.want(acmePin, true, 0)
		certPEM, keyPEM := keep(t, c, issue(t, acmeName, time.Now().AddDate(0, 3, 0)))
		held, err := cert.ParsePEM(acmeName, certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		k.have[acmeName] = held // as if it were the same, and the clock had been set
		k.lookAgain()
		k.want(acmeCA, true, 1)
	})
}

// A machine whose clock begins in 1970 starts with the files that it has.
func TestFilesWithALateClock(t *testing.T) {
	i := tomorrows(t)
	b := mustBuild(t, settings(t, func(c *config.Config) {
		open(c)
		c.Hostname, c.CertMode, c.Cert, c.Key = acmeName, config.CertFiles, i.cert, i.key
	}))
	b.run()
	wantServed(t, b, i)
	if h := b.Health(); h.OK || !strings.Contains(h.Problems[0], "set the clock") || !strings.Contains(b.log.String(), "set the clock") {
		t.Errorf("health %+v, log:\n%s", h, b.log)
	}
}

// Health is bad while there is still time to renew, in each mode.
func TestHealthBeforeTheEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		left time.Duration // of three months
		want string
	}{
		"in time":  {10 * 24 * time.Hour, ""},
		"late":     {8 * 24 * time.Hour, "should have been renewed by now; replace its files"},
		"last day": {time.Hour, "should have been renewed by now; replace its files"},
	} {
		i := issue(t, acmeName, time.Now().Add(tt.left))
		b := mustBuild(t, settings(t, func(c *config.Config) {
			c.Hostname, c.CertMode, c.Cert, c.Key = acmeName, config.CertFiles, i.cert, i.key
		}))
		if h := b.Health(); h.OK != (tt.want == "") || !h.OK && !strings.Contains(h.Problems[0], tt.want) {
			t.Errorf("%s: %+v", name, h)
		}
		b.Close()
	}
	for _, mode := range []string{config.CertPin, config.CertACME} {
		c := acmeConfig(t)
		if c.CertMode = mode; mode == config.CertPin {
			c.ACMEName = nil
		}
		if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
			t.Fatal(err)
		}
		certPEM, keyPEM := selfSigned(t, acmeName, time.Now().AddDate(-10, 0, 0), time.Now().AddDate(0, 0, 29))
		write(t, c.Cert, string(certPEM))
		write(t, c.Key, string(keyPEM))
		b := mustBuild(t, c)
		if h := b.Health(); h.OK || !strings.Contains(h.Problems[0], "change it by detour cert rotate") {
			t.Errorf("%s: %+v", mode, h)
		}
		b.Close()
	}
}
