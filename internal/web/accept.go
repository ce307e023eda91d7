package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/detour-relay/detour/internal/link"
	"github.com/detour-relay/detour/internal/relay"
)

// ServeConn serves one accepted connection until it ends, and closes it. It
// calls ready when the login is done, or when the connection goes to net/http,
// which bounds it from there; and again after a login that came by way of that.
// ready is told whether the peer was admitted. When ctx is done ServeConn ends at
// once, or with the relay once that has it.
func (s *Server) ServeConn(ctx context.Context, raw net.Conn, ready func(admitted bool)) {
	s.serveConn(ctx, raw, s.tls, ready)
}

// ServePlain is ServeConn for a connection whose TLS, if any, a proxy has ended.
func (s *Server) ServePlain(ctx context.Context, raw net.Conn, ready func(admitted bool)) {
	s.serveConn(ctx, raw, nil, ready)
}

func (s *Server) serveConn(ctx context.Context, raw net.Conn, cfg *tls.Config, ready func(admitted bool)) {
	until := time.Now().Add(greetLimit)
	var ahead []byte
	if s.router != nil && cfg != nil { // the name is in the ClientHello
		var forward func(context.Context, func())
		if ahead, forward = s.look(ctx, raw, until); forward != nil {
			defer func() { _ = raw.Close() }() // there is nobody to tell
			forward(ctx, func() { ready(false) })
			return
		}
	}
	c := link.AcceptAhead(raw, cfg, ahead)
	defer func() { _ = c.Close() }() // there is nobody to tell
	var up upgrade
	var err error
	relay.Apart(func() { up, err = s.greet(ctx, raw, c, until) })
	if err != nil {
		c.Doom() // no farewell: it would wait for a peer that does not read
		s.debug(raw, err)
		return
	}
	if up.kind == rawDERP {
		s.serveRaw(ctx, c, up, ready)
		return
	}
	ready(false)
	s.counts.httpConns.Add(1)
	s.http.lend(ctx, c, func(h *handed, t takeover) {
		loggedIn := func(admitted bool) {
			h.leave()
			ready(admitted)
		}
		if t.webSocket != nil {
			s.serveWebSocket(ctx, h, t, loggedIn)
			return
		}
		s.serveRaw(ctx, c, t.upgrade, loggedIn)
	})
}

// look asks the router about a connection. An error is not told: TLS meets it
// again.
func (s *Server) look(ctx context.Context, raw net.Conn, until time.Time) (ahead []byte, forward func(context.Context, func())) {
	_ = raw.SetDeadline(until)
	release := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(longAgo) })
	defer release()
	relay.Apart(func() { ahead, forward = s.router.Look(raw) })
	return ahead, forward
}

// greet takes c through TLS and finds out what its first request is. A request
// other than a raw upgrade is there to be read again; a raw upgrade is used up.
func (s *Server) greet(ctx context.Context, raw net.Conn, c *link.Conn, until time.Time) (upgrade, error) {
	if err := c.SetDeadline(until); err != nil {
		return upgrade{}, fmt.Errorf("set a deadline: %w", err)
	}
	release := context.AfterFunc(ctx, c.Doom)
	up, err := s.meet(ctx, raw, c)
	if !release() {
		return upgrade{}, fmt.Errorf("greet a client: %w", context.Cause(ctx))
	}
	if err != nil {
		return upgrade{}, err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return upgrade{}, fmt.Errorf("clear the deadline: %w", err)
	}
	return up, nil
}

func (s *Server) meet(ctx context.Context, raw net.Conn, c *link.Conn) (upgrade, error) {
	// The end of ctx dooms c already. A context that can end would cost a
	// goroutine for each handshake.
	if err := c.Handshake(context.WithoutCancel(ctx)); err != nil {
		if ctx.Err() == nil {
			s.handshakeFailed(raw, err)
		}
		return upgrade{}, fmt.Errorf("tls handshake: %w", err)
	}
	if state, ok := c.TLS(); ok {
		s.countVersion(state.Version)
	}
	up, err := s.firstRequest(c)
	if err != nil && ctx.Err() == nil {
		s.counts.noRequest.Add(1)
	}
	return up, err
}

func (s *Server) countVersion(v uint16) {
	switch v {
	case tls.VersionTLS12:
		s.counts.tls12.Add(1)
	case tls.VersionTLS13:
		s.counts.tls13.Add(1)
	}
}

// firstRequest reads the header of the first request. What is not used is put
// back.
func (s *Server) firstRequest(c *link.Conn) (upgrade, error) {
	h := s.heads.Get().(*head)
	defer s.heads.Put(h)
	n, end, err := readHead(c, h.buf[:])
	if err != nil {
		return upgrade{}, fmt.Errorf("read the first request: %w", err)
	}
	up := h.parse(h.buf[:end])
	if up.kind != rawDERP {
		end = 0
	}
	c.Unread(h.buf[end:n])
	return up, nil
}

// readHead reads until buf[:end] is a whole header or buf is full: then end is
// 0. buf[:n] is all that was read.
func readHead(r io.Reader, buf []byte) (n, end int, err error) {
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		// The last bytes seen before may be the first of the end.
		from := max(n-len("\r\n\r"), 0)
		n += m
		if at := headEnd(buf[from:n]); at > 0 {
			return n, from + at, nil
		}
		if err != nil {
			return n, 0, err
		}
	}
	return n, 0, nil
}

// headEnd returns the length of b up to and with the empty line that ends a
// header, or 0. Like net/http it lets a line end without the carriage return.
func headEnd(b []byte) int {
	for i := 0; ; i++ {
		next := bytes.IndexByte(b[i:], '\n')
		if next < 0 {
			return 0
		}
		i += next
		switch rest := b[i+1:]; {
		case bytes.HasPrefix(rest, []byte("\n")):
			return i + len("\n\n")
		case bytes.HasPrefix(rest, []byte("\r\n")):
			return i + len("\n\r\n")
		}
	}
}

// serveRaw gives c to the relay, which calls loggedIn. The response is only sealed here, so that the relay's greeting leaves in the same
// write.
func (s *Server) serveRaw(ctx context.Context, c *link.Conn, up upgrade, loggedIn func(admitted bool)) {
	if up.fastStart {
		s.counts.fastStart.Add(1)
	} else {
		s.counts.raw.Add(1)
		if err := c.Seal(s.switching); err != nil {
			s.debug(c, fmt.Errorf("answer the upgrade: %w", err))
			return
		}
	}
	addr := s.proxies.client(c, up.via)
	err := s.relay.ServeConn(ctx, relay.Conn{
		Link:     c,
		Addr:     addr,
		NotIdeal: up.notIdeal,
		LoggedIn: loggedIn,
	})
	s.ended(addr, err)
}

// debug logs why a connection ended that has not said who its client is.
func (s *Server) debug(c net.Conn, err error) { s.ended(remoteAddr(c), err) }

// ended logs why a client's connection ended. What strangers do is not for the
// operator.
func (s *Server) ended(addr netip.AddrPort, err error) {
	if err != nil && s.logger.Enabled(context.Background(), slog.LevelDebug) {
		s.logger.Debug("connection ended", "addr", addr, "err", err)
	}
}

// remoteAddr returns the client's address, an IPv4 one never in its IPv6 form,
// or the zero value when c has none.
func remoteAddr(c net.Conn) netip.AddrPort {
	var addr netip.AddrPort
	switch a := c.RemoteAddr().(type) {
	case *net.TCPAddr:
		addr = a.AddrPort()
	case nil:
	default:
		addr, _ = netip.ParseAddrPort(a.String()) // not an address: unknown
	}
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}
