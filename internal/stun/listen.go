package stun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// samePortTries is how often Listen asks the kernel for a free port until it is free for both families.
const samePortTries = 10

// bindFunc opens a socket; network is udp4 or udp6, and udp6 takes no IPv4.
type bindFunc func(network string, at netip.AddrPort) (socket, error)

// Listen opens the sockets for addr, "host:port" with host an IP address or empty. An empty host means every address of
// both families: one IPv4 and one IPv6 socket, so that an IPv4 client is seen with its IPv4 address, or on a host without
// IPv6 the first alone. "0.0.0.0" means every IPv4 address, "::" every IPv6 address; any other host is one socket. Port 0
// is a free port, the same for both families.
//
// Listen may be called more than once before Serve. After an error the sockets of earlier calls are still open: call
// Close. The error ends in what the operator can do.
func (s *Server) Listen(addr string) error {
	at, both, err := parseListenAddr(addr)
	if err != nil {
		return err
	}
	if both {
		return s.listenBoth(at.Port())
	}
	sock, err := s.bind(networkOf(at.Addr()), at)
	if err != nil {
		return listenError(at, err)
	}
	s.sockets = append(s.sockets, sock)
	return nil
}

// listenBoth opens the sockets of both families on one port.
func (s *Server) listenBoth(port uint16) error {
	at4 := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	var err error
	for range samePortTries {
		var sock4, sock6 socket
		if sock4, err = s.bind("udp4", at4); err != nil {
			return listenError(at4, err)
		}
		at6 := netip.AddrPortFrom(netip.IPv6Unspecified(), sock4.addr().Port())
		if sock6, err = s.bind("udp6", at6); err == nil {
			s.sockets = append(s.sockets, sock4, sock6)
			return nil
		}
		if isNoFamily(err) {
			s.logger.Info("stun: this host has no IPv6; answering over IPv4 only", "addr", sock4.addr(), "err", err)
			s.sockets = append(s.sockets, sock4)
			return nil
		}
		closeErr := sock4.Close()
		err = errors.Join(listenError(at6, err), closeErr)
		if port != 0 {
			break
		}
	}
	return err
}

// parseListenAddr reads the argument of Listen; both says that it means every address of both families.
func parseListenAddr(addr string) (at netip.AddrPort, both bool, err error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, false, fmt.Errorf("stun: listen address %q: %w; hint: write :3478 or 192.0.2.1:3478", addr, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return netip.AddrPort{}, false, fmt.Errorf("stun: listen address %q: bad port %q; hint: use a number from 0 to 65535, usually 3478",
			addr, portText)
	}
	ip := netip.IPv6Unspecified()
	if host != "" {
		if ip, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, false, fmt.Errorf("stun: listen address %q: %q is not an IP address; hint: use an address of this "+
				"host, or :%d for all of them", addr, host, port)
		}
	}
	ip = ip.Unmap()
	return netip.AddrPortFrom(ip, uint16(port)), host == "", nil
}

func networkOf(ip netip.Addr) string {
	if ip.Is4() {
		return "udp4"
	}
	return "udp6"
}

// listenError adds what the operator can do to a failed bind.
func listenError(at netip.AddrPort, err error) error {
	hint := "choose another address with --stun-listen, or turn STUN off with --stun-listen off"
	switch {
	case errors.Is(err, errAddrInUse):
		hint = "another program has this UDP port; stop it, or choose another port with --stun-listen"
	case errors.Is(err, errAccess) && at.Port() < 1024:
		hint = "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher port with --stun-listen"
	case errors.Is(err, errAddrNotAvail):
		hint = fmt.Sprintf("this host does not have the address; choose one it has, or :%d for all of them, with --stun-listen", at.Port())
	}
	return fmt.Errorf("stun: %w; hint: %s", err, hint)
}

// isNoFamily reports whether a bind failed because the host lacks the address family, be it left out of the kernel or
// switched off.
func isNoFamily(err error) bool {
	return errors.Is(err, errNoFamily) || errors.Is(err, errNoProtocol) || errors.Is(err, errAddrNotAvail)
}

// udpSocket is a socket of the operating system.
type udpSocket struct {
	conn  *net.UDPConn
	local netip.AddrPort

	// Owned by the loop that receives and replies.
	asked askedAddr
}

// ListenOn takes a socket that others have opened, to answer on it as on those of Listen.
func (s *Server) ListenOn(packets net.PacketConn) error {
	conn, ok := packets.(*net.UDPConn)
	if !ok {
		return fmt.Errorf("stun: a %T is no UDP socket; hint: pass one of ListenDatagram= with a port number", packets)
	}
	bound, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return fmt.Errorf("stun: read the address of a passed socket: %w; hint: pass one of ListenDatagram= with a port number", err)
	}
	if bound.Addr().IsUnspecified() {
		raw, err := conn.SyscallConn()
		if err == nil {
			err = controlSocket(networkOf(bound.Addr()), "", raw)
		}
		if err != nil {
			return fmt.Errorf("stun: prepare a passed socket: %w; hint: report this", err)
		}
	}
	s.sockets = append(s.sockets, &udpSocket{conn: conn, local: bound})
	return nil
}

// bindUDP is the bindFunc outside of tests.
func bindUDP(network string, at netip.AddrPort) (socket, error) {
	var config net.ListenConfig
	if at.Addr().IsUnspecified() { // a socket with one address has no choice of sources
		config.Control = controlSocket
	}
	packets, err := config.ListenPacket(context.Background(), network, at.String())
	if err != nil {
		return nil, err
	}
	conn, ok := packets.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen %s %s: got a %T", network, at, packets), packets.Close())
	}
	bound, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen %s %s: read bound address: %w", network, at, err), conn.Close())
	}
	return &udpSocket{conn: conn, local: bound}, nil
}

func (u *udpSocket) addr() netip.AddrPort { return u.local }

func (u *udpSocket) Close() error { return u.conn.Close() }
