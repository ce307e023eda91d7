package daemon

import (
	"context"
	"runtime/debug"
	"time"
)

// After a burst of logins a large part of the memory is garbage of handshakes,
// which Go would return to the system only by and by. A relay on a small machine
// has better use for it.
const (
	memoryPeriod = 3 * time.Second
	burstLogins  = 200 // fewer leave too little behind to be worth a collection
)

// returnMemory gives memory back once a burst of logins is over, until ctx ends.
func (d *Daemon) returnMemory(ctx context.Context) error {
	tick := time.NewTicker(memoryPeriod)
	defer tick.Stop()
	var b burst
	for {
		select {
		case <-tick.C:
			if b.over(d.relay.Stats().Accepts) {
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// burst watches a counter of logins.
type burst struct {
	last    uint64 // at the last look
	settled uint64 // when memory was last returned
}

// over reports whether many logins have come and none since the last look.
func (b *burst) over(logins uint64) bool {
	quiet := logins == b.last
	b.last = logins
	if !quiet || logins-b.settled < burstLogins {
		return false
	}
	b.settled = logins
	return true
}
