package main

import (
	"archive/tar"
	"io"
	"os"
	"strings"
	"time"
)

// entry is one file or directory of an archive.
type entry struct {
	name string // relative, with / at the end of a directory
	mode int64
	id   int // owner and group
	data []byte
}

// The user of the image: the one that distroless images made known.
const (
	imageUser = 65532
	binary    = "usr/local/bin/detour"
)

// passwd lets run_as and tools in the image put names to ids.
const (
	passwd = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/var/lib/detour:/sbin/nologin\n"
	group  = "root:x:0:\nnonroot:x:65532:\n"
)

// rootFS is the image's whole file system: the binary and what it reads. There is
// no shell. The directories that the relay writes to belong to the unprivileged
// user, and root hands over what is mounted there.
func rootFS(detour, roots []byte) []entry {
	return []entry{
		{name: "app/", mode: 0o755},
		{name: "app/certs/", mode: 0o755, id: imageUser},
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, data: []byte(group)},
		{name: "etc/passwd", mode: 0o644, data: []byte(passwd)},
		{name: "etc/ssl/", mode: 0o755},
		{name: "etc/ssl/certs/", mode: 0o755},
		{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, data: roots},
		{name: "tmp/", mode: 0o1777},
		{name: "usr/", mode: 0o755},
		{name: "usr/local/", mode: 0o755},
		{name: "usr/local/bin/", mode: 0o755},
		{name: binary, mode: 0o755, data: detour},
		{name: "var/", mode: 0o755},
		{name: "var/lib/", mode: 0o755},
		{name: "var/lib/derper/", mode: 0o755, id: imageUser},
		{name: "var/lib/detour/", mode: 0o700, id: imageUser},
	}
}

// writeTar writes entries in their order. Equal entries give equal bytes: owners
// have no names, and the only time is made.
func writeTar(w io.Writer, made time.Time, entries []entry) error {
	t := tar.NewWriter(w)
	for _, e := range entries {
		h := &tar.Header{
			Name: e.name, Mode: e.mode, Uid: e.id, Gid: e.id, Size: int64(len(e.data)), ModTime: made,
			Typeflag: tar.TypeReg, Format: tar.FormatPAX,
		}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(e.data); err != nil {
			return err
		}
	}
	return t.Close()
}

// writeFile writes a file whole or not at all.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	defer os.Remove(path + ".new") // gone by then, if all went well
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
