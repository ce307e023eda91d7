package sni

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// idleLimit is how long a connection may be without a byte in either direction.
	// Nobody holds two sockets open for ever by saying nothing; a peer that is dead
	// goes earlier, by the TCP keepalives that Go and package listen turn on.
	idleLimit = time.Hour
	// halfLimit is the same once one direction has ended.
	halfLimit = time.Minute
	// turnLimit and turnBytes bound how long a byte can pass unnoticed: copying is
	// interrupted after either. So limits hold with two turns more at most, and who
	// reads less than turnBytes within one counts as idle.
	turnLimit = 30 * time.Second
	turnBytes = 32 << 10
)

// join passes bytes both ways until both directions have ended, one has failed,
// nothing has moved for too long, or ctx is done. Then both are closed.
func (r *Router) join(ctx context.Context, client, target net.Conn) {
	end := sync.OnceFunc(func() {
		_ = client.Close() // there is nobody to tell
		_ = target.Close()
	})
	defer end()
	defer context.AfterFunc(ctx, end)()
	w := newWatchdog(func() { r.idle.Add(1); end() })
	defer w.stop()
	var up sync.WaitGroup
	up.Go(func() {
		n, err := pass(target, client, w)
		r.toTargets.Add(n)
		if err != nil {
			end()
		}
	})
	n, err := pass(client, target, w)
	r.toClients.Add(n)
	if err != nil {
		end()
	}
	up.Wait()
}

// pass copies until from ends, and tells to. Between two TCP connections the
// kernel moves the bytes.
func pass(to, from net.Conn, w *watchdog) (total uint64, err error) {
	for {
		// Only a read that waits is interrupted by this: no byte is lost.
		if err := from.SetReadDeadline(time.Now().Add(turnLimit)); err != nil {
			return total, err
		}
		n, err := io.Copy(to, io.LimitReader(from, turnBytes))
		total += uint64(n)
		if n > 0 {
			w.moved()
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), err == nil && n == turnBytes:
		case err != nil:
			return total, err
		default:
			w.half()
			return total, closeWrite(to)
		}
	}
}

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// watchdog calls a function when nothing has moved for too long.
type watchdog struct {
	mu    sync.Mutex
	limit time.Duration // guarded by mu
	timer *time.Timer   // reset under mu, so that a lower limit is not undone
}

func newWatchdog(bark func()) *watchdog {
	return &watchdog{limit: idleLimit, timer: time.AfterFunc(idleLimit+turnLimit, bark)}
}

// moved begins the time anew.
func (w *watchdog) moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Reset(w.limit + turnLimit) // a byte is noticed up to a turn later
}

// half lowers the limit, and begins the time anew.
func (w *watchdog) half() {
	w.mu.Lock()
	w.limit = halfLimit
	w.mu.Unlock()
	w.moved()
}

func (w *watchdog) stop() { w.timer.Stop() }
