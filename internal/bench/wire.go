package bench

import (
	"net"
	"sync"
	"time"
)

// deadlineStep is by how much a deadline must move to be worth moving: the
// client sets one for every read and write, to ten seconds and more.
const deadlineStep = time.Second

// wire is the socket under a client, made cheap: writes can be gathered into one
// system call, reads take all there is, and deadlines move in steps. Without it
// the generator would cost several times what the relay does.
type wire struct {
	net.Conn

	// Owned by the reading goroutine.
	in       []byte // the buffer
	rest     []byte // what is in it and not read yet
	idle     func() // if set, called when all that was read is used up, before a read that may wait
	readable time.Time

	mu       sync.Mutex
	corked   bool      // Guarded by mu.
	out      []byte    // Guarded by mu. What was written while corked.
	writable time.Time // Guarded by mu.
}

// newWire makes a wire that reads up to buffer bytes at a time.
func newWire(c net.Conn, buffer int) *wire { return &wire{Conn: c, in: make([]byte, buffer)} }

func (w *wire) Read(p []byte) (int, error) {
	if len(w.rest) == 0 {
		if w.idle != nil {
			w.idle()
		}
		n, err := w.Conn.Read(w.in)
		if w.rest = w.in[:n]; n == 0 {
			return 0, err
		}
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.corked {
		w.out = append(w.out, p...)
		return len(p), nil
	}
	return w.Conn.Write(p)
}

// cork holds back what is written until uncork.
func (w *wire) cork() {
	w.mu.Lock()
	w.corked = true
	w.mu.Unlock()
}

// uncork writes what was held back.
func (w *wire) uncork() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.corked = false
	_, err := w.Conn.Write(w.out)
	w.out = w.out[:0]
	return err
}

func (w *wire) SetReadDeadline(t time.Time) error {
	if !worthMoving(w.readable, t) {
		return nil
	}
	w.readable = t
	return w.Conn.SetReadDeadline(t)
}

// SetWriteDeadline must not wait for mu: a writer that is stuck holds it, and
// TLS sets a deadline to end that.
func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.mu.TryLock() {
		defer w.mu.Unlock()
		if !worthMoving(w.writable, t) {
			return nil
		}
		w.writable = t
	}
	return w.Conn.SetWriteDeadline(t)
}

// worthMoving reports whether a deadline must change: always to an earlier one,
// to a later one only in steps.
func worthMoving(was, to time.Time) bool {
	return was.IsZero() || to.Before(was) || to.Sub(was) >= deadlineStep
}
