// Package listen is the front door: it opens a TCP address or a unix socket, or
// takes one from systemd, accepts connections whatever happens, learns from a
// proxy whose they are, and bounds how many of them are still unfinished.
package listen

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
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
	// MaxPending bounds the connections that are not ready yet. 0: DefaultMaxPending.
	MaxPending int
	// Limits bound what one source may bring, and how many connections come at all.
	// Doors may share them. nil: Default… of each source, for this Door alone.
	Limits *Limits
	// Proxies are the networks of proxies that speak the PROXY protocol, version 1
	// or 2: a connection from there must begin with its header, and is its client's
	// from then on. From elsewhere the header is not read.
	Proxies []netip.Prefix
	// ProxyUnix: who connects over a unix socket is such a proxy.
	ProxyUnix bool
	// Mode is that of a unix socket. 0: 0660.
	Mode fs.FileMode
	// Inherited holds the sockets that systemd has passed. nil: none.
	Inherited *Inherited
	// Logger hears of failing accepts and of proxies that send no header. nil:
	// nobody does.
	Logger *slog.Logger
}

// Handler serves one connection until it ends, and closes it. It calls ready
// once the connection has finished its login or belongs to somebody who bounds
// it otherwise; that frees its place among the unfinished. admitted says that it
// is a peer's that may use the relay, which then never counted against its source;
// ready may be called again when that comes out later. ctx is the one given to
// Serve. When it is done, the handler must come to its end.
//
// c is a *net.TCPConn, a *Proxied over one, or another connection, as over a unix
// socket: then its address is no IP address unless a proxy named one.
type Handler func(ctx context.Context, c net.Conn, ready func(admitted bool))

// Door is an open address.
type Door struct {
	listener   net.Listener
	logger     *slog.Logger
	maxPending int64
	proxies    []netip.Prefix
	proxyUnix  bool
	keepAlive  *net.KeepAliveConfig // for each connection; nil: the listener sets it

	resting atomic.Pointer[chan struct{}] // closed when that ends; nil: it does not rest
	rests   atomic.Uint64                 // calls of Rest

	accepted     atomic.Uint64
	refused      [refusals]atomic.Uint64
	acceptErrors atomic.Uint64
	panics       atomic.Uint64
	badProxy     atomic.Uint64
	badHeader    rate.Sometimes
	tellRefused  rate.Sometimes
	pending      atomic.Int64 // raised by the accept loop alone
	open         atomic.Int64
	limits       *Limits
}

// Listen opens addr, which is one of
//
//   - HOST:PORT. An empty host is every address of both families; 0.0.0.0 every
//     one of IPv4 alone, [::] every one of IPv6 alone. Port 0 is a free one.
//   - "unix:" and a path: a socket that the Door removes when it closes. One that a
//     dead process left behind is replaced. Not available on Windows.
//   - "systemd" or "systemd:NAME": a stream socket of Options.Inherited.
//
// The error says what to do next. The Door must be served or closed.
//
// MPTCP is off: the kernel's has no TCP_USER_TIMEOUT.
func Listen(ctx context.Context, addr string, o Options) (*Door, error) {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		l, err := listenUnix(path, o)
		if err != nil {
			return nil, err
		}
		return newDoor(l, o), nil
	}
	if IsInherited(addr) {
		return listenInherited(addr, o)
	}
	config := net.ListenConfig{
		KeepAliveConfig: keepAlive(o.KeepAlive),
		Control: func(_, _ string, c syscall.RawConn) error {
			return setSocketOptions(c, o.UserTimeout)
		},
	}
	config.SetMultipathTCP(false)
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, bindError(addr, o.Flag, err)
	}
	listener, err := config.Listen(ctx, networkOf(host), addr)
	if err != nil {
		return nil, bindError(addr, o.Flag, err)
	}
	return newDoor(listener, o), nil
}

// listenInherited gives a socket of systemd's the options that Listen gives to
// its own, as far as it takes them: MPTCP takes less than TCP.
func listenInherited(addr string, o Options) (*Door, error) {
	l, err := o.Inherited.Listener(addr, o.Flag)
	if err != nil {
		return nil, err
	}
	d := newDoor(l, o)
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return d, nil
	}
	config := keepAlive(o.KeepAlive)
	d.keepAlive = &config
	raw, err := tcp.SyscallConn()
	if err == nil {
		err = setSocketOptions(raw, o.UserTimeout)
	}
	if err != nil {
		d.logger.Warn("a socket of systemd's does not take all options, so that dead clients are found later; "+
			"hint: leave SocketProtocol=mptcp out of the .socket unit", "addr", d.Where(), "err", err)
	}
	return d, nil
}

func newDoor(l net.Listener, o Options) *Door {
	d := &Door{
		listener: l, logger: o.Logger, maxPending: int64(o.MaxPending), proxies: o.Proxies, proxyUnix: o.ProxyUnix,
		limits:    o.Limits,
		badHeader: rate.Sometimes{First: 1, Interval: logEvery}, tellRefused: rate.Sometimes{First: 1, Interval: logEvery},
	}
	if d.logger == nil {
		d.logger = slog.New(slog.DiscardHandler)
	}
	if d.maxPending <= 0 {
		d.maxPending = DefaultMaxPending
	}
	if d.limits == nil {
		d.limits = defaultLimits()
	}
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
func (d *Door) Close() error {
	err := d.listener.Close()
	d.wakeLoop()
	return err
}

// Where returns the bound address as people write it: HOST:PORT, or unix: and a
// path.
func (d *Door) Where() string {
	if a := d.Addr(); a.IsValid() {
		return a.String()
	}
	return unixPrefix + d.listener.Addr().String()
}

// Serve accepts connections and runs handle for each on its own goroutine,
// until ctx is done or the Door is closed. A failing accept never ends it. It
// closes the listener, waits until all handlers have returned, and returns nil.
// It may be called once.
func (d *Door) Serve(ctx context.Context, handle Handler) error {
	stop := context.AfterFunc(ctx, func() { _ = d.listener.Close() }) // fails only when it is closed already
	defer stop()
	var handlers sync.WaitGroup
	defer handlers.Wait()

	fails := failures{logger: d.logger, addr: d.listener.Addr()}
	var slept uint64
	for {
		c, err := d.listener.Accept()
		switch {
		case err == nil:
			fails.over()
			if place, ok := d.enter(c); ok {
				handlers.Go(func() { d.run(ctx, c, handle, place) })
			}
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case d.sleep(ctx, &slept):
		default:
			d.acceptErrors.Add(1)
			if !pause(ctx, fails.note(err)) {
				return nil
			}
		}
	}
}

// enter counts c in, or closes it when too many come or are unfinished, of all or
// of its source.
func (d *Door) enter(c net.Conn) (*stay, bool) {
	place, why := &stay{}, taken
	switch {
	case d.pending.Load() >= d.maxPending:
		why = refusedFull
	case !d.limits.admitRate():
		why = refusedAccept
	case !d.isProxy(c): // a proxy's clients are counted once they are known
		place, why = d.limits.enter(c)
	}
	if why != taken {
		d.refuse(c, why)
		return nil, false
	}
	if tcp, ok := c.(*net.TCPConn); ok && d.keepAlive != nil {
		_ = tcp.SetKeepAliveConfig(*d.keepAlive) // it may be gone already
	}
	d.accepted.Add(1)
	d.pending.Add(1)
	d.open.Add(1)
	return place, true
}

// refuse closes a connection that is one too many.
func (d *Door) refuse(c net.Conn, why refusal) {
	d.refused[why].Add(1)
	if linger, ok := c.(interface{ SetLinger(sec int) error }); ok {
		// A reset tells the client at once, and leaves no TIME_WAIT here.
		_ = linger.SetLinger(0) // if it fails, closing says goodbye properly
	}
	_ = c.Close() // there is nobody to tell
	d.tellRefused.Do(func() {
		d.logger.Warn("connections are refused; hint: see who connects, and let a firewall bound it, or raise the limit "+
			"(login_*_per_source, accept_rate) if they are yours", "reason", why, "addr", c.RemoteAddr(), "refused", d.refusedNow())
	})
}

func (d *Door) refusedNow() (n uint64) {
	for i := range d.refused {
		n += d.refused[i].Load()
	}
	return n
}

func (d *Door) run(ctx context.Context, c net.Conn, handle Handler, place *stay) {
	defer d.open.Add(-1)
	var once sync.Once
	ready := func(admitted bool) {
		once.Do(func() { d.pending.Add(-1) })
		place.leave(admitted)
	}
	defer func() { ready(false) }()
	defer d.survive(c)
	if d.isProxy(c) {
		client, clients, ok := d.welcome(ctx, c)
		if !ok {
			return
		}
		c, place = client, clients
	}
	handle(ctx, c, ready)
}

// welcome learns from a proxy whose connection it is, and counts that source in.
// A connection that it does not take is closed.
func (d *Door) welcome(ctx context.Context, c net.Conn) (client net.Conn, place *stay, ok bool) {
	client, err := unveil(ctx, c)
	if err != nil {
		d.unnamed(ctx, c, err)
		_ = c.Close() // there is nobody to tell
		return nil, nil, false
	}
	place, why := d.limits.enter(client)
	if why != taken {
		d.refuse(client, why)
		return nil, nil, false
	}
	return client, place, true
}

// unnamed counts and tells of a proxy's connection without a good header. One
// that carried no byte is the proxy's check whether the port is open.
func (d *Door) unnamed(ctx context.Context, c net.Conn, err error) {
	if ctx.Err() != nil || errors.Is(err, errNothing) {
		return
	}
	d.badProxy.Add(1)
	d.badHeader.Do(func() {
		d.logger.Warn("a connection from an address in proxy_protocol did not begin with a good PROXY header and was closed; "+
			"hint: let the proxy send one, or take its address out of proxy_protocol",
			"addr", c.RemoteAddr(), "times", d.badProxy.Load(), "err", err)
	})
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
	Accepted    uint64 `json:"accepted"`     // connections given to the handler
	RefusedFull uint64 `json:"refused_full"` // connections closed because too many were unfinished
	// Connections closed because too many of their source were unfinished, because
	// their source made too many, and because all together came faster than accept_rate.
	RefusedPending uint64 `json:"refused_source_pending"`
	RefusedRate    uint64 `json:"refused_source_rate"`
	RefusedAccept  uint64 `json:"refused_accept_rate"`
	AcceptErrors   uint64 `json:"accept_errors"` // failed calls of accept
	Panics         uint64 `json:"panics"`        // connections that met a bug and were closed for it
	BadProxy       uint64 `json:"bad_proxy"`     // connections of proxies without a good PROXY header
	Pending        int64  `json:"pending"`       // connections now that are not ready
	Open           int64  `json:"open"`          // connections now, ready or not
}

// Stats returns the counts. Each is exact; together they are no snapshot.
func (d *Door) Stats() Stats {
	return Stats{
		Accepted:       d.accepted.Load(),
		RefusedFull:    d.refused[refusedFull].Load(),
		RefusedPending: d.refused[refusedPending].Load(),
		RefusedRate:    d.refused[refusedRate].Load(),
		RefusedAccept:  d.refused[refusedAccept].Load(),
		AcceptErrors:   d.acceptErrors.Load(),
		Panics:         d.panics.Load(),
		BadProxy:       d.badProxy.Load(),
		Pending:        d.pending.Load(),
		Open:           d.open.Load(),
	}
}
