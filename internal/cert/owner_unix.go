//go:build unix

package cert

import (
	"os"
	"syscall"
)

// likeOwner gives path the owner of another file, as far as this user may: what
// root makes beside the files of a relay that is not root must be readable to it.
func likeOwner(path, other string) {
	info, err := os.Stat(other)
	if err != nil {
		return
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		_ = os.Lchown(path, int(s.Uid), int(s.Gid)) // whoever may not is the owner already, or has no way
	}
}
