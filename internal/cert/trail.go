package cert

import (
	"os"
	"path/filepath"
)

// maxLinks bounds how many symbolic links are followed in one path, as the
// system's own bound does.
const maxLinks = 40

// trail returns the directory entries that decide what path means: every
// symbolic link on the way, and the file at the end, which need not be there. A
// change of any of them may be a change of the file's content. Each is an
// absolute path with no link above its last element, so that its directory can
// be watched and the names in the events are the same text.
//
// ACME clients point a link at the newest file of an archive; Kubernetes points
// the link ..data at a new directory, and the file itself never changes.
func trail(path string) []string {
	path, err := filepath.Abs(path)
	if err != nil { // the working directory is gone: polling must do
		return nil
	}
	var entries []string
	for range maxLinks {
		link, target, ok := firstLink(path)
		if !ok {
			break
		}
		entries = append(entries, link)
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link), target)
		}
		path = filepath.Join(target, path[len(link):])
	}
	return append(entries, path)
}

// firstLink finds the link in path that the system would follow first.
func firstLink(path string) (link, target string, ok bool) {
	for end := len(filepath.VolumeName(path)) + 2; end <= len(path); end++ {
		if end < len(path) && !os.IsPathSeparator(path[end]) {
			continue
		}
		if target, err := os.Readlink(path[:end]); err == nil {
			return path[:end], target, true
		}
	}
	return "", "", false
}
