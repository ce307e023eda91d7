package stun

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// askedAddr remembers to which of the host's addresses the last datagram was sent. A reply from another one, which the
// kernel may prefer for the route back, would be dropped by the client's NAT.
type askedAddr struct {
	// received holds the control messages of a datagram. Only packet information is asked for, at most 40 bytes. It is the
	// first field, and so aligned to a word, as the headers in it must be.
	received [64]byte
	// control is the part of received, patched in place, that makes the reply leave from the address asked; empty when
	// the kernel did not say it.
	control []byte
}

// controlSocket asks the kernel for the packet information of each datagram.
func controlSocket(network, _ string, raw syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if network == "udp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	var optionErr error
	err := raw.Control(func(fd uintptr) {
		optionErr = unix.SetsockoptInt(int(fd), level, option, 1)
	})
	if err != nil {
		return err
	}
	return optionErr
}

func (u *udpSocket) receive(buf []byte) (int, netip.AddrPort, error) {
	if !u.local.Addr().IsUnspecified() {
		return u.conn.ReadFromUDPAddrPort(buf)
	}
	n, controlLen, _, from, err := u.conn.ReadMsgUDPAddrPort(buf, u.asked.received[:])
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	u.asked.control = replyControl(u.asked.received[:controlLen])
	return n, from, nil
}

func (u *udpSocket) reply(b []byte, to netip.AddrPort) error {
	if !u.local.Addr().IsUnspecified() {
		_, err := u.conn.WriteToUDPAddrPort(b, to)
		return err
	}
	_, _, err := u.conn.WriteMsgUDPAddrPort(b, u.asked.control, to)
	return err
}

// replyControl finds the packet information among received control messages, turns it in place into that of a reply,
// and returns its bytes; nil when there is none.
func replyControl(received []byte) []byte {
	for rest := received; len(rest) >= unix.SizeofCmsghdr; {
		header, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return nil
		}
		if turnPacketInfo(header, data) {
			return rest[:len(rest)-len(next)]
		}
		rest = next
	}
	return nil
}

// turnPacketInfo patches packet information and reports whether it was that. The same structures serve both ways, in
// the byte order of the host:
//
//	IPv4: interface index (4) | local address (4) | destination in the header (4)
//	IPv6: destination (16) | interface index (4)
//
// On the way back the local address, or the IPv6 destination, is the source. The interface index would force the reply
// out of the interface that the request came in by, against the routing table; it is cleared, except for link-local
// addresses, which mean nothing without it. Source: Linux manual pages ip(7) and ipv6(7).
func turnPacketInfo(header unix.Cmsghdr, data []byte) bool {
	var local netip.Addr
	var index []byte
	switch {
	case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		index, local = data[:4], netip.AddrFrom4([4]byte(data[4:8]))
	case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		index, local = data[16:20], netip.AddrFrom16([16]byte(data[:16]))
	default:
		return false
	}
	if !local.IsLinkLocalUnicast() {
		binary.NativeEndian.PutUint32(index, 0)
	}
	return true
}
