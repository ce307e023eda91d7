package listen

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// notSentLowAt bounds, in bytes, what the kernel holds for a client besides what
// is on its way. Without it a slow line has megabytes queued behind the relay's
// back: disco packets wait behind them, the oldest packets cannot be dropped any
// more, and a socket once full takes nothing until a third of it has drained,
// which on such a line looks like a dead client.
const notSentLowAt = 128 << 10

// setSocketOptions prepares a listening socket; accepted ones inherit it, which
// saves the system calls for each. The kernel counts TCP_USER_TIMEOUT in
// milliseconds; 0 leaves it alone.
func setSocketOptions(c syscall.RawConn, userTimeout time.Duration) error {
	var failed error
	set := func(fd uintptr, name string, option, value int) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value); err != nil {
			failed = errors.Join(failed, fmt.Errorf("set %s to %d: %w", name, value, err))
		}
	}
	err := c.Control(func(fd uintptr) {
		set(fd, "TCP_NOTSENT_LOWAT", unix.TCP_NOTSENT_LOWAT, notSentLowAt)
		if userTimeout > 0 {
			set(fd, "TCP_USER_TIMEOUT", unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		}
	})
	return errors.Join(err, failed)
}
