package admin

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/detour-relay/detour/internal/unixsock"
)

// socketMode keeps everybody out but this user, and root.
const socketMode = 0o600

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
		l, err := unixsock.Listen(a.target, socketMode)
		if err != nil {
			return nil, socketError(a.target, err)
		}
		return l, nil
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

// socketError says what to do about a socket that cannot be made.
func socketError(path string, err error) error {
	switch {
	case errors.Is(err, unixsock.ErrNotSocket):
		return fmt.Errorf("admin: %s %w; hint: move it away, or name another path with --admin-listen", path, err)
	case errors.Is(err, unixsock.ErrInUse):
		return fmt.Errorf("admin: another relay is running with this state directory: it answers on %s; "+
			"hint: stop it first, or give this one its own --state-dir", path)
	case errors.Is(err, unixsock.ErrForeign):
		return fmt.Errorf("admin: socket %s %w; hint: run the relay as that user, or give this one its own --state-dir", path, err)
	case errors.Is(err, unixsock.ErrUncertain):
		return fmt.Errorf("admin: socket %s: %w; hint: if no relay does, remove the file", path, err)
	case errors.Is(err, unixsock.ErrDirectory):
		return fmt.Errorf("admin: socket %s: %w; "+
			"hint: make that directory and give it to the relay's user, or name another with --state-dir or --admin-listen", path, err)
	case errors.Is(err, unixsock.ErrTooLong):
		return fmt.Errorf("admin: socket path %s %w; hint: name a shorter one with --admin-listen unix:PATH, or a shorter --state-dir", path, err)
	case errors.Is(err, unixsock.ErrNoMode):
		return fmt.Errorf("admin: socket %s: %w; hint: use --admin-listen 127.0.0.1:PORT", path, err)
	}
	return fmt.Errorf("admin: socket %s: %w; hint: name another path with --admin-listen", path, err)
}
