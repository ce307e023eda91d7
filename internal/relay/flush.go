package relay

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"
)

// flushRounds is how often a flusher that has other work looks again for what came
// meanwhile. It bounds how long many senders to one peer can keep one of them at
// writing for all, while its own other flows wait.
const flushRounds = 16

// flush sends what waits for p, as far as that needs no waiting. When the
// socket takes no more, or there is no end of it, a goroutine goes on, and ends
// with the queue.
func (p *peer) flush() {
	if !p.out.begin() {
		return
	}
	if !p.pumpSafely(false) {
		go p.pumpSafely(true) // shut waits for it, by outbox.flusher
	}
}

// pumpSafely is pump, with a bug that it meets ending this peer alone: neither the
// relay nor the peer whose packets were to be sent.
func (p *peer) pumpSafely(wait bool) (idle bool) {
	defer func() {
		if cause := recover(); cause != nil {
			p.server.log.Error("sending to a peer met a bug in Detour; please report this",
				"peer", p.key, "addr", p.addr, "err", cause, "stack", string(debug.Stack()))
			p.server.counts.dropped(dropWriteError, &p.inFlight)
			p.end(fmt.Errorf("bug while sending: %v", cause))
			p.out.quit()
			idle = true
		}
	}()
	return p.pump(wait)
}

// pump seals and writes until nothing waits. With wait false it reports false
// when the socket is full or after flushRounds; the caller is then still the
// flusher.
func (p *peer) pump(wait bool) bool {
	for round := 0; wait || round < flushRounds; round++ {
		done, err := p.write(wait)
		if err != nil {
			p.writeFailed(err)
			p.out.quit()
			return true
		}
		if !done {
			return false
		}
		p.server.counts.delivered(&p.inFlight)
		b, ok := p.out.next()
		if !ok {
			return true
		}
		p.inFlight = b.loads
		if err := p.seal(b); err != nil {
			p.writeFailed(err)
			p.out.quit()
			return true
		}
	}
	return false
}

func (p *peer) write(wait bool) (done bool, err error) {
	if wait {
		return true, writeAll(p.link, p.writeTimeout)
	}
	return p.link.Flush()
}

// writeAll flushes l, waiting for it as long as bytes move within timeout.
func writeAll(l Link, timeout time.Duration) error {
	for {
		done, err := l.Flush()
		if err != nil || done {
			return err
		}
		if err := l.WaitWritable(timeout); err != nil {
			return err
		}
	}
}

// seal hands the batch to the link: control frames, disco, data, news.
func (p *peer) seal(b batch) error {
	var err error
	for i, buf := range b.frames {
		if buf == nil {
			continue
		}
		if err == nil {
			err = p.link.Seal(buf.b[b.heads[i]:])
		}
		putBuffer(buf)
	}
	return err
}

// writeFailed ends the connection. What was on its way is lost.
func (p *peer) writeFailed(err error) {
	p.server.counts.dropped(dropWriteError, &p.inFlight)
	if errors.Is(err, os.ErrDeadlineExceeded) && p.ended.Load() == nil {
		p.server.counts.writeTimeouts.Add(1)
		err = fmt.Errorf("took no byte for %v: %w", p.writeTimeout, err)
	}
	p.end(fmt.Errorf("send: %w", err))
}

// shut closes p's outbox, waits for its flusher, and counts what never left.
func (p *peer) shut() {
	lost := p.out.shut()
	p.server.counts.dropped(dropGone, &lost)
	p.out.flusher.Wait()
}
