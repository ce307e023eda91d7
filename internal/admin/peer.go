package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// strangerLogInterval is the least time between two log lines about refused
// peers: whoever may reach the socket may try in a loop.
const strangerLogInterval = time.Minute

// ownersOnly is a listener that hands on unix connections only from root and
// from the user of this process, and closes others. Connections that are not
// unix sockets pass.
//
// The mode of the socket says the same already. This holds even when somebody
// widens the mode, and for sockets that a service manager opened.
type ownersOnly struct {
	net.Listener
	logger  *slog.Logger
	peerUID func(*net.UnixConn) (uint32, error) // errors.ErrUnsupported: this system cannot tell
	refused atomic.Uint64

	mu     sync.Mutex
	logged time.Time // guarded by mu; the last line
	unsaid uint64    // guarded by mu; refusals since then
}

// Accept waits for the next connection that may use the API.
func (l *ownersOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		socket, ok := conn.(*net.UnixConn)
		if !ok {
			return conn, nil
		}
		if err := l.check(socket); err != nil {
			conn.Close()
			l.report(err)
			continue
		}
		return conn, nil
	}
}

func (l *ownersOnly) check(conn *net.UnixConn) error {
	uid, err := l.peerUID(conn)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return nil
	case err != nil:
		return fmt.Errorf("cannot tell who connects: %w", err)
	case !mayUse(uid, os.Geteuid()):
		return fmt.Errorf("user id %d is neither root nor the relay's user %d", uid, os.Geteuid())
	}
	return nil
}

// mayUse reports whether user uid may use the API of a relay that runs as self,
// which is -1 where there are no user ids.
func mayUse(uid uint32, self int) bool {
	return uid == 0 || int64(uid) == int64(self)
}

func (l *ownersOnly) report(err error) {
	l.refused.Add(1)
	now := time.Now()
	l.mu.Lock()
	if !l.logged.IsZero() && now.Sub(l.logged) < strangerLogInterval {
		l.unsaid++
		l.mu.Unlock()
		return
	}
	l.logged = now
	unsaid := l.unsaid
	l.unsaid = 0
	l.mu.Unlock()
	l.logger.LogAttrs(context.Background(), slog.LevelWarn, "admin: connection refused",
		slog.String("addr", l.Addr().String()), slog.Any("err", err), slog.Uint64("refused_since_last_line", unsaid),
		slog.String("hint", "run the command as the relay's user or as root"))
}

// peerUID returns the user at the other end of conn.
func peerUID(conn *net.UnixConn) (uid uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	if controlErr := raw.Control(func(fd uintptr) { uid, err = socketUID(int(fd)) }); controlErr != nil {
		return 0, controlErr
	}
	return uid, err
}
