// Package unixsock opens unix sockets with a mode that holds from the first
// moment, in the place of those that a dead process left behind and of nothing
// else. Its errors are for the caller to put into words: only that knows which
// setting names the path.
package unixsock

import (
	"errors"
	"fmt"
	"syscall"
)

// MaxPath is the longest path, in bytes, that fits into a socket address with
// its terminating zero: 107 on Linux and Windows, 103 on the BSDs and macOS.
const MaxPath = len(syscall.RawSockaddrUnix{}.Path) - 1

const network = "unix" // as package net calls it

// What can be wrong with a path. Listen returns them wrapped, or the error of
// the system.
var (
	ErrNotSocket = errors.New("is there and is not a socket")
	ErrInUse     = errors.New("somebody answers on it")
	ErrForeign   = errors.New("belongs to another user")
	ErrUncertain = errors.New("cannot tell whether somebody uses it")
	ErrDirectory = errors.New("cannot make a socket in its directory")
	ErrTooLong   = errors.New("is too long")
	// ErrNoMode: the system does not keep users out of a socket by its mode.
	ErrNoMode = errors.New("this system cannot restrict a unix socket by a mode")
)

// CheckPath returns ErrTooLong, wrapped, for a path that fits into no address.
func CheckPath(path string) error {
	if len(path) <= MaxPath {
		return nil
	}
	return fmt.Errorf("%w: %d bytes, and this system allows %d", ErrTooLong, len(path), MaxPath)
}
