package cert

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The commands make files in the relay's directory, which may belong to another
// user than the one who runs them, who may be root. So nothing that leads out of the
// directory is followed, nothing is waited for that need not come, and what is made
// belongs to whom the files beside it do.

// giveOwner gives a file that was just made the owner of another, as far as this user
// may: whoever may not is the owner already, or has no way. Nil gives it nobody.
func giveOwner(f interface{ Chown(uid, gid int) error }, like fs.FileInfo) {
	if like == nil {
		return
	}
	if uid, gid, ok := ownerOf(like); ok {
		_ = f.Chown(uid, gid)
	}
}

// openLock opens the file that a lock is held on, and makes it if need be. It is not
// written to.
func openLock(path string) (*os.File, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	name := filepath.Base(path)
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		if dir, err := root.Stat("."); err == nil {
			giveOwner(f, dir)
		}
		return f, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", path)
	}
	f, err = root.OpenFile(name, os.O_RDWR|nonblock, 0)
	if errors.Is(err, fs.ErrPermission) { // some systems lock what may only be read
		f, err = root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	}
	return f, err
}

// replaceFile puts data at path at once and whole, for the owner of another file.
func replaceFile(path string, data []byte, mode os.FileMode, like fs.FileInfo) error {
	staged, err := stage(path, data, mode, like)
	if err != nil {
		return writeFault(err)
	}
	defer os.Remove(staged) // fails once it is renamed, as it should
	if err := os.Rename(staged, path); err != nil {
		return writeFault(err)
	}
	return syncDir(filepath.Dir(path))
}

// copyFile keeps a file of the relay's under another name beside it, with its mode
// and owner.
func copyFile(from, to string) error {
	root, err := os.OpenRoot(filepath.Dir(from))
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.OpenFile(filepath.Base(from), os.O_RDONLY|nonblock, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", from)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize))
	if err != nil {
		return err
	}
	return replaceFile(to, data, info.Mode().Perm(), info)
}

// ownFiles returns what the pair's files are, which must be files themselves and
// beside each other: they are about to be given other names.
func ownFiles(certFile, keyFile string) (certInfo, keyInfo fs.FileInfo, err error) {
	if filepath.Dir(certFile) != filepath.Dir(keyFile) {
		return nil, nil, fault(fmt.Sprintf("%s and %s are in different directories, and a rotation gives files beside each other their names", certFile, keyFile),
			"put both into the state directory, and leave --cert and --key out")
	}
	var infos [2]fs.FileInfo
	for i, file := range []string{certFile, keyFile} {
		if infos[i], err = os.Lstat(file); err != nil {
			return nil, nil, readFault([]string{"certificate", "key"}[i], "--state-dir", file, err)
		}
		switch mode := infos[i].Mode(); {
		case mode.IsRegular():
		case mode&fs.ModeSymlink == 0:
			return nil, nil, fault(file+" is no file", "put it back from a backup")
		default:
			return nil, nil, fault(file+" is a symbolic link, and a rotation gives the new file its name, so that what it leads to would stay the old one",
				fmt.Sprintf("put the file itself there, with its owner: cp -p --remove-destination \"$(readlink -f %[1]s)\" %[1]s", file))
		}
	}
	return infos[0], infos[1], nil
}
