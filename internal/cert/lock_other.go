//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package cert

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// lockFile makes a file that must not exist yet. Without a lock that the
// kernel drops for the dead, a second process is told instead of made to wait.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // follows no link
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists: another detour is making the certificate, or was stopped while it did; if none runs, remove that file", path)
	}
	if err != nil {
		return nil, err
	}
	return func() {
		f.Close()
		os.Remove(path)
	}, nil
}

// syncDir does nothing: these systems cannot sync a directory.
func syncDir(string) error { return nil }
