package link

import (
	"errors"
	"io"
	"net"
	"time"
)

const (
	// idleBuffer is what a portable connection holds while it waits, in bytes.
	idleBuffer = 4 << 10
	// writeChunk is the largest write of the portable form, in bytes: one TLS
	// record. Each must make progress within the time given to waitWritable, so
	// that a slow line is told from a dead one.
	writeChunk = 16 << 10
)

// portable is the codec over any net.Conn: flush leaves the writing to
// waitWritable, which blocks.
type portable struct {
	conn *Conn

	// Owned by the reading goroutine.
	buf []byte // backing of what fill hands out

	// Owned by the flushing goroutine.
	sealed  []byte // all since nothing was left; small enough, kept for its backing
	written int    // how much of sealed
}

func (p *portable) fill(turn Turn) error {
	if p.buf == nil {
		p.buf = make([]byte, idleBuffer)
	}
	have := 0
	for {
		if p.conn.doomed.Load() {
			return net.ErrClosed
		}
		n, readErr := p.conn.Read(p.buf[have:])
		have += n
		if n > 0 {
			used, stop, err := turn(p.buf[:have])
			if err != nil {
				return err
			}
			if stop {
				p.conn.Unread(p.buf[used:have])
				p.buf = nil
				return nil
			}
			have = copy(p.buf, p.buf[used:have])
		}
		if readErr != nil {
			return ended(readErr, have)
		}
		if err := p.fit(have); err != nil {
			return err
		}
	}
}

// ended tells the end of a stream from one that was cut.
func ended(err error, have int) error {
	if have > 0 && errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fit grows the buffer when it is full, and gives a grown one back when it is
// empty, so that a peer which once sent a large packet idles as small as any.
func (p *portable) fit(have int) error {
	switch {
	case have == len(p.buf):
		if have >= MaxHeld {
			return ErrHeld
		}
		p.buf = append(make([]byte, 0, 2*len(p.buf)), p.buf...)[:2*len(p.buf)]
	case have == 0 && len(p.buf) > idleBuffer:
		p.buf = make([]byte, idleBuffer)
	}
	return nil
}

// check has nothing to do: a blocking read misses no end.
func (p *portable) check() {}

func (p *portable) seal(frames []byte) error {
	if p.written > 0 {
		p.sealed = p.sealed[:copy(p.sealed, p.sealed[p.written:])]
		p.written = 0
	}
	p.sealed = append(p.sealed, frames...)
	return nil
}

func (p *portable) flush() (done bool, err error) { return p.written == len(p.sealed), nil }

func (p *portable) waitWritable(timeout time.Duration) error {
	chunk := p.sealed[p.written:min(len(p.sealed), p.written+writeChunk)]
	if err := p.conn.writeBefore(timeout); err != nil {
		return err
	}
	if _, err := p.conn.Conn.Write(chunk); err != nil {
		return err
	}
	if p.written += len(chunk); p.written == len(p.sealed) {
		p.reuseSealed()
		p.conn.anyTime()
	}
	return nil
}

// reuseSealed empties the write buffer, and keeps it only if it is small: its
// capacity is that of the whole backing, as sealed always starts there.
func (p *portable) reuseSealed() {
	p.written = 0
	if p.sealed = p.sealed[:0]; cap(p.sealed) > idleBuffer {
		p.sealed = nil
	}
}
