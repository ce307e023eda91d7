package relay

import (
	"fmt"
	"runtime/debug"
)

// Apart runs f on a goroutine of its own and waits for it. A handshake grows the
// stack that it runs on, and a connection that lives for weeks should not keep
// such a stack. A panic in f goes on in the caller.
func Apart(f func()) {
	var cause any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				cause = fmt.Sprintf("%v\n%s", r, debug.Stack())
			}
		}()
		f()
	}()
	<-done
	if cause != nil {
		panic(cause)
	}
}
