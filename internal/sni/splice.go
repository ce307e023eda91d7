package sni

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// forward dials the target of a route and joins client with it.
func (r *Router) forward(ctx context.Context, client net.Conn, ahead []byte, route *Route, ready func()) {
	target, err := r.reach(ctx, client, ahead, route)
	if err != nil {
		r.failed.Add(1)
		if ctx.Err() == nil {
			r.failing.Do(func() {
				r.logger.Warn("a connection cannot be handed on to where sni_route sends it", "name", route.Name, "target", route.Addr,
					"failed", r.failed.Load(), "err", err, "hint", "start what listens there, or correct sni_route")
			})
		}
		return
	}
	ready()
	r.toTargets.Add(uint64(len(ahead)))
	r.join(ctx, client, target)
}

// reach dials the target and gives it what the client has sent. A client has no
// deadline afterwards.
func (r *Router) reach(ctx context.Context, client net.Conn, ahead []byte, route *Route) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialLimit}
	target, err := dialer.DialContext(ctx, route.Network, route.Addr)
	if err != nil {
		return nil, err
	}
	first := ahead
	if route.ProxyV2 {
		header, err := proxyHeader(client).Format()
		if err != nil {
			_ = target.Close()
			return nil, fmt.Errorf("make a PROXY header: %w", err)
		}
		first = append(header, ahead...)
	}
	err = target.SetWriteDeadline(time.Now().Add(dialLimit))
	if err == nil {
		_, err = target.Write(first)
	}
	if err == nil {
		err = target.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		err = client.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = target.Close()
		return nil, err
	}
	return target, nil
}

// proxyHeader says where client comes from and which address it has dialled, in
// version 2, or that this is unknown.
func proxyHeader(client net.Conn) *proxyproto.Header {
	from, to := tcpAddr(client.RemoteAddr()), tcpAddr(client.LocalAddr())
	if !from.IsValid() || !to.IsValid() {
		return &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	}
	h := &proxyproto.Header{
		Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv4,
		SourceAddr: net.TCPAddrFromAddrPort(from), DestinationAddr: net.TCPAddrFromAddrPort(to),
	}
	if from.Addr().Is6() || to.Addr().Is6() {
		h.TransportProtocol = proxyproto.TCPv6
	}
	return h
}

func tcpAddr(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	addr := tcp.AddrPort()
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}
