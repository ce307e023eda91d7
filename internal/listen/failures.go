package listen

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"syscall"
	"time"
)

const (
	firstPause = 5 * time.Millisecond
	longPause  = time.Second
	logEvery   = time.Minute // for one cause
)

// failures decides how long to wait after a failed accept and what to log.
// Owned by the accept loop.
type failures struct {
	logger *slog.Logger
	addr   net.Addr
	wait   time.Duration
	causes map[string]*cause // by errno's text, so it cannot grow without bound
}

type cause struct {
	logged time.Time
	unsaid int // failures since then
}

// over ends a row of failures.
func (f *failures) over() { f.wait = 0 }

// note takes a failure and returns how long to wait before the next try. Out of
// descriptors, accept fails at once: without a pause the loop would take a CPU.
func (f *failures) note(err error) time.Duration {
	f.log(err)
	f.wait = min(max(2*f.wait, firstPause), longPause)
	return f.wait
}

func (f *failures) log(err error) {
	name := "other"
	errno, isErrno := errors.AsType[syscall.Errno](err)
	if isErrno {
		name = errno.Error()
	}
	c := f.causes[name]
	if c == nil {
		c = &cause{}
		if f.causes == nil {
			f.causes = make(map[string]*cause)
		}
		f.causes[name] = c
	}
	c.unsaid++
	now := time.Now()
	if !c.logged.IsZero() && now.Sub(c.logged) < logEvery {
		return
	}
	attrs := []any{"addr", f.addr, "times", c.unsaid, "err", err}
	if errno == syscall.EMFILE || errno == syscall.ENFILE {
		attrs = append(attrs, "hint", "raise the limit of open files: LimitNOFILE= in the unit, or ulimit -n")
	}
	f.logger.Warn("accepting a connection failed; still listening", attrs...)
	c.logged, c.unsaid = now, 0
}

// pause waits for d and reports whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
