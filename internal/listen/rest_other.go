//go:build !linux

package listen

import (
	"errors"
	"net"
)

// KeepsAddress says that a Door of TCP can Rest.
const KeepsAddress = false

// Elsewhere a socket that listens cannot be told to stop for a while.
func stopListening(net.Listener) error { return errors.ErrUnsupported }
func listenAgain(net.Listener) error   { return errors.ErrUnsupported }
