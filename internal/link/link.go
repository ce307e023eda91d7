// Package link turns one connection into a codec: bytes from the socket become
// plaintext, frames become records on the socket. A Conn is an ordinary
// net.Conn while it shakes hands, speaks HTTP and is upgraded. From the first
// Fill on, only the link methods are used: Fill by the goroutine that owns the
// connection; Seal, Flush and WaitWritable by one goroutine at a time, whoever
// flushes; Doom by anyone.
//
// This is the portable form, over any net.Conn: Flush leaves the writing to
// WaitWritable, which blocks.
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// idleBuffer is what a connection holds while it waits, in bytes.
	idleBuffer = 4 << 10
	// MaxHeld bounds, in bytes, what Fill collects for a turn that uses nothing.
	MaxHeld = 512 << 10
	// writeChunk is the largest write, in bytes: one TLS record. Each must make
	// progress within the time given to WaitWritable, so that a slow line is
	// told from a dead one.
	writeChunk = 16 << 10
)

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// ErrHeld is returned by Fill when MaxHeld bytes were not enough for a turn.
var ErrHeld = errors.New("link: too many bytes without an end")

// Conn is one connection.
type Conn struct {
	net.Conn          // TLS, plain or WebSocket
	raw      net.Conn // under TLS, or the same
	doomed   atomic.Bool

	// Owned by the reading goroutine.
	unread []byte // to be read again before the socket
	buf    []byte // backing of what Fill hands out

	// Owned by the flushing goroutine.
	sealed  []byte // all since nothing was left; small enough, kept for its backing
	written int    // how much of sealed
}

// Accept makes a Conn of an accepted connection. With cfg it becomes the server
// side of TLS; without, it is plain.
func Accept(raw net.Conn, cfg *tls.Config) *Conn {
	if cfg == nil {
		return Over(raw)
	}
	return &Conn{Conn: tls.Server(raw, cfg), raw: raw}
}

// Over makes a Conn of any connection that is ready to carry data, such as a
// WebSocket.
func Over(c net.Conn) *Conn { return &Conn{Conn: c, raw: c} }

// Handshake completes TLS, if there is any. The connection's deadlines hold.
func (c *Conn) Handshake(ctx context.Context) error {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.HandshakeContext(ctx)
	}
	return nil
}

// TLS returns the state of the TLS connection; ok is false on a plain one.
func (c *Conn) TLS() (state tls.ConnectionState, ok bool) {
	if t, isTLS := c.Conn.(*tls.Conn); isTLS {
		return t.ConnectionState(), true
	}
	return tls.ConnectionState{}, false
}

// Unread makes b the next bytes that Read or Fill returns. It takes a copy.
func (c *Conn) Unread(b []byte) {
	if len(b) > 0 {
		c.unread = append(append(make([]byte, 0, len(b)+len(c.unread)), b...), c.unread...)
	}
}

// Read reads what was put back by Unread, then from the connection.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.unread) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.unread)
	if c.unread = c.unread[n:]; len(c.unread) == 0 {
		c.unread = nil
	}
	return n, nil
}

// Close closes the connection, with TLS's farewell unless it is doomed.
func (c *Conn) Close() error {
	if c.doomed.Load() {
		return c.raw.Close()
	}
	return c.Conn.Close()
}

// Doom makes Fill and WaitWritable return soon. It never blocks and may be
// called by anyone, often; the owner closes the connection once Fill is back.
func (c *Conn) Doom() {
	if !c.doomed.Swap(true) {
		c.raw.SetDeadline(longAgo) // fails only when it is closed already
	}
}

// Fill reads until the connection ends, fails, or turn says stop. turn is given
// all bytes not used so far and returns how many it used; the rest comes again
// with more. The batch is valid during the call only. The end of the stream
// between turns is io.EOF, as any net.Conn has it.
func (c *Conn) Fill(turn func(batch []byte) (used int, stop bool, err error)) error {
	if c.buf == nil {
		c.buf = make([]byte, idleBuffer)
	}
	have := 0
	for {
		if c.doomed.Load() {
			return net.ErrClosed
		}
		n, readErr := c.Read(c.buf[have:])
		have += n
		if n > 0 {
			used, stop, err := turn(c.buf[:have])
			if err != nil {
				return err
			}
			if stop {
				c.Unread(c.buf[used:have])
				c.buf = nil
				return nil
			}
			have = copy(c.buf, c.buf[used:have])
		}
		if readErr != nil {
			if have > 0 && errors.Is(readErr, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return readErr
		}
		if err := c.fit(have); err != nil {
			return err
		}
	}
}

// fit grows the buffer when it is full, and gives a grown one back when it is
// empty, so that a peer which once sent a large packet idles as small as any.
func (c *Conn) fit(have int) error {
	switch {
	case have == len(c.buf):
		if have >= MaxHeld {
			return ErrHeld
		}
		old := c.buf
		c.buf = getBuffer(2 * len(old))
		copy(c.buf, old)
		putBuffer(old)
	case have == 0 && len(c.buf) > idleBuffer:
		putBuffer(c.buf)
		c.buf = make([]byte, idleBuffer)
	}
	return nil
}

// Seal takes a copy of frames into what Flush writes.
func (c *Conn) Seal(frames []byte) error {
	if c.written > 0 {
		c.sealed = c.sealed[:copy(c.sealed, c.sealed[c.written:])]
		c.written = 0
	}
	c.sealed = append(c.sealed, frames...)
	return nil
}

// Flush writes what was sealed as far as that needs no waiting, and reports
// whether nothing is left. In this form nothing is written without waiting.
func (c *Conn) Flush() (done bool, err error) { return c.written == len(c.sealed), nil }

// WaitWritable waits until Flush can make progress; in this form it writes a
// chunk itself. It fails when no byte was taken for timeout; 0 is no limit.
// After an error the stream is broken and the connection of no further use.
func (c *Conn) WaitWritable(timeout time.Duration) error {
	chunk := c.sealed[c.written:min(len(c.sealed), c.written+writeChunk)]
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	// Without a timeout too: the deadline of an earlier wait must not stay.
	if err := c.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("link: set write deadline: %w", err)
	}
	if c.doomed.Load() { // the line above may have undone Doom's deadline
		return net.ErrClosed
	}
	if _, err := c.Conn.Write(chunk); err != nil {
		return err
	}
	if c.written += len(chunk); c.written == len(c.sealed) {
		c.reuseSealed()
		c.anyTime()
	}
	return nil
}

// anyTime clears the write deadline. TLS writes by itself while it reads, in
// answer to a KeyUpdate, and must not meet a deadline that passed long before.
func (c *Conn) anyTime() {
	c.SetWriteDeadline(time.Time{}) // fails only when it is closed already
	if c.doomed.Load() {            // the line above may have undone Doom's deadline
		c.raw.SetDeadline(longAgo)
	}
}

// reuseSealed empties the write buffer, and keeps it only if it is small: its
// capacity is that of the whole backing, as sealed always starts there.
func (c *Conn) reuseSealed() {
	c.written = 0
	if c.sealed = c.sealed[:0]; cap(c.sealed) > idleBuffer {
		c.sealed = nil
	}
}

var buffers sync.Pool // of *[]byte, larger than idleBuffer

func getBuffer(n int) []byte {
	if b, ok := buffers.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:n]
	}
	return make([]byte, n)
}

func putBuffer(b []byte) {
	if cap(b) > idleBuffer {
		buffers.Put(&b)
	}
}
