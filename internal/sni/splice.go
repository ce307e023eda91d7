package sni

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
)

// forward joins client with the target of a route until both directions have
// ended, one has failed, or ctx is done.
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
	end := sync.OnceFunc(func() {
		_ = client.Close() // there is nobody to tell
		_ = target.Close()
	})
	defer end()
	defer context.AfterFunc(ctx, end)()
	r.toTargets.Add(uint64(len(ahead)))
	var up sync.WaitGroup
	up.Go(func() {
		n, err := pass(target, client)
		r.toTargets.Add(uint64(n))
		if err != nil {
			end()
		}
	})
	n, err := pass(client, target)
	r.toClients.Add(uint64(n))
	if err != nil {
		end()
	}
	up.Wait()
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

// pass copies until from ends, and tells to. Between two TCP connections the
// kernel moves the bytes.
func pass(to, from net.Conn) (int64, error) {
	n, err := io.Copy(to, from)
	if err != nil {
		return n, err
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		return n, half.CloseWrite()
	}
	return n, to.Close()
}
