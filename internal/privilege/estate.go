package privilege

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Plan says what a relay needs on disk.
type Plan struct {
	StateDir string
	Shared   bool     // StateDir may hold what is not the relay's: it changes hands only where it does not
	Keeps    []string // files that the relay makes when they are missing
	Makes    []string // sockets that it makes anew at each start
	Fills    []string // directories whose every file it reads and writes while it runs
	Again    []string // files that others make and that it reads again while it runs
	Replaces []string // files that it puts another in the place of while it runs
}

// Estate is what a relay keeps on disk, as it stood before the relay made any
// of it.
type Estate struct {
	plan    Plan
	whole   bool     // the state directory and all in it changes hands
	missing []string // files and directories that were not there yet
	again   []string // Plan.Again, and what the links among them lead to

	chown func(path string, uid, gid int) error // of path itself, never of what a link leads to
}

// Survey notes what is there before the relay starts.
func Survey(p Plan) *Estate {
	e := &Estate{plan: p, again: p.Again, chown: os.Lchown}
	for _, path := range withParents(append([]string{p.StateDir}, p.Keeps...)) {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			e.missing = append(e.missing, path)
		}
	}
	e.whole = !p.Shared || slices.Contains(e.missing, filepath.Clean(p.StateDir)) ||
		onlyHolds(p.StateDir, slices.Concat(p.Keeps, p.Makes))
	for _, path := range p.Again {
		if real, err := filepath.EvalSymlinks(path); err == nil && real != filepath.Clean(path) {
			e.again = append(e.again, real)
		}
	}
	return e
}

// withParents adds the directory of each path and those above it.
func withParents(paths []string) []string {
	var all []string
	for _, path := range paths {
		for {
			path = filepath.Clean(path)
			if slices.Contains(all, path) {
				break
			}
			all = append(all, path)
			path = filepath.Dir(path)
		}
	}
	return all
}

// onlyHolds reports whether nothing but files of these paths is in dir.
func onlyHolds(dir string, paths []string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, entry := range entries {
		if !slices.Contains(paths, filepath.Join(dir, entry.Name())) {
			return false
		}
	}
	return true
}

// Obstacle is what keeps the new user from something that the relay needs.
type Obstacle struct {
	Path string // what is needed
	At   string // where the way to it ends: the path itself or a directory above it
	Hint string // what to type as root
}
