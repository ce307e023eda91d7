//go:build pebble

package daemon

import (
	"crypto/tls"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/relaytest"
)

// A running relay goes from its pin to the authority's certificates. One of them is
// asked for while the relay's port is closed, and shown on the second port at once.
func TestRotationWithAuthority(t *testing.T) {
	const late = "late.example"
	// Where an order names no profile, Pebble takes any: of one alone, no certificate is due at once.
	a := relaytest.NewPebble(t, func(pebble map[string]any) {
		pebble["profiles"] = map[string]any{"default": map[string]any{"description": "three months", "validityPeriod": 7776000}}
	}) // not started: there is no certificate but the one below
	c := settings(t, func(c *config.Config) {
		c.CertMode, c.ACMEName, c.Hostname = config.CertACME, []string{acmeName, late}, acmeName
		c.ACMEDirectory, c.ACMECAFile = a.Directory(), filepath.Join(a.Dir, "cert.pem")
		c.HTTPListen, c.Admit = relaytest.Loopback(a.HTTP), []string{"any"}
	})
	first := issue(t, acmeName, time.Now().AddDate(0, 3, 0))
	keep(t, c, first)
	if _, _, err := cert.LoadOrCreatePin(c.Cert, c.Key, []string{acmeName}, time.Now()); err != nil { // it was in mode pin
		t.Fatal(err)
	}
	b := mustBuild(t, c)
	pin := b.id.cert.Pin()
	stop := b.run()
	c = b.Config()
	reach := func(phase cert.Phase) {
		t.Helper()
		await(t, "phase "+string(phase), func() bool { return strings.Contains(b.log.String(), "phase="+string(phase)) })
	}
	login := func(address, pin string) error {
		o := b.options()
		o.Addr, o.Host, o.CertName = address, acmeName, pin
		if pin == "" {
			o.TLS = &tls.Config{RootCAs: first.roots}
		}
		cl, err := client.Dial(t.Context(), o)
		if err == nil {
			cl.Close()
		}
		return err
	}

	second := freePort(t)
	r, err := BeginRotation(c, cert.Place{Listen: second})
	if err != nil {
		t.Fatal(err)
	}
	reach(cert.PhaseBoth)
	if err := login(c.Listen, pin); err != nil {
		t.Error(err)
	}
	if err := login(second, ""); err != nil {
		t.Error(err)
	}
	if r, err = r.Withdraw(c.Cert, time.Now()); err != nil {
		t.Fatal(err)
	}
	reach(cert.PhaseMoved)

	a.Start()
	addIssuer(t, a, first.roots) // the relay asks for the other name too, as nothing says who issued what it has
	dial := func() (*tls.Conn, error) {
		return tls.Dial("tcp", second, &tls.Config{ServerName: late, RootCAs: first.roots})
	}
	for limit := time.Now().Add(90 * time.Second); ; time.Sleep(time.Second) { // the authority is asked again within a minute
		conn, err := dial()
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("%v; log:\n%s", err, b.log)
		}
	}

	if r, err = r.Finish(c.Cert, c.Key, time.Now()); err != nil {
		t.Fatal(err)
	}
	reach(cert.PhaseClosing)
	if err := login(c.Listen, ""); err != nil {
		t.Error(err)
	}
	if err := CheckEnd(t.Context(), c, r); err != nil {
		t.Error(err)
	}
	if err := r.End(c.Cert); err != nil {
		t.Fatal(err)
	}
	if m, err := readACMEMode(c); err != nil || m != acmeCA {
		t.Errorf("mode %q, %v", m, err)
	}
	if h := b.Health(); !h.OK {
		t.Errorf("health %+v", h)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
