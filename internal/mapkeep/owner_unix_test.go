//go:build unix

package mapkeep

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// What only root can see: that it keeps owners, and whose links it follows.
func TestOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const nobody = 65534
	dir := t.TempDir()
	path := filepath.Join(dir, "derp.yaml")
	put(t, path, "one", 0o640)
	if err := os.Chown(path, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	mustReplace(t, path, "two", true)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); s.Uid != nobody || s.Gid != nobody || info.Mode().Perm() != 0o640 {
		t.Errorf("owner %d:%d, mode %v", s.Uid, s.Gid, info.Mode())
	}
	link := filepath.Join(dir, "link.yaml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	mustReplace(t, link, "three", true)
	if err := os.Lchown(link, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := replace(link, []byte("four")); err == nil {
		t.Error("root followed another user's link")
	}
	if got := get(t, path); got != "three" {
		t.Errorf("it holds %q", got)
	}
}
