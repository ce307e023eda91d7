package cert

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What is no file of the relay's own, or not beside the other, is not given another
// name at the end: it is said at the beginning, when nothing was done.
func TestBeginRefusesLinks(t *testing.T) {
	for _, which := range []int{0, 1} {
		certFile, keyFile, old := rotated(t)
		file := []string{certFile, keyFile}[which]
		elsewhere := filepath.Join(t.TempDir(), "it")
		if err := errors.Join(os.Rename(file, elsewhere), os.Symlink(elsewhere, file)); err != nil {
			t.Skipf("SKIPPED: this system makes no symbolic links: %v", err)
		}
		_, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, nil, time.Now())
		wantError(t, err, file+" is a symbolic link", "cp -p --remove-destination")
		if _, err := LoadRotation(certFile, keyFile); !errors.Is(err, ErrNoRotation) || loadedPin(t, certFile, keyFile) != old {
			t.Errorf("%s: something was done: %v", file, err)
		}
	}
	certFile, keyFile, _ := rotated(t)
	other := filepath.Join(t.TempDir(), "pin.key")
	if err := os.Rename(keyFile, other); err != nil {
		t.Fatal(err)
	}
	_, err := BeginRotation(certFile, other, Place{Listen: ":8444"}, nil, time.Now())
	wantError(t, err, "are in different directories")
}

// A lock, like all that the commands make, is made nowhere but in the directory.
func TestLockFollowsNoLink(t *testing.T) {
	certFile, keyFile, _ := rotated(t)
	outside := filepath.Join(t.TempDir(), "made")
	if err := os.Remove(certFile + ".lock"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, certFile+".lock"); err != nil {
		t.Skipf("SKIPPED: this system makes no symbolic links: %v", err)
	}
	_, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, nil, time.Now())
	if _, there := os.Lstat(outside); err == nil || !errors.Is(there, fs.ErrNotExist) {
		t.Errorf("begun: %v; made outside: %v", err, there)
	}
	fresh := filepath.Join(filepath.Dir(certFile), "fresh.crt")
	if err := os.Symlink(outside, fresh+".lock"); err != nil {
		t.Fatal(err)
	}
	_, _, err = LoadOrCreatePin(fresh, filepath.Join(filepath.Dir(certFile), "fresh.key"), nil, time.Now())
	if _, there := os.Lstat(outside); err == nil || !errors.Is(there, fs.ErrNotExist) {
		t.Errorf("a pin: %v; made outside: %v", err, there)
	}
}

// Of several who begin at once, or take one step at once, one does.
func TestStepsAtOnce(t *testing.T) {
	certFile, keyFile, _ := rotated(t)
	atOnce := func(what string, step func() error) {
		t.Helper()
		var done atomic.Int64
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				switch err := step(); {
				case err == nil:
					done.Add(1)
				case !errors.Is(err, ErrRotating) && !errors.Is(err, ErrWrongPhase):
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		all.Wait()
		if done.Load() != 1 {
			t.Errorf("%s was done %d times", what, done.Load())
		}
	}
	atOnce("begin", func() error {
		_, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, nil, time.Now())
		return err
	})
	load := func() Rotation {
		t.Helper()
		r, err := LoadRotation(certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := load()
	_, nextCert, nextKey := RotationFiles(certFile)
	if loadedPin(t, nextCert, nextKey) != r.NewPin {
		t.Error("the pair is another one's than the state")
	}
	atOnce("withdraw", func() error { _, err := r.Withdraw(certFile, time.Now()); return err })
	r = load()
	atOnce("finish", func() error { _, err := r.Finish(certFile, keyFile, time.Now()); return err })
	if r = load(); r.Phase != PhaseClosing || loadedPin(t, certFile, keyFile) != r.NewPin {
		t.Errorf("came to %+v", r)
	}
	atOnce("end", func() error { return r.End(certFile) })
}

// chowned notes what it was given to.
type chowned struct{ uid, gid int }

func (c *chowned) Chown(uid, gid int) error { c.uid, c.gid = uid, gid; return nil }

// What the commands make belongs to whom the files beside it do, with their mode.
func TestOwnerAndMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no such owner")
	}
	certFile, keyFile, _ := rotated(t)
	info, err := os.Lstat(certFile)
	if err != nil {
		t.Fatal(err)
	}
	c := chowned{-1, -1}
	if giveOwner(&c, nil); c != (chowned{-1, -1}) {
		t.Error("given to somebody")
	}
	if giveOwner(&c, info); c != (chowned{os.Geteuid(), gidOf(t, info)}) {
		t.Errorf("given to %+v", c)
	}

	uid, gid := someOwner(t)
	for _, file := range []string{filepath.Dir(certFile), certFile, keyFile} {
		if err := os.Chown(file, uid, gid); err != nil {
			t.Skipf("SKIPPED: this user can give files to nobody: %v", err)
		}
	}
	if err := errors.Join(os.Chmod(certFile, 0o640), os.Remove(certFile+".lock")); err != nil {
		t.Fatal(err)
	}
	r, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, nil, time.Now())
	if err == nil {
		r, err = r.Withdraw(certFile, time.Now())
	}
	state, nextCert, nextKey := RotationFiles(certFile)
	belong := func(files ...string) {
		t.Helper()
		for _, file := range files {
			info, err := os.Lstat(file)
			if err != nil {
				t.Fatal(err)
			}
			if u, g, _ := ownerOf(info); u != uid || g != gid {
				t.Errorf("%s belongs to %d:%d, want %d:%d", filepath.Base(file), u, g, uid, gid)
			}
		}
	}
	belong(state, nextCert, nextKey, certFile+".lock")
	if err == nil {
		_, err = r.Finish(certFile, keyFile, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	belong(state, certFile, keyFile, certFile+".old", keyFile+".old")
	for file, want := range map[string]fs.FileMode{certFile + ".old": 0o640, keyFile + ".old": 0o600, certFile: 0o644, keyFile: 0o600} {
		if info, err := os.Lstat(file); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v", filepath.Base(file), info.Mode(), err)
		}
	}
}

func gidOf(t *testing.T, info fs.FileInfo) int {
	t.Helper()
	_, gid, ok := ownerOf(info)
	if !ok {
		t.Fatal("no owner")
	}
	return gid
}

// someOwner is one that this user may give files to, if there is another than itself.
func someOwner(t *testing.T) (uid, gid int) {
	t.Helper()
	if os.Geteuid() == 0 {
		return 4711, 4712
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if g != os.Getegid() {
			return os.Geteuid(), g
		}
	}
	t.Skip("SKIPPED: this user is in one group, and not root: it can give files to nobody")
	return 0, 0
}

// A damaged state is said, whatever is wrong with it, and takes nothing along.
func TestRotationOfNonsense(t *testing.T) {
	for _, text := range []string{
		"", "{", "null", "[]", "{}", `{"phase":"both"}`, `{"phase":"both","listen":"8444","new_pin":"x"}`, `{"phase":"both","listen":":0","new_pin":"x"}`,
		`{"phase":"moved","listen":":8444"}`, `{"phase":"moved","listen":":8444","authority":true,"new_pin":"x"}`, `{"phase":"swept","listen":":8444","new_pin":"x"}`,
		`{"phase":5}`, strings.Repeat("\x00", 4096),
	} {
		certFile, keyFile, old := rotated(t)
		state, _, _ := RotationFiles(certFile)
		if err := os.WriteFile(state, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadRotation(certFile, keyFile)
		if !errors.Is(err, errBadRotation) {
			t.Errorf("%.40q: %v", text, err)
		}
		wantError(t, err, filepath.Base(state), "; hint: ")
		if loadedPin(t, certFile, keyFile) != old {
			t.Errorf("%.40q: the pin has changed", text)
		}
	}
}
