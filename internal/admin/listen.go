package admin

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Listen opens the admin listener at addr, which is one of
//
//   - "unix:" and a path: a unix socket of mode 0600. It appears under that path
//     only when it already has that mode, so there is no moment at which others
//     could connect. The directory must exist. The socket of a relay that still
//     runs is left alone and is an error; one that a dead relay left behind is
//     replaced; anything else in that place is an error. Two relays that start
//     at the same instant are not kept apart by this. Closing the listener
//     removes the socket. Not available on Windows.
//   - "127.0.0.1:PORT", "[::1]:PORT" or "localhost:PORT" (which is 127.0.0.1): a
//     TCP socket that every user of this machine can reach. Port 0 takes a free
//     one. No other address is accepted.
//
// Errors end in what the operator can do.
func Listen(addr string) (net.Listener, error) {
	a, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	if a.network == networkUnix {
		return listenUnix(a.target)
	}
	l, err := net.Listen(a.network, a.target)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("admin: %w; hint: another program has this port; choose another with --admin-listen", err)
	case err != nil:
		return nil, fmt.Errorf("admin: %w; hint: choose another address with --admin-listen", err)
	}
	return l, nil
}
