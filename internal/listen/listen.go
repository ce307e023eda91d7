// Package listen is the front door: it binds a TCP address, accepts connections
// whatever happens, and bounds how many of them are still unfinished.
package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// DefaultMaxPending is how many connections may be unfinished at once when
// Options.MaxPending is zero.
const DefaultMaxPending = 4096

// systemDefault leaves a setting of net.KeepAliveConfig as the system has it.
const systemDefault = -1

// Options are the settings of a Door. All of them may be left zero.
type Options struct {
	// Flag names the setting that holds the address, such as "--listen", for
	// the hint of an error. Empty: the hint speaks of the listen address.
	Flag string
	// KeepAlive is how long a connection is silent before TCP keepalive probes
	// it, in whole seconds. 0: as the system has it.
	KeepAlive time.Duration
	// UserTimeout is TCP_USER_TIMEOUT: how long sent data may stay without an
	// acknowledgement before the kernel gives the connection up, in whole
	// milliseconds. Linux only, ignored elsewhere. 0: as the system has it.
	UserTimeout time.Duration
	// Exempt are the networks that no share of MaxPending bounds: of proxies, behind
	// each of which are many clients.
	Exempt []netip.Prefix
	// MaxPending bounds the connections that are not ready yet; one source, an IPv4
	// address or IPv6 /64 that is not loopback, may have a sixteenth of them.
	// 0: DefaultMaxPending.
	MaxPending int
	// Logger hears of failing accepts. nil: nobody does.
	Logger *slog.Logger
}

// Handler serves one connection until it ends, and closes it. It calls ready
// once the connection has finished its login or belongs to somebody who bounds
// it otherwise; that frees its place among the unfinished. ctx is the one given
// to Serve. When it is done, the handler must come to its end.
type Handler func(ctx context.Context, c net.Conn, ready func())

// Door is a bound TCP address.
type Door struct {
	listener   net.Listener
	logger     *slog.Logger
	maxPending int64

	accepted     atomic.Uint64
	refusedFull  atomic.Uint64
	acceptErrors atomic.Uint64
	panics       atomic.Uint64
	pending      atomic.Int64 // raised by the accept loop alone
	open         atomic.Int64
	sources      sources
}

// Listen binds addr, "HOST:PORT" with an empty host for all addresses of both
// families. The error says what to do next. The Door must be served or closed.
//
// MPTCP is off: the kernel's has no TCP_USER_TIMEOUT.
func Listen(ctx context.Context, addr string, o Options) (*Door, error) {
	config := net.ListenConfig{
		KeepAliveConfig: keepAlive(o.KeepAlive),
		Control: func(_, _ string, c syscall.RawConn) error {
			return setSocketOptions(c, o.UserTimeout)
		},
	}
	config.SetMultipathTCP(false)
	listener, err := config.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, bindError(addr, o.Flag, err)
	}
	return newDoor(listener, o), nil
}

func newDoor(l net.Listener, o Options) *Door {
	d := &Door{listener: l, logger: o.Logger, maxPending: int64(o.MaxPending)}
	if d.logger == nil {
		d.logger = slog.New(slog.DiscardHandler)
	}
	if d.maxPending <= 0 {
		d.maxPending = DefaultMaxPending
	}
	d.sources.limit = max(1, d.maxPending/shareOfPending)
	d.sources.exempt = o.Exempt
	return d
}

// keepAlive keeps the system's count and interval of probes, which operators
// set with sysctl, unless there is a reason not to: after a long silence of our
// choosing, Go's 15 s between probes finds a dead peer sooner.
func keepAlive(idle time.Duration) net.KeepAliveConfig {
	if idle <= 0 {
		return net.KeepAliveConfig{Enable: true, Idle: systemDefault, Interval: systemDefault, Count: systemDefault}
	}
	return net.KeepAliveConfig{Enable: true, Idle: idle}
}

// bindError says what to do about an address that cannot be had.
func bindError(addr, flag string, err error) error {
	setting := flag
	if setting == "" {
		setting = "the listen address"
	}
	var hint string
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "another program has this port: stop it, or choose another port with " + setting
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		hint = "ports below 1024 need privilege: run as root, give the binary the right with " +
			"setcap cap_net_bind_service=+ep, or choose another port with " + setting
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = "no interface has this address: leave the host out to listen on all, or correct " + setting
	default:
		hint = "write " + setting + " as HOST:PORT, such as :443 or 192.0.2.1:443"
	}
	// The operation and address of a net.OpError only repeat what is said here.
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	return fmt.Errorf("cannot listen on %q: %w; hint: %s", addr, err, hint)
}

// Addr returns the bound address, with the port that the system chose when 0
// was asked for. An IPv4 address is never in its IPv6 form.
func (d *Door) Addr() netip.AddrPort {
	tcp, ok := d.listener.Addr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	bound := tcp.AddrPort()
	return netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())
}

// Close gives the address up; Serve accepts no more and returns once its
// handlers have. A Door that is served until its context ends needs no Close.
func (d *Door) Close() error { return d.listener.Close() }

// Serve accepts connections and runs handle for each on its own goroutine,
// until ctx is done or the Door is closed. A failing accept never ends it. It
// closes the listener, waits until all handlers have returned, and returns nil.
// It may be called once.
func (d *Door) Serve(ctx context.Context, handle Handler) error {
	stop := context.AfterFunc(ctx, func() { _ = d.listener.Close() }) // fails only when it is closed already
	defer stop()
	var handlers sync.WaitGroup
	defer handlers.Wait()

	fails := failures{logger: d.logger, addr: d.Addr()}
	full := rate.Sometimes{First: 1, Interval: logEvery}
	for {
		c, err := d.listener.Accept()
		switch {
		case err == nil:
			fails.over()
			if leave, ok := d.enter(c); ok {
				handlers.Go(func() { d.run(ctx, c, handle, leave) })
			} else {
				full.Do(func() {
					d.logger.Warn("too many unfinished connections: some are refused; hint: see who connects, and let a firewall bound it",
						"addr", c.RemoteAddr(), "refused", d.refusedFull.Load())
				})
			}
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		default:
			d.acceptErrors.Add(1)
			if !pause(ctx, fails.note(err)) {
				return nil
			}
		}
	}
}

// enter counts c in, or closes it when too many are unfinished, of all or of its
// source.
func (d *Door) enter(c net.Conn) (leave func(), ok bool) {
	if d.pending.Load() < d.maxPending {
		leave, ok = d.sources.enter(c)
	}
	if !ok {
		d.refusedFull.Add(1)
		if tcp, ok := c.(*net.TCPConn); ok {
			// A reset tells the client at once, and leaves no TIME_WAIT here.
			_ = tcp.SetLinger(0) // if it fails, closing says goodbye properly
		}
		_ = c.Close() // there is nobody to tell
		return nil, false
	}
	d.accepted.Add(1)
	d.pending.Add(1)
	d.open.Add(1)
	return leave, true
}

func (d *Door) run(ctx context.Context, c net.Conn, handle Handler, leave func()) {
	defer d.open.Add(-1)
	ready := sync.OnceFunc(func() { d.pending.Add(-1); leave() })
	defer ready()
	defer d.survive(c)
	handle(ctx, c, ready)
}

// survive keeps a bug that one client has found from ending the relay for all:
// that client's connection is closed and the bug is reported.
func (d *Door) survive(c net.Conn) {
	cause := recover()
	if cause == nil {
		return
	}
	d.panics.Add(1)
	_ = c.Close() // it may be closed already
	d.logger.Error("a connection met a bug in Detour and was closed; please report this",
		"addr", c.RemoteAddr(), "err", cause, "stack", string(debug.Stack()))
}

// Stats are a Door's counts since it was made, and what is there now.
type Stats struct {
	Accepted     uint64 `json:"accepted"`      // connections given to the handler
	RefusedFull  uint64 `json:"refused_full"`  // connections closed because too many were unfinished
	AcceptErrors uint64 `json:"accept_errors"` // failed calls of accept
	Panics       uint64 `json:"panics"`        // connections that met a bug and were closed for it
	Pending      int64  `json:"pending"`       // connections now that are not ready
	Open         int64  `json:"open"`          // connections now, ready or not
}

// Stats returns the counts. Each is exact; together they are no snapshot.
func (d *Door) Stats() Stats {
	return Stats{
		Accepted:     d.accepted.Load(),
		RefusedFull:  d.refusedFull.Load(),
		AcceptErrors: d.acceptErrors.Load(),
		Panics:       d.panics.Load(),
		Pending:      d.pending.Load(),
		Open:         d.open.Load(),
	}
}
