//go:build unix

package stun

import "golang.org/x/sys/unix"

// What a failed bind is told apart by.
const (
	errAddrInUse    = unix.EADDRINUSE
	errAddrNotAvail = unix.EADDRNOTAVAIL
	errAccess       = unix.EACCES
	errNoFamily     = unix.EAFNOSUPPORT
	errNoProtocol   = unix.EPROTONOSUPPORT
)
