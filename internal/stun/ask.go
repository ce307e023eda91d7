package stun

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// askWaits are the times between two requests, which double as RFC 8489 has it in
// section 6.2.1, from its 500 ms; after the last the server is given up.
var askWaits = [...]time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 2 * time.Second}

// ErrNoAnswer is wrapped by Ask's error when the server is silent.
var ErrNoAnswer = errors.New("the STUN server does not answer")

// Ask asks a server, HOST:PORT, where it sees this machine, over "udp4" or "udp6". It
// sends up to four requests within 5.5 seconds, from a socket of its own, so that
// the port says nothing about other sockets. A host that has no address of the
// family, and a machine without it, give the errors of net.Dialer.
func Ask(ctx context.Context, network, server string) (netip.AddrPort, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, server)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) // ends the read
	defer stop()
	var tx TxID
	rand.Read(tx[:]) // never fails
	request := AppendRequest(nil, tx)
	for _, wait := range askWaits {
		if _, err := conn.Write(request); err != nil {
			return netip.AddrPort{}, err
		}
		conn.SetReadDeadline(time.Now().Add(wait))
		if ctx.Err() != nil { // its deadline may just have been overwritten
			return netip.AddrPort{}, ctx.Err()
		}
		if at, err := answer(conn, tx); err == nil {
			return at, nil
		} else if timeout, ok := errors.AsType[net.Error](err); ctx.Err() != nil || !ok || !timeout.Timeout() {
			return netip.AddrPort{}, errors.Join(ctx.Err(), err)
		}
	}
	return netip.AddrPort{}, fmt.Errorf("%w: %s", ErrNoAnswer, server)
}

// answer reads until a response to the request comes, or the deadline. Others may
// send to the port, so what is no such response is skipped.
func answer(conn net.Conn, tx TxID) (netip.AddrPort, error) {
	var buf [1500]byte
	for {
		n, err := conn.Read(buf[:])
		if err != nil {
			return netip.AddrPort{}, err
		}
		if got, at, err := ParseResponse(buf[:n]); err == nil && got == tx {
			return at, nil
		}
	}
}
