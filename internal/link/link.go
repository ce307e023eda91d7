// Package link turns one connection into a codec: bytes from the socket become
// plaintext, frames become records on the socket. A Conn is an ordinary
// net.Conn while it shakes hands, speaks HTTP and is upgraded. From the first
// Seal or Fill on, only the link methods are used: Fill by the goroutine that
// owns the connection; Seal, Flush and WaitWritable by one goroutine at a time,
// whoever flushes; Doom by anyone.
//
// There are two forms of the codec. On Linux, over TCP, the fast one reads and
// writes the socket itself, as much as it can at once, and makes of crypto/tls
// a codec that never blocks (fast_linux.go). Everywhere else, and for WebSocket,
// the portable one does the same over any net.Conn (portable.go).
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// MaxHeld bounds, in bytes, what Fill collects for a turn that uses nothing.
const MaxHeld = 512 << 10

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// ErrHeld is returned by Fill when MaxHeld bytes were not enough for a turn.
var ErrHeld = errors.New("link: too many bytes without an end")

// Turn handles one batch of plaintext, valid during the call, and returns how
// many bytes it used. The rest comes again, with more behind it.
type Turn = func(batch []byte) (used int, stop bool, err error)

// codec is one form.
type codec interface {
	fill(turn Turn) error
	seal(frames []byte) error
	flush() (done bool, err error)
	waitWritable(timeout time.Duration) error
	check()
}

// Conn is one connection.
type Conn struct {
	net.Conn          // TLS, plain or WebSocket
	raw      net.Conn // under TLS, or the same
	codec    codec
	doomed   atomic.Bool

	unread []byte // Owned by the reading goroutine: to be read again before the socket.
}

// Accept makes a Conn of an accepted connection, in the fast form where there is
// one: over a *net.TCPConn, or what says by a method TCP that it is one. With cfg it becomes the server side of TLS; without, it is plain.
func Accept(raw net.Conn, cfg *tls.Config) *Conn {
	if c := acceptFast(raw, cfg); c != nil {
		return c
	}
	return AcceptPortable(raw, cfg)
}

// AcceptAhead is Accept for a connection from which ahead was read already: TLS,
// or whoever reads without it, is given that first. It takes ahead over.
func AcceptAhead(raw net.Conn, cfg *tls.Config, ahead []byte) *Conn {
	switch {
	case len(ahead) == 0:
		return Accept(raw, cfg)
	case cfg == nil:
		c := Accept(raw, nil)
		c.Unread(ahead)
		return c
	}
	if c := acceptFast(raw, cfg); c != nil {
		if f, ok := c.codec.(interface{ readAhead(b []byte) }); ok {
			f.readAhead(ahead)
			return c
		}
	}
	return AcceptPortable(&resumed{Conn: raw, ahead: ahead}, cfg)
}

// AcceptPortable is Accept in the portable form.
func AcceptPortable(raw net.Conn, cfg *tls.Config) *Conn {
	if cfg == nil {
		return Over(raw)
	}
	c := &Conn{Conn: tls.Server(raw, cfg), raw: raw}
	c.codec = &portable{conn: c}
	return c
}

// Over makes a Conn of any connection that is ready to carry data, such as a
// WebSocket.
func Over(nc net.Conn) *Conn {
	c := &Conn{Conn: nc, raw: nc}
	c.codec = &portable{conn: c}
	return c
}

// RemoteAddr returns the address of the connection that Accept was given.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// Fast reports whether the connection has the fast form.
func (c *Conn) Fast() bool {
	_, portable := c.codec.(*portable)
	return !portable
}

// Handshake completes TLS, if there is any. The connection's deadlines hold.
func (c *Conn) Handshake(ctx context.Context) error {
	t, ok := c.Conn.(*tls.Conn)
	if !ok {
		return nil
	}
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	if f, ok := c.codec.(interface{ shaken() }); ok {
		f.shaken()
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
	return c.reread(p), nil
}

// reread hands out what was put back.
func (c *Conn) reread(p []byte) int {
	n := copy(p, c.unread)
	if c.unread = c.unread[n:]; len(c.unread) == 0 {
		c.unread = nil
	}
	return n
}

// Close closes the connection, with TLS's farewell unless it is doomed or has
// been a codec: then what would be left to say is not worth waiting for.
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
// with more. The end of the stream between turns is io.EOF, within what a turn
// waits for io.ErrUnexpectedEOF.
func (c *Conn) Fill(turn Turn) error { return c.codec.fill(turn) }

// Seal takes a copy of frames into what Flush writes.
func (c *Conn) Seal(frames []byte) error { return c.codec.seal(frames) }

// Flush writes what was sealed as far as that needs no waiting, and reports
// whether nothing is left.
func (c *Conn) Flush() (done bool, err error) { return c.codec.flush() }

// WaitWritable waits until some of what was sealed is written, or Flush can
// write some. It fails when no byte was taken for timeout; 0 is no limit. After
// an error the stream is broken and the connection of no further use.
func (c *Conn) WaitWritable(timeout time.Duration) error { return c.codec.waitWritable(timeout) }

// Check looks whether the peer has hung up without Fill having been woken, and if
// so wakes it, to use what came last and return. It never blocks. Anyone may call
// it once the connection is a codec; to be called about once a second.
func (c *Conn) Check() { c.codec.check() }

// writeBefore sets the deadline for a write, or clears that of an earlier one
// when timeout is 0, in a way that cannot undo Doom.
func (c *Conn) writeBefore(timeout time.Duration) error {
	var t time.Time
	if timeout > 0 {
		t = time.Now().Add(timeout)
	}
	if err := c.Conn.SetWriteDeadline(t); err != nil {
		return fmt.Errorf("link: set write deadline: %w", err)
	}
	if c.doomed.Load() {
		return net.ErrClosed
	}
	return nil
}

// anyTime clears the write deadline. TLS writes by itself while it reads, in
// answer to a KeyUpdate, and must not meet a deadline that passed long before.
func (c *Conn) anyTime() {
	c.Conn.SetWriteDeadline(time.Time{}) // fails only when it is closed already
	if c.doomed.Load() {                 // the line above may have undone Doom's deadline
		c.raw.SetDeadline(longAgo)
	}
}
