//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package cert

import (
	"errors"
	"os"
	"syscall"
)

// lockFile waits until no other holder has the file locked. The kernel drops
// the lock of a process that dies, so a file left behind blocks nobody; it is
// not removed, because another process may be waiting on it.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return func() { f.Close() }, nil
}

// syncDir makes a rename in dir outlast a power cut. File systems that cannot
// sync a directory are left to themselves.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}
