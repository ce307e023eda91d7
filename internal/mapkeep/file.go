package mapkeep

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// newFile may be read by every user: Headscale runs as another one, and a DERP map
	// holds no secret.
	newFile fs.FileMode = 0o644
	// staging is put behind a file's name, and a dot before it, while it is written.
	staging = ".detour-new"
	// maxKept bounds what is read of a file that is to be replaced, in bytes.
	maxKept = 8 << 20
)

// replace gives the file at path these contents, as a whole or not at all: whoever
// opens it finds the old or the new ones. A file that holds them already is left
// alone, with its time. The file that a link leads to is replaced, not the link.
// Mode, owner and group stay as far as the system lets them.
func replace(path string, data []byte) (changed bool, err error) {
	target, err := behind(path)
	if err != nil {
		return false, err
	}
	info, err := os.Stat(target)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return false, fmt.Errorf("%s is not a file", target)
	case err == nil && info.Size() <= maxKept:
		if old, err := os.ReadFile(target); err == nil && bytes.Equal(old, data) {
			return false, nil
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	staged := stagedName(target)
	if err := stage(staged, data, info); err != nil {
		return false, errors.Join(err, discard(staged))
	}
	if err := os.Rename(staged, target); err != nil {
		return false, errors.Join(err, discard(staged))
	}
	syncDir(filepath.Dir(target))
	return true, nil
}

// behind is the file that path leads to over links, the last of which may lead to a
// file that is not there yet. For root it follows only links that are root's: whoever
// may make one where the file stands could else choose what root replaces.
func behind(path string) (string, error) {
	const most = 40 // links, as the system's own bound
	for range most {
		info, err := os.Lstat(path)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", err
		case err != nil || info.Mode()&fs.ModeSymlink == 0:
			return path, nil
		case !trusted(info):
			return "", fmt.Errorf("%s is another user's link, which root does not follow", path)
		}
		next, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(next) {
			next = filepath.Join(filepath.Dir(path), next)
		}
		path = next
	}
	return "", errors.New("too many links")
}

func stagedName(target string) string {
	return filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+staging)
}

// discard removes what is half written; that it is not there is fine.
func discard(staged string) error {
	if err := os.Remove(staged); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// stage writes the new contents beside the file. before is what the file was; nil:
// there was none.
func stage(staged string, data []byte, before fs.FileInfo) error {
	if err := discard(staged); err != nil { // of a run that was killed
		return err
	}
	// O_EXCL: no link that somebody has put there is followed.
	f, err := os.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	mode := newFile
	if before != nil {
		mode = before.Mode().Perm()
		if !keepOwner(f, before) {
			mode |= 0o444 // else its owner could not read it any more
		}
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync())
	return errors.Join(err, f.Close())
}

// syncDir makes a rename outlast a power cut, where the system can do it.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // not all systems can
		_ = d.Close()
	}
}

// checkReplaceable tells at the start whether replace will work later.
func checkReplaceable(path string) error {
	target, err := behind(path)
	if err != nil {
		return err
	}
	if info, err := os.Stat(target); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", target)
	}
	staged := stagedName(target)
	if err := discard(staged); err != nil {
		return err
	}
	f, err := os.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), discard(staged))
}
