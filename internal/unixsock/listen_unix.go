//go:build unix

package unixsock

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// liveTimeout bounds the question whether somebody still listens on a socket. The
// kernel answers at once, unless the listener's backlog is full.
const liveTimeout = 2 * time.Second

// Listen opens a socket of the given mode at path. It appears there only when it
// already has that mode, so there is no moment at which others could connect. The
// directory must exist. A socket on which somebody answers is left alone and is
// an error; one that a dead process left behind is replaced; anything else in
// that place is an error. Two that start at the same instant are not kept apart
// by this. Closing the listener removes the socket.
//
// It binds inside a fresh directory that only this user can enter, sets the mode
// there, and moves the finished socket into its place. The obvious way, a umask
// around bind, would change the umask of every thread.
func Listen(path string, mode fs.FileMode) (net.Listener, error) {
	if err := checkFree(path); err != nil {
		return nil, err
	}
	private, err := makePrivateDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	bound := filepath.Join(private, "s")
	if err := CheckPath(bound); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: bound, Net: network})
	if err != nil {
		return nil, fmt.Errorf("make it: %w", err)
	}
	l.SetUnlinkOnClose(false) // it would look under the name it was bound to
	file, err := publish(bound, path, mode)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("put it into place: %w", err)
	}
	return &listener{UnixListener: l, path: path, file: file}, nil
}

// publish gives the socket its mode and then its name. The returned FileInfo
// identifies it for as long as it exists.
func publish(bound, path string, mode fs.FileMode) (os.FileInfo, error) {
	if err := os.Chmod(bound, mode); err != nil {
		return nil, err
	}
	file, err := os.Lstat(bound)
	if err != nil {
		return nil, err
	}
	return file, os.Rename(bound, path)
}

// checkFree reports why path must not be taken. The socket of a dead process may be.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at it: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return ErrNotSocket
	}
	conn, err := net.DialTimeout(network, path, liveTimeout)
	switch {
	case err == nil:
		conn.Close()
		return ErrInUse
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", ErrForeign, err)
	default:
		return fmt.Errorf("%w: %w", ErrUncertain, err)
	}
}

// makePrivateDir makes a directory of mode 0700 in parent. Its name is short,
// because the path of the socket in it has to fit into a socket address too.
func makePrivateDir(parent string) (string, error) {
	const attempts = 100
	var err error
	for range attempts {
		dir := filepath.Join(parent, fmt.Sprintf(".%04x", rand.N(1<<16)))
		if err = os.Mkdir(dir, 0o700); err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return "", fmt.Errorf("%w: %w", ErrDirectory, err)
}

// listener removes its socket when it is closed. Its address is the path that
// clients dial, not the one that was bound.
type listener struct {
	*net.UnixListener
	path string
	file os.FileInfo
	once sync.Once
}

// Addr returns the path under which the socket was published.
func (l *listener) Addr() net.Addr {
	return &net.UnixAddr{Name: l.path, Net: network}
}

// Close removes the socket and stops listening. The file goes first: while this
// listener is open no other takes its place, so it cannot be another's.
func (l *listener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}
