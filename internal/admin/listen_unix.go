//go:build unix

package admin

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

// liveTimeout bounds the question whether a relay still listens on a socket. The
// kernel answers at once, unless that relay's backlog is full.
const liveTimeout = 2 * time.Second

// listenUnix binds inside a fresh directory that only this user can enter, sets
// the mode there, and moves the finished socket into its place. The obvious way,
// a umask around bind, would change the umask of every thread.
func listenUnix(path string) (net.Listener, error) {
	if err := checkFree(path); err != nil {
		return nil, err
	}
	private, err := makePrivateDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	bound := filepath.Join(private, "s")
	if err := checkPathLength(bound); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix(networkUnix, &net.UnixAddr{Name: bound, Net: networkUnix})
	if err != nil {
		return nil, fmt.Errorf("admin: cannot make socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it would look under the name it was bound to
	file, err := publish(bound, path)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("admin: cannot put socket %s into place: %w", path, err)
	}
	return &unixListener{UnixListener: l, path: path, file: file}, nil
}

// publish gives the socket its mode and then its name. The returned FileInfo
// identifies it for as long as it exists.
func publish(bound, path string) (os.FileInfo, error) {
	if err := os.Chmod(bound, 0o600); err != nil {
		return nil, err
	}
	file, err := os.Lstat(bound)
	if err != nil {
		return nil, err
	}
	return file, os.Rename(bound, path)
}

// checkFree reports why path must not be taken. The socket of a dead relay may be.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("admin: cannot look at socket %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("admin: %s is there and is not a socket; hint: move it away, or name another path with --admin-listen", path)
	}
	conn, err := net.DialTimeout(networkUnix, path, liveTimeout)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("admin: another relay is running with this state directory: it answers on %s; "+
			"hint: stop it first, or give this one its own --state-dir", path)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("admin: socket %s belongs to another user: %w; "+
			"hint: run the relay as that user, or give this one its own --state-dir", path, err)
	default:
		return fmt.Errorf("admin: cannot tell whether a relay is running on socket %s: %w; "+
			"hint: if none is, remove the file", path, err)
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
	return "", fmt.Errorf("admin: cannot make a socket in %s: %w; "+
		"hint: make that directory and give it to the relay's user, or name another with --state-dir or --admin-listen", parent, err)
}

// unixListener removes its socket when it is closed. Its address is the path
// that clients dial, not the one that was bound.
type unixListener struct {
	*net.UnixListener
	path string
	file os.FileInfo
	once sync.Once
}

// Addr returns the path under which the socket was published.
func (l *unixListener) Addr() net.Addr {
	return &net.UnixAddr{Name: l.path, Net: networkUnix}
}

// Close removes the socket and stops listening. The file goes first: while this
// listener is open no other relay takes its place, so it cannot be another's.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}
