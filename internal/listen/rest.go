package listen

import (
	"context"
	"errors"
	"fmt"
)

var errAwake = errors.New("it does not rest")

// Rest has the Door refuse connections as if nothing listened there, without giving
// the address up, so that Wake needs no right to bind it again. Who is connected
// stays. The error is errors.ErrUnsupported where that cannot be had, which is for
// all but TCP on Linux; the Door then goes on as before.
//
// Rest and Wake are called by one goroutine, which may be another than Serve's.
func (d *Door) Rest() error {
	if d.resting.Load() != nil {
		return nil
	}
	woken := make(chan struct{})
	d.resting.Store(&woken) // first, as the accept loop is about to fail
	d.rests.Add(1)
	if err := stopListening(d.listener); err != nil {
		d.wakeLoop()
		return fmt.Errorf("have %s refuse connections: %w", d.Where(), err)
	}
	return nil
}

// Wake accepts again after Rest, without which it is an error. After another one the
// Door still rests: somebody else may have taken the address, or the system have
// given it up.
func (d *Door) Wake() error {
	if d.resting.Load() == nil {
		return errAwake
	}
	if err := listenAgain(d.listener); err != nil {
		return fmt.Errorf("accept connections at %s again: %w", d.Where(), err)
	}
	d.wakeLoop()
	return nil
}

// wakeLoop has the accept loop go on, if it waits.
func (d *Door) wakeLoop() {
	if woken := d.resting.Swap(nil); woken != nil {
		close(*woken)
	}
}

// sleep waits while the Door rests. It reports whether accept failed for that: the
// Door rests, or did since the last call, of which slept keeps the count.
func (d *Door) sleep(ctx context.Context, slept *uint64) bool {
	rests := d.rests.Load()
	if rests == *slept {
		return false
	}
	if woken := d.resting.Load(); woken != nil {
		select {
		case <-*woken:
		case <-ctx.Done():
		}
	}
	*slept = rests
	return true
}
