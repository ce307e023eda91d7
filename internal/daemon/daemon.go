// Package daemon is one running relay, built from one checked config: it plugs
// the parts into each other, starts them in order and stops them together.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/admit"
	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/listen"
	"github.com/detour-relay/detour/internal/mapkeep"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/sni"
	"github.com/detour-relay/detour/internal/stun"
	"github.com/detour-relay/detour/internal/web"
)

// stopLimit is how long parts may take to end once the relay is told to stop.
const stopLimit = 8 * time.Second

// Options are what a Daemon needs besides its config.
type Options struct {
	Version string
	Logger  *slog.Logger // required
	// Derper: it runs under derper's command line. The operator is told other
	// commands, and an admin listener that cannot be had is left out: derper has none.
	Derper bool
	// Inherited holds the sockets that systemd has passed; nil: none. New closes it.
	Inherited *listen.Inherited
	// Load reads the settings again, for those that a reload takes; nil: none does.
	Load func() (config.Config, error)
	// InterfaceAddrs lists the host's addresses; nil: InterfaceAddrs.
	InterfaceAddrs func() ([]netip.Addr, error)
}

// Daemon is one relay. Parts that the config turns off are nil.
type Daemon struct {
	cfg     config.Config
	version string
	derper  bool
	log     *slog.Logger
	started time.Time
	id      identity

	relay  *relay.Server
	gate   *admit.Gate
	book   *admit.Book // nil: nobody asks the operator
	source *cert.Source
	watch  *cert.Watcher // nil: the certificate is not read again
	web    *web.Server
	// webOptions are those of web, for a further port with another certificate.
	webOptions web.Options
	router     *sni.Router
	portal     *web.CaptivePortal
	stun       *stun.Server
	admin      *admin.Server
	acme       *authority // with cert_mode acme

	doors         []*entrance                    // the main one first
	logins        tally                          // at the ports of TLS, apart from a rotation's second one
	doorsMu       sync.Mutex                     // a rotation changes the doors in it
	second        atomic.Pointer[openSecondPort] // of a rotation; nil: there is none
	rotationStuck atomic.Pointer[error]          // why a rotation does not go on; nil or nil within: it does
	httpDoor      *listen.Door
	rotationPhase atomic.Pointer[cert.Phase] // that the ports are in; nil: none
	adminListener net.Listener

	follower   *mapkeep.Follower
	interfaces func() ([]netip.Addr, error)
	atStart    []netip.Addr // of the interfaces

	keeper    *mapkeep.Keeper
	mapGate   *mapkeep.Gate
	mapServer *mapkeep.Server               // nil: off
	mapConfig atomic.Pointer[config.Config] // for the settings that a reload takes
	mapTold   atomic.Int64                  // when the token could last not be read, in Unix nanoseconds
	load      func() (config.Config, error)
	loaded    config.Config // as it came, before ports were bound

	inherited *listen.Inherited // while listeners are opened
}

// New reads or makes the relay's state and binds its listeners. The caller runs
// it, or closes it. Errors say what the operator can do.
func New(ctx context.Context, cfg config.Config, o Options) (*Daemon, error) {
	d := &Daemon{cfg: cfg, version: o.Version, derper: o.Derper, log: o.Logger, started: time.Now(), inherited: o.Inherited, load: o.Load, loaded: cfg}
	if o.InterfaceAddrs == nil {
		o.InterfaceAddrs = InterfaceAddrs
	}
	var err error
	if d.atStart, err = o.InterfaceAddrs(); err != nil {
		return nil, err
	}
	d.interfaces = o.InterfaceAddrs
	d.prepareFollower(ctx)
	d.id.addrs = d.addresses()
	if err := d.build(ctx); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// build takes the steps of New in order. What is bound when one fails is left
// to Close.
func (d *Daemon) build(ctx context.Context) error {
	if err := os.MkdirAll(d.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w; hint: name one that this user may write to with --state-dir", err)
	}
	// The admin socket comes first: it tells when another relay has this state.
	// Whatever can fail to bind comes before what is made to stay.
	for _, bind := range []func(context.Context) error{d.listenAdmin, d.prepareACME, d.listenRelay, d.listenHTTP, d.listenSTUN, d.prepareKeeper} {
		if err := bind(ctx); err != nil {
			return err
		}
	}
	if left := d.inherited.Close(); len(left) > 0 {
		d.log.Warn("systemd has passed sockets that no setting names; hint: write systemd:NAME where they belong, or take them out of the .socket unit",
			"names", strings.Join(left, " "))
	}
	private, created, err := loadOrCreateServerKey(d.cfg.ServerKey)
	if err != nil {
		return err
	}
	d.id.serverKey = private.Public()
	if created {
		d.log.Info("made a server key", "file", d.cfg.ServerKey)
	}
	mesh, err := loadMeshKey(d.cfg.MeshKeyFile)
	if err != nil {
		return err
	}
	if d.gate, err = d.newGate(); err != nil {
		return err
	}
	d.relay = relay.New(relay.Options{
		Key: private, MeshKey: mesh, Admit: doorkeeper{d.gate}, WriteTimeout: d.cfg.WriteTimeout, Logger: d.log,
	})
	if len(d.doors) == 0 {
		return nil
	}
	tlsConfig, err := d.certificate()
	if err != nil {
		return err
	}
	return d.buildWeb(tlsConfig)
}

func (d *Daemon) listenAdmin(context.Context) (err error) {
	if d.cfg.AdminListen == config.Off {
		return nil
	}
	d.adminListener, err = d.adminSocket()
	if err != nil && d.derper {
		d.log.Warn("running without the admin listener, so detour healthcheck has nobody to ask", "err", err)
		d.adminListener, d.cfg.AdminListen = nil, config.Off
		return nil
	}
	if err != nil {
		return err
	}
	token, err := d.adminToken()
	if err != nil {
		return err
	}
	d.admin = admin.New(admin.Options{
		Listener: d.adminListener, Map: http.HandlerFunc(d.serveMap), Health: d.Health, Stats: func() any { return d.Stats() }, Control: control{d}, Token: token, Logger: d.log,
	})
	return nil
}

// adminSocket opens the admin listener, or takes it from systemd. The admin API
// asks for no password, so of TCP only this machine's own addresses will do.
func (d *Daemon) adminSocket() (net.Listener, error) {
	if !config.IsSystemd(d.cfg.AdminListen) {
		return admin.Listen(d.cfg.AdminListen)
	}
	l, err := d.inherited.Listener(d.cfg.AdminListen, "--admin-listen")
	if err != nil {
		return nil, err
	}
	switch addr := l.Addr().(type) {
	case *net.TCPAddr:
		if !addr.IP.IsLoopback() {
			_ = l.Close() // nothing was served
			return nil, fmt.Errorf("--admin-listen %s: the socket %s can be reached from outside, and the admin API asks for no password; "+
				"hint: let ListenStream= name 127.0.0.1 or a path", d.cfg.AdminListen, addr)
		}
		d.cfg.AdminListen = addr.String()
	default:
		d.cfg.AdminListen = "unix:" + addr.String()
	}
	return l, nil
}

// Close releases the listeners of a daemon that is not run.
func (d *Daemon) Close() {
	for _, c := range []io.Closer{closer(d.adminListener), closer(d.httpDoor), closer(d.stun), closer(d.book), closer(d.mapServer)} {
		if c != nil {
			c.Close() // nothing was served: there is nothing to lose
		}
	}
	for _, e := range d.doors {
		_ = e.Close() // the same
	}
	d.inherited.Close()
}

// closer is c, or nil when the part behind it is off.
func closer[T interface {
	comparable
	io.Closer
}](c T) io.Closer {
	var none T
	if c == none {
		return nil
	}
	return c
}

// Map makes the DERP map of the running relay, and what to warn of with it.
func (d *Daemon) Map(forOldClients bool) (derpmap.Map, []string, error) {
	id := d.identity()
	m, err := mapOf(d.cfg, id, forOldClients)
	return m, mapWarnings(d.cfg, id, forOldClients), err
}

// Config returns the settings with the ports that were really bound.
func (d *Daemon) Config() config.Config { return d.cfg }

// ServerKey returns the relay's public key.
func (d *Daemon) ServerKey() key.Public { return d.id.serverKey }

// Run serves until ctx ends or a part fails, and then stops all parts. It
// returns nil when ctx ended it; parts that have not ended within stopLimit are
// left behind with a log line.
func (d *Daemon) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	parts := d.parts()
	ended := make(chan error, len(parts))
	for _, p := range parts {
		go func() {
			err := p.serve(ctx)
			if err != nil {
				err = fmt.Errorf("%s failed: %w", p.name, err)
				cancel(err)
			}
			ended <- err
		}()
	}
	<-ctx.Done()
	var failed error
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	for left := len(parts); left > 0; left-- {
		select {
		case err := <-ended:
			failed = errors.Join(failed, err)
		case <-limit.C:
			d.log.Warn("some connections did not end in time and are left behind", "parts", left)
			return failed
		}
	}
	return failed
}

type part struct {
	name  string
	serve func(context.Context) error
}

// parts lists what runs, given the config.
func (d *Daemon) parts() []part {
	list := []part{{"relay", d.relay.Serve}, {"admission", d.serveAdmission}, {"memory", d.returnMemory}}
	if len(d.doors) > 0 {
		list = append(list, d.certParts()...)
		list = append(append(list, part{"web", d.web.Serve}), d.doorParts()...)
		if d.rotating() {
			list = append(list, part{"certificate rotation", (&rotation{d: d}).serve})
		}
	}
	if d.httpDoor != nil {
		list = append(list, part{"plain HTTP", d.portal.Serve}, part{"plain HTTP listener", func(ctx context.Context) error {
			return d.httpDoor.Serve(ctx, d.portal.ServeConn)
		}})
	}
	if d.stun != nil {
		list = append(list, part{"STUN", d.stun.Serve})
	}
	if d.admin != nil {
		list = append(list, part{"admin", d.admin.Serve})
	}
	list = append(list, part{"DERP map", d.keeper.Serve}, part{"public address", d.follower.Serve})
	if d.mapServer != nil {
		list = append(list, part{"DERP map listener", d.mapServer.Serve})
	}
	if d.acme != nil {
		list = append(list, part{"ACME", d.acme.manager.Run}, part{"certificate", d.acme.settle})
	}
	return list
}
