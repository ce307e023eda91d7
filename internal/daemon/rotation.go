package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/listen"
	"github.com/detour-relay/detour/internal/web"
)

// rotationPeriod is how often the relay looks at what the command has changed.
const rotationPeriod = time.Second

// rotates reports whether the relay's certificate is one that is rotated by the
// command: a pinned one of its own.
func rotates(c config.Config) bool {
	// Under derper's command line the pair has another name, and belongs to the operator.
	return (c.CertMode == config.CertPin || c.CertMode == config.CertACME) && c.TLS && c.Listen != config.Off &&
		filepath.Clean(c.Cert) == filepath.Join(c.StateDir, "pin.crt")
}

// ReopensByRestart reports whether a relay with these settings cannot open a port
// again that it has closed.
func ReopensByRestart(c config.Config) bool {
	const privileged = 1024 // ports below it need root
	for _, d := range c.Doors() {
		if c.RunAs != "" && !listen.KeepsAddress && d.TLS && portOf(d.Address) < privileged {
			return true
		}
	}
	return false
}

// rotation makes the running relay follow the rotation of its pinned certificate:
// which ports are open, and what each shows.
type rotation struct {
	d *Daemon
	// parts are the second port's and those that were opened again. They end with
	// the relay.
	parts sync.WaitGroup

	// Owned by serve.
	phase  cert.Phase    // that the ports are in; empty: no rotation
	second *listen.Door  // also in Daemon.second
	serves cert.Rotation // what second was opened for
	logins *tally        // at second
	seen   uint64        // logins at the port that is to go, when last looked at
	used   time.Time     // when that had changed
	told   string        // the last error, said once
}

// openSecondPort is what others may look at.
type openSecondPort struct {
	door   *listen.Door
	source *cert.Source
}

// serve follows until ctx is done.
func (r *rotation) serve(ctx context.Context) error {
	defer r.parts.Wait()
	tick := time.NewTicker(rotationPeriod)
	defer tick.Stop()
	for {
		err := r.follow(ctx, time.Now())
		if err != nil && err.Error() != r.told {
			r.told = err.Error()
			r.d.log.Error("the rotation of the certificate is stuck", "err", err)
		}
		r.d.rotationStuck.Store(&err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// follow takes the steps from the phase that the ports are in to the one that the
// state names. Each may be taken again when one after it has failed.
func (r *rotation) follow(ctx context.Context, now time.Time) error {
	c := r.d.cfg
	want, err := cert.LoadRotation(c.Cert, c.Key)
	if err != nil && !errors.Is(err, cert.ErrNoRotation) {
		return err
	}
	if r.second != nil && want.Phase != "" && (want.Listen != r.serves.Listen || want.NewPin != r.serves.NewPin) {
		if err := r.enter(ctx, cert.Rotation{}); err != nil { // one was given up, and another begun
			return err
		}
		r.phase = ""
		r.d.rotationPhase.Store(nil)
	}
	if want.Phase != "" && r.second == nil {
		if err := r.openSecond(ctx, want); err != nil {
			return err
		}
	}
	if want.Phase != r.phase {
		if err := r.enter(ctx, want); err != nil {
			return err
		}
		r.phase, r.used, r.told = want.Phase, now, ""
		r.d.rotationPhase.Store(&want.Phase)
		r.d.keeper.Poke()
		r.d.log.Info("the rotation of the certificate is at another step", "phase", want.Phase, "second_listen", want.Listen,
			"hint", "detour cert show says what is next")
	}
	return r.retireUnused(want, now)
}

// enter opens and closes what the phase asks for.
func (r *rotation) enter(ctx context.Context, want cert.Rotation) error {
	switch want.Phase {
	case cert.PhaseMoved:
		r.d.closeDoors()
	case cert.PhaseClosing:
		if want.Authority {
			if err := r.d.acme.changeOver(); err != nil {
				return err
			}
			return r.reopen(ctx)
		}
		fresh, err := cert.LoadPin(r.d.cfg.Cert, r.d.cfg.Key, time.Now())
		if err != nil {
			return err
		}
		if err := r.d.source.Replace([]*cert.Certificate{fresh}); err != nil {
			return err
		}
		return r.reopen(ctx)
	case "":
		if err := r.reopen(ctx); err != nil {
			return err // with the second port closed too there would be none
		}
		if r.second != nil {
			if r.d.acme != nil {
				r.d.acme.takeBack()
			}
			r.d.second.Store(nil)
			_ = r.second.Close() // who is connected there stays
			r.second = nil
		}
	}
	return nil
}

// openSecond serves the new certificate on the second port.
func (r *rotation) openSecond(ctx context.Context, want cert.Rotation) error {
	source, err := r.secondSource(want)
	if err != nil {
		return err
	}
	options := r.d.doors[0].options // the limits too
	options.Flag = "--port"
	door, err := listen.Listen(ctx, want.Listen, options)
	if err != nil {
		return fmt.Errorf("open the second port of the rotation (another --port takes detour cert rotate --end first): %w", err)
	}
	o := r.d.webOptions
	o.TLS = source.TLSConfig()
	server := web.New(o)
	// The server must outlive the port for those who came by it, who may stay for weeks.
	left, stop := context.WithCancel(ctx)
	r.run(func() error { return server.Serve(left) })
	r.run(func() error { return source.LogExpiry(left) })
	logins := &tally{}
	r.run(func() error {
		defer stop()
		return door.Serve(ctx, logins.counting(server.ServeConn))
	})
	r.second, r.logins, r.serves = door, logins, want
	r.d.second.Store(&openSecondPort{door, source})
	return nil
}

// secondSource is what the second port shows.
func (r *rotation) secondSource(want cert.Rotation) (source *cert.Source, err error) {
	o := cert.Options{StrictSNI: r.d.cfg.StrictSNI, ServerKeyHex: r.d.id.serverKey.Hex(), Logger: r.d.log}
	if !want.Authority {
		c, err := loadNext(r.d.cfg, want)
		if err != nil {
			return nil, err
		}
		o.Certificate = c
		return cert.New(o)
	}
	if r.d.acme == nil {
		return nil, errors.New("a rotation to an authority's certificate is under way, and cert_mode is not acme; " +
			"hint: set it to acme, or give the rotation up with detour cert rotate --end")
	}
	err = r.d.acme.lend(func(certs []*cert.Certificate) (func([]*cert.Certificate) error, error) {
		o.Certificate, o.More, o.Challenge = certs[0], certs[1:], r.d.acme.manager.TLSChallenge
		if source, err = cert.New(o); err != nil {
			return nil, err
		}
		return source.Replace, nil
	})
	return source, err
}

// loadNext returns the certificate of the second port.
func loadNext(c config.Config, r cert.Rotation) (*cert.Certificate, error) {
	if r.Phase == cert.PhaseClosing { // it has the old one's name by now
		return cert.LoadPin(c.Cert, c.Key, time.Now())
	}
	_, certFile, keyFile := cert.RotationFiles(c.Cert)
	return cert.LoadPin(certFile, keyFile, time.Now())
}

// run runs what ends with the relay.
func (r *rotation) run(serve func() error) {
	r.parts.Go(func() {
		if err := serve(); err != nil {
			r.d.log.Error("a port of the rotation failed", "err", err)
		}
	})
}

// reopen opens the relay's own ports that are closed.
func (r *rotation) reopen(ctx context.Context) error {
	opened, err := r.d.openDoors(ctx)
	for _, p := range opened {
		r.run(func() error { return p.serve(ctx) })
	}
	return err
}

// retireUnused goes on to the next phase by itself when nobody has logged in at the
// port that is to go for so long that nobody's map can need it. Strangers do not
// count.
func (r *rotation) retireUnused(want cert.Rotation, now time.Time) error {
	if n := r.d.logins.admitted.Load(); n != r.seen || r.d.logins.present.Load() > 0 {
		r.seen, r.used = n, now
	}
	// That somebody has come to the second port shows that the map with both is out.
	if want.Phase != cert.PhaseBoth || now.Sub(r.used) < cert.RotationUnused || r.logins.admitted.Load() == 0 {
		return nil
	}
	r.d.log.Warn("the old certificate was not used for a week, so the relay's port is closed until the rotation is finished; "+
		"hint: put the map without it in its place, then: detour cert rotate --finish", "unused_since", r.used.UTC())
	_, err := want.Withdraw(r.d.cfg.Cert, now)
	return err
}
