package daemon

import (
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
)

// The relay's ports are not given up while they are closed: a relay that has given up
// root could not bind one below 1024 again.
func TestRotationKeepsThePorts(t *testing.T) {
	x := runTurned(t, func(c *config.Config) {
		c.Listen, c.AlsoListen = freePort(t), []string{freePort(t)}
	})
	before := []any{x.doors[0].Door, x.doors[1].Door}
	r, err := BeginRotation(x.cfg, cert.Place{Listen: freePort(t)})
	if err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	for _, step := range []func() error{
		func() (err error) { r, err = r.Withdraw(x.cfg.Cert, time.Now()); return err },
		func() (err error) { r, err = r.Finish(x.cfg.Cert, x.cfg.Key, time.Now()); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		x.follow(time.Now())
	}
	for i, e := range x.doors {
		if e.Door != before[i] {
			t.Errorf("%s was bound again", e.Where())
		}
		x.wantLogin(e.Where(), r.NewPin)
	}
}
