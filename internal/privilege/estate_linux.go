package privilege

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Give hands over to u the state directory, unless it is shared with others, and
// what the relay has made since the survey. Called as root.
func (e *Estate) Give(u User) error {
	for _, path := range slices.Concat(e.missing, e.sockets()) {
		err := e.chown(path, u.UID, u.GID)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may not have been made after all
			return giveFault(path, u, err)
		}
	}
	if !e.whole {
		return nil
	}
	if err := giveTree(e.plan.StateDir, u); err != nil {
		return giveFault(e.plan.StateDir, u, err)
	}
	return nil
}

func giveFault(path string, u User, err error) error {
	return fmt.Errorf("run_as: give %s to %s: %w; hint: chown -R %s %s before the start, on the host if it is mounted from there", path, u, err, u, path)
}

// sockets are those of the plan that were made. Others may write to their
// directories: only what is a socket changes hands.
func (e *Estate) sockets() []string {
	return slices.DeleteFunc(slices.Clone(e.plan.Makes), func(path string) bool {
		info, err := os.Lstat(path)
		return err != nil || info.Mode().Type() != fs.ModeSocket
	})
}

// giveTree gives dir and what root owns in it. The new user may have been at
// work there before, so no link out of dir is followed, and a file with a second
// name is left alone: it could be one of root's.
func giveTree(dir string, u User) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := root.Lstat(path)
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok || stat.Uid == uint32(u.UID) && stat.Gid == uint32(u.GID) {
			return nil
		}
		if path != "." && (stat.Uid != 0 || !info.IsDir() && stat.Nlink > 1) {
			return nil
		}
		return root.Lchown(path, u.UID, u.GID)
	})
}

// Unreachable says what this process, which is the new user by now, cannot use:
// the state directory when it may not write there, what is in directories that it
// fills, and files to be read again.
func (e *Estate) Unreachable() []Obstacle {
	u := User{UID: os.Geteuid(), GID: os.Getegid()}
	var found []Obstacle
	if at, ok := blocked(e.plan.StateDir, unix.W_OK|unix.X_OK); ok {
		found = append(found, Obstacle{e.plan.StateDir, at, hintFor(e.plan.StateDir, at, u)})
	}
	for _, path := range e.plan.Replaces {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		dir := filepath.Dir(path)
		if at, ok := blocked(dir, unix.W_OK|unix.X_OK); ok {
			found = append(found, Obstacle{path, at, fmt.Sprintf("let the relay make files there: setfacl -m u:%d:rwx %s, or name a directory of its own", u.UID, dir)})
		}
	}
	for _, dir := range e.plan.Fills {
		if at, ok := blockedWithin(dir); ok {
			found = append(found, Obstacle{dir, at, fmt.Sprintf("chown -R %s %s", u, dir)})
		}
	}
	for _, path := range e.again {
		if at, ok := blocked(path, unix.R_OK); ok {
			found = append(found, Obstacle{path, at, hintFor(path, at, u)})
		}
	}
	return found
}

func hintFor(path, at string, u User) string {
	if at == path {
		return fmt.Sprintf("chown %d %s (for a file that is mounted or renewed: on the host, and after each renewal)", u.UID, path)
	}
	return fmt.Sprintf("chmod o+x %s, or: setfacl -m u:%d:x %s", at, u.UID, at)
}

// blocked finds the first directory on the way to path that cannot be entered,
// or path itself where it does not allow mode.
func blocked(path string, mode uint32) (at string, ok bool) {
	for dir := path; ; {
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir = parent
		if unix.Access(dir, unix.X_OK) != nil {
			at = dir // one further up counts more
		}
	}
	if at != "" {
		return at, true
	}
	return path, unix.Access(path, mode) != nil
}

// mostFiles bounds the look into one directory: what a relay fills is smaller.
const mostFiles = 10_000

// blockedWithin finds the first file or directory in dir, or dir itself, that
// cannot be read and written. A dir that is not there blocks nobody.
func blockedWithin(dir string) (at string, ok bool) {
	seen := 0
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if seen++; seen > mostFiles {
			return fs.SkipAll
		}
		mode := uint32(unix.R_OK | unix.W_OK)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err == nil && entry.Type()&fs.ModeSymlink != 0:
			return nil
		case err == nil && entry.IsDir():
			mode |= unix.X_OK
		}
		if err == nil {
			err = unix.Access(path, mode)
		}
		if err != nil {
			at = path
			return fs.SkipAll
		}
		return nil
	})
	return at, at != ""
}
