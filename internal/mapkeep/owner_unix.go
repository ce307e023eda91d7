//go:build unix

package mapkeep

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives f the owner and group that a file had. It reports whether whoever
// could read that by its mode still can.
func keepOwner(f *os.File, before fs.FileInfo) bool {
	old, ok := before.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	if f.Chown(int(old.Uid), int(old.Gid)) == nil {
		return true
	}
	_ = f.Chown(-1, int(old.Gid)) // the group at least, which needs to be one of ours
	return false
}

// trusted reports whether a link may be followed.
func trusted(link fs.FileInfo) bool {
	s, ok := link.Sys().(*syscall.Stat_t)
	return os.Geteuid() != 0 || ok && s.Uid == 0
}
