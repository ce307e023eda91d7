package daemon

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
)

// The step back from the second opens the relay's port with the old certificate, and
// the map names both again; from there the rotation can be given up, or go on.
func TestRotationBack(t *testing.T) {
	x := runTurned(t)
	main, old := x.cfg.Listen, x.id.cert.Pin()
	r, err := BeginRotation(x.cfg, cert.Place{Listen: freePort(t)})
	if err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	for range 2 {
		if r, err = r.Withdraw(x.cfg.Cert, time.Now()); err != nil {
			t.Fatal(err)
		}
		x.follow(time.Now())
		if c, err := net.Dial("tcp", main); err == nil {
			c.Close()
			t.Error("the old port is open")
		}
		if r, err = r.Back(x.cfg.Cert, time.Now()); err != nil {
			t.Fatal(err)
		}
		x.follow(time.Now())
		x.wantLogin(main, old)
		x.wantLogin(r.Listen, r.NewPin)
		if got := x.nodes(); len(got) != 2 || got[0] != node(r.Listen, r.NewPin) || got[1] != node(main, old) {
			t.Errorf("the map names %q", got)
		}
	}
	if _, err := r.Back(x.cfg.Cert, time.Now()); err == nil {
		t.Error("back from the first step")
	}
	if err := r.End(x.cfg.Cert); err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	x.wantLogin(main, old)
	if got := x.nodes(); len(got) != 1 || got[0] != node(main, old) {
		t.Errorf("the map names %q", got)
	}
}

// A relay is started whose port was withdrawn for an authority's certificate that is
// gone, or has expired: nothing can be had at the second port. The way back leads to
// the pin.
func TestRotationWithoutTheAuthority(t *testing.T) {
	for name, stored := range map[string]bool{"gone": false, "expired": true} {
		t.Run(name, func(t *testing.T) {
			c := acmeConfig(t)
			open(&c)
			if _, _, err := cert.LoadOrCreatePin(c.Cert, c.Key, []string{acmeName}, time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(acmeDir(c), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, modeFile(c), "pin")
			if stored {
				keep(t, c, issue(t, acmeName, time.Now().Add(-time.Hour)))
				at := c
				at.Listen = freePort(t)
				_, err := BeginRotation(at, cert.Place{Listen: ":8444"})
				wantError(t, err, "expired on")
			}
			r, err := cert.BeginAuthorityRotation(c.Cert, c.Key, cert.Place{Listen: freePort(t)}, time.Now())
			if err == nil {
				r, err = r.Withdraw(c.Cert, time.Now())
			}
			if err != nil {
				t.Fatal(err)
			}
			x := followed(t, mustBuild(t, c))
			c = x.cfg
			main, pin := c.Listen, x.id.cert.Pin()
			stuck := func(hint string) {
				t.Helper()
				err := x.rotation.follow(x.ctx, time.Now())
				wantError(t, err, "no certificate from the authority", hint)
			}
			stuck("--back")
			if x.rotationFollowed() {
				t.Error("the kept map names a port that is closed")
			}
			x.wantLogin(main, pin) // who has the map with both comes here
			if got := x.nodes(); len(got) != 1 || got[0] != node(r.Listen, "") {
				t.Errorf("the map names %q", got)
			}
			if err := CheckSecondPort(t.Context(), c, r); err == nil {
				t.Error("the second port answers")
			}
			if r, err = r.Back(c.Cert, time.Now()); err != nil {
				t.Fatal(err)
			}
			stuck("--end")
			if !x.rotationFollowed() {
				t.Error("the kept map is not made anew after the way back")
			}
			if got := x.nodes(); len(got) != 2 || got[0] != node(r.Listen, "") || got[1] != node(main, pin) {
				t.Errorf("the map names %q", got)
			}
			x.wantLogin(main, pin)
			if err := r.End(c.Cert); err != nil {
				t.Fatal(err)
			}
			x.follow(time.Now())
			if !x.rotationFollowed() {
				t.Error("the kept map is not made anew at the end")
			}
			if got := x.nodes(); len(got) != 1 || got[0] != node(main, pin) {
				t.Errorf("the map names %q", got)
			}
			x.wantLogin(main, pin)
		})
	}
}
