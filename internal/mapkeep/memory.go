package mapkeep

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
)

// DirName is the directory in the state directory that holds the last good map of
// each source, and the last public address.
const DirName = "maps"

// good is a source's last good map.
type good struct {
	Source    string          `json:"source"` // for people
	Confirmed time.Time       `json:"confirmed"`
	Version   derpmap.Version `json:"version"`
	Map       derpmap.Map     `json:"map"`
}

// memory keeps the last good maps on disk.
type memory struct{ dir string }

// fileOf is named by a hash: a place holds slashes, and may hold a secret.
func (m memory) fileOf(s Source) string {
	sum := sha256.Sum256([]byte(s.Place))
	return filepath.Join(m.dir, hex.EncodeToString(sum[:8])+".json")
}

// load returns what is kept of a source; false: nothing that can be used.
func (m memory) load(s Source) (good, bool) {
	var g good
	if err := readJSON(m.fileOf(s), &g); err != nil || derpmap.Usable(g.Map) != nil {
		return good{}, false
	}
	return g, true
}

func (m memory) keep(s Source, g good) error { return writeJSON(m.fileOf(s), g) }

// readJSON reads a file that writeJSON has written.
func readJSON(path string, out any) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > 2*derpmap.MaxSize {
		return errors.New("it is too large")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, out)
}

// writeJSON replaces a file of ours in the state directory, which is made when it
// is missing.
func writeJSON(path string, v any) error {
	var text bytes.Buffer
	if err := json.NewEncoder(&text).Encode(v); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a link", path)
	}
	_, err := replace(path, text.Bytes())
	return err
}
