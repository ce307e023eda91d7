package mapkeep

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
)

// Source is another map that goes into the kept one: a file, or a URL.
type Source struct {
	Place string // path, or http or https URL
	// Of a URL; see derpmap.FetchOptions.
	Pin    string
	CAFile string
	Token  func() (string, error)
}

// Name is the place as people may see it: in logs, statistics and answers.
func (s Source) Name() string { return derpmap.ShownURL(s.Place) }

// reader brings the map of one source. It is used by one goroutine.
type reader interface {
	// Fetch is as of derpmap.Fetcher.
	Fetch(ctx context.Context, have derpmap.Version) (derpmap.Fetched, error)
}

// newReader returns what reads a source, and how often a file is looked at.
func newReader(s Source) (reader, error) {
	if !derpmap.IsURL(s.Place) {
		return &fileReader{path: s.Place}, nil
	}
	f, err := derpmap.NewFetcher(derpmap.FetchOptions{URL: s.Place, Pin: s.Pin, CAFile: s.CAFile, Token: s.Token})
	if err != nil {
		return nil, fmt.Errorf("map_sources: %s: %w", s.Name(), err)
	}
	return f, nil
}

// fileReader reads a file again once it has changed and is the same at two looks:
// who writes it in place empties it first.
type fileReader struct {
	path  string
	taken mark // of what was read
	seen  mark // at the last look
	once  bool // it was looked at
}

// mark tells a file's contents from others without reading them.
type mark struct {
	size int64
	mod  time.Time
	info os.FileInfo // for os.SameFile; nil: there was none
}

func markOf(info os.FileInfo) mark { return mark{info.Size(), info.ModTime(), info} }

func (m mark) same(o mark) bool {
	return m.info != nil && m.size == o.size && m.mod.Equal(o.mod) && os.SameFile(m.info, o.info)
}

// Fetch reads the file. have says whether it was taken before.
func (f *fileReader) Fetch(_ context.Context, have derpmap.Version) (derpmap.Fetched, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		f.seen = mark{}
		return derpmap.Fetched{}, fmt.Errorf("read the map: %w; hint: check the path in map_sources", err)
	}
	now := markOf(info)
	settled := f.seen.same(now) || !f.once
	f.seen, f.once = now, true
	known := have != derpmap.Version{}
	if known && (f.taken.same(now) || !settled) {
		return derpmap.Fetched{Unchanged: true, Version: have}, nil
	}
	m, err := readMap(f.path)
	if err != nil {
		return derpmap.Fetched{}, err
	}
	f.taken = now
	return derpmap.Fetched{Map: m, Version: derpmap.Version{LastModified: info.ModTime().UTC().Format(time.RFC3339Nano)}}, nil
}

// readMap reads a file in the form that its name or its first character says.
func readMap(path string) (derpmap.Map, error) {
	file, err := os.Open(path)
	if err != nil {
		return derpmap.Map{}, fmt.Errorf("read the map: %w; hint: let this user read it", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, derpmap.MaxSize+1))
	if err != nil {
		return derpmap.Map{}, fmt.Errorf("read the map: %w; hint: is it a file?", err)
	}
	m, err := derpmap.Parse(filepath.Ext(path), text)
	if err != nil {
		return derpmap.Map{}, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
