package listen

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// KeepsAddress says that a Door of TCP can Rest.
const KeepsAddress = true

// longBacklog is cut by the kernel to net.core.somaxconn, which is what Go asks for.
const longBacklog = 1<<16 - 1

// stopListening takes a socket out of its listening state. Linux resets who waits
// to be accepted, and keeps the port if it was asked for by its number.
func stopListening(l net.Listener) error {
	return onSocket(l, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) })
}

// listenAgain undoes stopListening.
func listenAgain(l net.Listener) error {
	return onSocket(l, func(fd int) error {
		if err := unix.Listen(fd, longBacklog); err != nil {
			return err
		}
		bound, err := unix.Getsockname(fd)
		if err == nil && portOf(bound) != l.Addr().(*net.TCPAddr).Port {
			err = errors.New("the system has given it another port")
		}
		if err != nil {
			return errors.Join(err, unix.Shutdown(fd, unix.SHUT_RD))
		}
		return nil
	})
}

func portOf(a unix.Sockaddr) int {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return 0
}

func onSocket(l net.Listener, do func(fd int) error) error {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the socket: %w", err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return fmt.Errorf("reach the socket: %w", err)
	}
	return failed
}
