package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/listen"
	"github.com/detour-relay/detour/internal/stun"
	"github.com/detour-relay/detour/internal/web"
)

// Inherit takes over the sockets that systemd has passed to this process, for
// Options.Inherited. Only the first call gets any.
func Inherit() *listen.Inherited { return listen.Inherit() }

// entrance is one of the relay's doors.
type entrance struct {
	*listen.Door
	tls     bool
	address string // to listen on again
	options listen.Options
	closed  bool // Guarded by Daemon.doorsMu. A rotation has closed it for a while.
}

// listenRelay binds the relay's own addresses.
func (d *Daemon) listenRelay(ctx context.Context) error {
	also, limits := d.cfg.AlsoEntries(), d.limits(true)
	for i, s := range d.cfg.Doors() {
		o := d.doorOptions("--" + strings.ReplaceAll(s.Setting, "_", "-"))
		o.Limits = limits
		o.Proxies, o.ProxyUnix, o.Mode = s.ProxyProtocol, s.ProxyUnix, s.Mode
		door, err := listen.Listen(ctx, s.Address, o)
		if err != nil {
			return err
		}
		bound := boundAt(s.Address, door)
		d.doors = append(d.doors, &entrance{Door: door, tls: s.TLS, address: bound, options: o})
		if i == 0 {
			d.cfg.Listen = bound
			continue
		}
		_, options, some := strings.Cut(also[i-1], ",")
		if some {
			bound += "," + options
		}
		also[i-1] = bound
	}
	d.cfg.AlsoListen = also
	return nil
}

// doorParts serve the relay's doors.
func (d *Daemon) doorParts() []part {
	var list []part
	for i, e := range d.doors {
		name := "listener"
		if i > 0 {
			name = "listener " + e.Where()
		}
		list = append(list, d.doorPart(name, e))
	}
	return list
}

func (d *Daemon) doorPart(name string, e *entrance) part {
	handle, door := listen.Handler(d.web.ServeConn), e.Door
	if e.tls {
		handle = d.logins.counting(handle)
	} else {
		handle = d.web.ServePlain
	}
	return part{name, func(ctx context.Context) error { return door.Serve(ctx, handle) }}
}

// closeDoors has the ports of TLS refuse connections. Who is connected stays.
func (d *Daemon) closeDoors() {
	d.doorsMu.Lock()
	defer d.doorsMu.Unlock()
	for _, e := range d.doors {
		if e.tls && !e.closed {
			if e.Rest() != nil { // then it has to be bound again
				_ = e.Close() // what is closed already is what is wanted
			}
			e.closed = true
		}
	}
}

// tally counts the peers that came by some ports and were admitted.
type tally struct {
	admitted atomic.Uint64 // so far
	present  atomic.Int64  // now
}

// counting is h with its admitted peers counted.
func (t *tally) counting(h listen.Handler) listen.Handler {
	return func(ctx context.Context, c net.Conn, ready func(admitted bool)) {
		var in atomic.Bool
		defer func() {
			if in.Load() {
				t.present.Add(-1)
			}
		}()
		h(ctx, c, func(admitted bool) {
			if admitted && !in.Swap(true) {
				t.admitted.Add(1)
				t.present.Add(1)
			}
			ready(admitted)
		})
	}
}

// openDoors opens what closeDoors has closed, and returns what serves those that
// had to be bound again.
func (d *Daemon) openDoors(ctx context.Context) (opened []part, err error) {
	var shut []*entrance
	d.doorsMu.Lock()
	for _, e := range d.doors {
		if e.closed {
			shut = append(shut, e)
		}
	}
	d.doorsMu.Unlock()
	for _, e := range shut { // nobody else opens or closes one
		door := e.Door
		again := door.Wake() != nil
		if again {
			if door, err = listen.Listen(ctx, e.address, e.options); err != nil {
				return opened, err
			}
			_ = e.Close() // as it should be already, or cannot be woken
		}
		d.doorsMu.Lock()
		e.Door, e.closed = door, false
		if again {
			opened = append(opened, d.doorPart("listener "+e.Where(), e))
		}
		d.doorsMu.Unlock()
	}
	return opened, nil
}

func (d *Daemon) listenHTTP(ctx context.Context) (err error) {
	if d.cfg.HTTPListen == config.Off {
		return nil
	}
	o := d.doorOptions("--http-listen")
	address, mode := config.AddressAndMode(d.cfg.HTTPListen)
	o.Mode, o.Limits = mode, d.limits(false)
	if d.httpDoor, err = listen.Listen(ctx, address, o); err != nil {
		return err
	}
	d.cfg.HTTPListen = boundAt(address, d.httpDoor)
	options := web.HTTPOptions{Logger: d.log}
	if d.acme != nil {
		options.Before = d.acme.manager.HTTPChallenge
	}
	d.portal = web.NewHTTP(options)
	return nil
}

func (d *Daemon) listenSTUN(context.Context) error {
	if d.cfg.STUNListen == config.Off {
		return nil
	}
	mode := stun.Tailscale
	if d.cfg.STUNMode == config.STUNRFC {
		mode = stun.RFC
	}
	d.stun = stun.New(stun.Options{Mode: mode, Logger: d.log, OneSource: d.tellOfBridge})
	if err := d.listenSTUNAt(&d.cfg.STUNListen, "--stun-listen"); err != nil {
		return err
	}
	also := append([]string(nil), d.cfg.AlsoSTUNListen...)
	for i := range also {
		if err := d.listenSTUNAt(&also[i], "--also-stun-listen"); err != nil {
			return err
		}
	}
	d.cfg.AlsoSTUNListen = also
	return nil
}

// listenSTUNAt opens a STUN address, and puts the port that was bound into it.
func (d *Daemon) listenSTUNAt(address *string, flag string) error {
	before := len(d.stun.Addrs())
	if !config.IsSystemd(*address) {
		if err := d.stun.Listen(*address); err != nil {
			return err
		}
		*address = withPort(*address, d.stun.Addrs()[before])
		return nil
	}
	packets, err := d.inherited.PacketConn(*address, flag)
	if err != nil {
		return err
	}
	if err := d.stun.ListenOn(packets); err != nil {
		_ = packets.Close() // nothing was served
		return err
	}
	*address = everywhere(d.stun.Addrs()[before])
	return nil
}

func (d *Daemon) doorOptions(flag string) listen.Options {
	return listen.Options{
		Flag: flag, KeepAlive: d.cfg.TCPKeepAlive, UserTimeout: d.cfg.TCPUserTimeout, Inherited: d.inherited, Logger: d.log,
	}
}

// limits are those that the relay's doors share, or another door has for itself: the
// rate of all connections is the relay's alone.
func (d *Daemon) limits(relay bool) *listen.Limits {
	o := listen.LimitOptions{Pending: d.cfg.LoginPending, Rate: d.cfg.LoginRate, Burst: d.cfg.LoginBurst}
	o.Exempt, _ = d.cfg.TrustedFrom()
	if relay {
		o.AcceptRate, o.AcceptBurst = float64(d.cfg.AcceptRate), d.cfg.AcceptRate
		if d.cfg.AcceptBurst > 0 {
			o.AcceptBurst = d.cfg.AcceptBurst
		}
	}
	return listen.NewLimits(o)
}

// boundAt is a listen setting with what was really bound.
func boundAt(address string, door *listen.Door) string {
	switch {
	case !config.IsSystemd(address):
		return withPort(address, door.Addr())
	case door.Addr().IsValid():
		return everywhere(door.Addr())
	}
	return door.Where()
}

// everywhere writes the address of a socket of systemd's as a setting. Unless its
// unit says otherwise, one for every IPv6 address is for every IPv4 one too.
func everywhere(bound netip.AddrPort) string {
	if bound.Addr() == netip.IPv6Unspecified() {
		return fmt.Sprintf(":%d", bound.Port())
	}
	return bound.String()
}

// withPort puts the port that was really bound into a listen setting.
func withPort(setting string, bound netip.AddrPort) string {
	host, _, err := net.SplitHostPort(setting)
	if err != nil || config.IsUnix(setting) {
		return setting
	}
	return net.JoinHostPort(host, fmt.Sprint(bound.Port()))
}
