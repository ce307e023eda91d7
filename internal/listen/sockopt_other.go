//go:build !linux

package listen

import (
	"syscall"
	"time"
)

// setSocketOptions does nothing: what it sets is Linux's.
func setSocketOptions(syscall.RawConn, time.Duration) error { return nil }
