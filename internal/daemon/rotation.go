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
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/listen"
	"github.com/detour-relay/detour/internal/web"
)

// rotationPeriod is how often the relay looks at what the command has changed.
const rotationPeriod = 2 * time.Second

// rotates reports whether the relay's certificate is one that is rotated by the
// command: a pinned one of its own.
func rotates(c config.Config) bool {
	// Under derper's command line the pair has another name, and belongs to the operator.
	return c.CertMode == config.CertPin && c.TLS && c.Listen != config.Off &&
		filepath.Clean(c.Cert) == filepath.Join(c.StateDir, "pin.crt")
}

// ReopensByRestart reports whether a relay with these settings cannot open a port
// again that it has closed.
func ReopensByRestart(c config.Config) bool {
	const privileged = 1024 // ports below it need root
	for _, d := range c.Doors() {
		if c.RunAs != "" && d.TLS && portOf(d.Address) < privileged {
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
	phase    cert.Phase // that the ports are in; empty: no rotation
	second   *listen.Door
	serves   cert.Rotation      // what second was opened for
	server   *web.Server        // of second
	stop     context.CancelFunc // ends the second port
	upgrades uint64             // of the port that is to go, when last looked at
	used     time.Time          // when that had changed
	told     string             // the last error, said once
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
		fresh, err := cert.LoadPin(r.d.cfg.Cert, r.d.cfg.Key, time.Now())
		if err != nil {
			return err
		}
		if err := r.d.source.Replace([]*cert.Certificate{fresh}); err != nil {
			return err
		}
		return r.reopen(ctx)
	case "":
		if r.stop != nil {
			r.stop()
			r.second, r.stop = nil, nil
		}
		return r.reopen(ctx)
	}
	return nil
}

// openSecond serves the new certificate on the second port.
func (r *rotation) openSecond(ctx context.Context, want cert.Rotation) error {
	c, err := loadNext(r.d.cfg, want)
	if err != nil {
		return err
	}
	source, err := cert.New(cert.Options{Certificate: c, ServerKeyHex: r.d.id.serverKey.Hex(), Logger: r.d.log})
	if err != nil {
		return err
	}
	door, err := listen.Listen(ctx, want.Listen, r.d.doorOptions("--port"))
	if err != nil {
		return fmt.Errorf("open the second port of the rotation: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	o := r.d.webOptions
	o.TLS = source.TLSConfig()
	server := web.New(o)
	r.run(func() error { return server.Serve(ctx) })
	r.run(func() error { return door.Serve(ctx, server.ServeConn) })
	r.second, r.stop, r.server, r.serves = door, stop, server, want
	return nil
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

// retireUnused goes on to the next phase by itself when nobody has come to the port
// that is to go for so long that nobody's map can need it.
func (r *rotation) retireUnused(want cert.Rotation, now time.Time) error {
	if n := upgradesOf(r.d.web); n != r.upgrades || r.d.openConnections() > 0 {
		r.upgrades, r.used = n, now
	}
	// That somebody has come to the second port shows that the map with both is out.
	if want.Phase != cert.PhaseBoth || now.Sub(r.used) < cert.RotationUnused || upgradesOf(r.server) == 0 {
		return nil
	}
	r.d.log.Warn("the old certificate was not used for a week, so the relay's port is closed until the rotation is finished; "+
		"hint: put the map without it in its place, then: detour cert rotate --finish", "unused_since", r.used.UTC())
	_, err := want.Withdraw(r.d.cfg.Cert, now)
	return err
}

func upgradesOf(s *web.Server) uint64 {
	up := s.Stats().Upgrades
	return up.Raw + up.FastStart + up.WebSocket
}

// turn changes a relay's map by the rotation that is under way.
func turn(r *derpmap.Relay, rot cert.Rotation) {
	if rot.Phase == cert.PhaseClosing || rot.Phase == "" {
		return
	}
	old := derpmap.Spare{Port: r.Port, TLS: r.TLS, Pin: r.Pin, NoIPv4: r.NoIPv4, NoIPv6: r.NoIPv6}
	r.Port, r.Pin = portOf(rot.Listen), rot.NewPin
	spares := r.Spare
	r.Spare = nil
	if rot.Phase == cert.PhaseBoth {
		for i := range spares {
			if spares[i].TLS {
				spares[i].Pin = old.Pin
			}
		}
		r.Spare = append([]derpmap.Spare{old}, spares...)
		return
	}
	for _, s := range spares { // the ports of TLS are closed
		if s.Port == 0 {
			r.Spare = append(r.Spare, s)
		}
	}
}

// rotationOf returns the rotation of these settings, and none when there is none.
func rotationOf(c config.Config) (cert.Rotation, error) {
	if !rotates(c) {
		return cert.Rotation{}, nil
	}
	r, err := cert.LoadRotation(c.Cert, c.Key)
	if errors.Is(err, cert.ErrNoRotation) {
		return cert.Rotation{}, nil
	}
	return r, err
}

// checkRotatable says why the certificate of these settings cannot be rotated.
func checkRotatable(c config.Config) error {
	if !rotates(c) {
		return errors.New("only a pinned certificate of the relay's own is rotated; hint: with --cert-mode files replace the files, which are read again by themselves")
	}
	if c.PublicPort != 0 || len(c.ProxyProtocol) > 0 {
		return errors.New("the second port of a rotation has neither public_port nor proxy_protocol; hint: rotate by hand: a second relay on another port with the same --server-key, and a map that names both")
	}
	for _, d := range c.Doors() {
		if d.TLS && (config.IsUnix(d.Address) || config.IsSystemd(d.Address) || portOf(d.Address) == 0) {
			return fmt.Errorf("%s %s: a rotation closes the port and opens it again, which it can do with HOST:PORT alone; "+
				"hint: name a port there for as long as the rotation takes", d.Setting, d.Address)
		}
	}
	return nil
}

// BeginRotation makes the next certificate of a relay with these settings, to be
// served on the second port, and has the running relay follow.
func BeginRotation(c config.Config, listenOn string) (cert.Rotation, error) {
	if err := checkRotatable(c); err != nil {
		return cert.Rotation{}, err
	}
	if c.RunAs != "" && portOf(listenOn) < 1024 {
		return cert.Rotation{}, errors.New("a relay that has given up root (run_as) cannot open a port below 1024; hint: take a higher one for --port")
	}
	if _, err := cert.LoadPin(c.Cert, c.Key, time.Now()); err != nil {
		return cert.Rotation{}, err
	}
	interfaces, err := InterfaceAddrs()
	if err != nil {
		return cert.Rotation{}, err
	}
	return cert.BeginRotation(c.Cert, c.Key, listenOn, certNames(c, publishedAddrs(c, interfaces)), time.Now())
}
