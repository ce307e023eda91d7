//go:build !linux

package stun

import (
	"net/netip"
	"syscall"
)

// askedAddr is empty here: the kernel chooses the address that a reply leaves from, which on a host with several may not
// be the one asked. Listening on each address by itself avoids that.
type askedAddr struct{}

func controlSocket(string, string, syscall.RawConn) error { return nil }

func (u *udpSocket) receive(buf []byte) (int, netip.AddrPort, error) {
	return u.conn.ReadFromUDPAddrPort(buf)
}

func (u *udpSocket) reply(b []byte, to netip.AddrPort) error {
	_, err := u.conn.WriteToUDPAddrPort(b, to)
	return err
}
