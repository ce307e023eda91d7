//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package cert

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// lockFile waits until no other holder has the file locked, for lockLimit at most:
// nobody has work for so long. The kernel drops the lock of a process that dies, so
// a file left behind blocks nobody; it is not removed, because another process may
// be waiting on it.
func lockFile(path string) (unlock func(), err error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	for began := time.Now(); ; time.Sleep(lockLook) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if busy := errors.Is(err, syscall.EWOULDBLOCK); busy && time.Since(began) > lockLimit {
			err = errLocked
		} else if busy || errors.Is(err, syscall.EINTR) {
			continue
		}
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
}

const (
	lockLimit = 10 * time.Second
	lockLook  = 10 * time.Millisecond // between tries
)

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
