// Command pack writes what a release consists of, from binaries that are built
// already: archives with the binary and what it is deployed with, images for
// `docker load`, and the image's root file system for a Dockerfile. The same
// input gives the same bytes.
package main

import (
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "pack: %v\n", err)
		os.Exit(1)
	}
}

// options are the flags that the kinds of output share.
type options struct {
	out, binary, version, arch, roots string

	made  time.Time
	files []string // further files of an archive
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: pack archive|image|rootfs [flags] [FILE...]; hint: see make release")
	}
	var o options
	set := flag.NewFlagSet("pack "+args[0], flag.ContinueOnError)
	set.StringVar(&o.out, "o", "", "`file` to write")
	set.StringVar(&o.binary, "binary", "", "`file` of the static binary")
	set.StringVar(&o.version, "version", "dev", "`version` for names inside")
	set.StringVar(&o.arch, "arch", "amd64", "amd64, arm64 or armv7")
	set.StringVar(&o.roots, "roots", "/etc/ssl/certs/ca-certificates.crt", "PEM `file` of CA certificates for an image")
	if err := set.Parse(args[1:]); err != nil {
		return err
	}
	o.files = set.Args()
	var err error
	if o.made, err = epoch(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return err
	}
	binary, err := os.ReadFile(o.binary)
	if err != nil {
		return fmt.Errorf("read the binary: %w; hint: name it with -binary, after make build", err)
	}
	write, err := o.writer(args[0], binary)
	if err != nil {
		return err
	}
	return writeFile(o.out, write)
}

// epoch reads seconds since 1970, which other build tools take from the same
// variable; empty is 1980, before which ZIP and some tools know no time.
func epoch(text string) (time.Time, error) {
	if text == "" {
		return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q is no number of seconds", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

var platforms = map[string]platform{
	"amd64": {"linux", "amd64", ""}, "arm64": {"linux", "arm64", ""}, "armv7": {"linux", "arm", "v7"},
}

func (o options) writer(kind string, binary []byte) (func(io.Writer) error, error) {
	if kind == "archive" {
		entries, err := o.archive(binary)
		if err != nil {
			return nil, err
		}
		return func(w io.Writer) error {
			z := gzip.NewWriter(w) // its header holds no time and no name
			if err := writeTar(z, o.made, entries); err != nil {
				return err
			}
			return z.Close()
		}, nil
	}
	roots, err := os.ReadFile(o.roots)
	if err != nil {
		return nil, fmt.Errorf("read CA certificates: %w; hint: install ca-certificates, or name a PEM file with -roots", err)
	}
	fs := rootFS(binary, roots)
	switch kind {
	case "rootfs":
		return func(w io.Writer) error { return writeTar(w, o.made, fs) }, nil
	case "image":
		p, ok := platforms[o.arch]
		if !ok {
			return nil, fmt.Errorf("-arch %q is unknown; hint: use amd64, arm64 or armv7", o.arch)
		}
		return func(w io.Writer) error { return imageArchive(w, o.version, p, o.made, fs) }, nil
	}
	return nil, fmt.Errorf("%q is unknown; hint: archive, image or rootfs", kind)
}

// archive puts everything into one directory, which is named after the release.
func (o options) archive(binary []byte) ([]entry, error) {
	dir := strings.TrimSuffix(path.Base(o.out), ".tar.gz") + "/"
	entries := []entry{{name: dir, mode: 0o755}, {name: dir + "detour", mode: 0o755, data: binary}}
	for _, file := range o.files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{name: dir + path.Base(file), mode: 0o644, data: data})
	}
	return entries, nil
}
