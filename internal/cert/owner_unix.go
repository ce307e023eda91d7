//go:build unix

package cert

import (
	"io/fs"
	"syscall"
)

// nonblock makes the opening of a pipe return at once, where it would wait for
// somebody at the other end. It does nothing to files.
const nonblock = syscall.O_NONBLOCK

// ownerOf returns who owns a file.
func ownerOf(info fs.FileInfo) (uid, gid int, ok bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return int(s.Uid), int(s.Gid), true
}
