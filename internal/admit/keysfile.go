package admit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Bounds of a file of keys.
const (
	maxKeysFile = 8 << 20 // bytes
	maxFileKeys = 100_000
	// keysPoll is how often the file is looked at. A look costs one system call,
	// and sees every way of replacing a file.
	keysPoll = time.Second
)

// KeysFile is the source of the keys in a file: one in a line, and after it, if
// wanted, a name and labels. What stands behind # is for people. It is read again
// when it changes; what cannot be read leaves the keys as they were.
type KeysFile struct {
	path   string
	logger *slog.Logger

	members atomic.Pointer[map[key.Public]Member]

	mu      sync.Mutex
	taken   fileMark // guarded by mu; of what is in force
	seen    fileMark // guarded by mu; of what was last looked at
	read    bool     // guarded by mu; what was last looked at was read
	failed  error    // guarded by mu; why the file is not what is in force
	reloads uint64   // guarded by mu
}

// fileMark tells a file's contents from others without reading them.
type fileMark struct {
	size int64
	mod  time.Time
	info fs.FileInfo // for os.SameFile
}

func (m fileMark) same(info fs.FileInfo) bool {
	return m.info != nil && m.size == info.Size() && m.mod.Equal(info.ModTime()) && os.SameFile(m.info, info)
}

// NewKeysFile reads the file. It must be there and right at the start.
func NewKeysFile(path string, logger *slog.Logger) (*KeysFile, error) {
	f := &KeysFile{path: path, logger: logger}
	if f.logger == nil {
		f.logger = slog.New(slog.DiscardHandler)
	}
	info, members, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	f.members.Store(&members)
	f.taken = fileMark{info.Size(), info.ModTime(), info}
	f.seen, f.read = f.taken, true
	return f, nil
}

// Name is "keys:" and the path.
func (f *KeysFile) Name() string { return "keys:" + f.path }

// Peek knows always.
func (f *KeysFile) Peek(r Request) (Verdict, bool) {
	if m, ok := (*f.members.Load())[r.Key]; ok {
		return Verdict{Answer: Allow, Member: m}, true
	}
	return Verdict{}, true
}

// Decide is Peek.
func (f *KeysFile) Decide(_ context.Context, r Request) (Verdict, error) {
	v, _ := f.Peek(r)
	return v, nil
}

// Serve looks at the file once a second until ctx is done.
func (f *KeysFile) Serve(ctx context.Context, changed func()) error {
	tick := time.NewTicker(keysPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if f.look() {
				changed()
			}
		}
	}
}

// look reads the file once it has changed and is the same at two looks: who writes
// it in place empties it first. It reports whether the keys have changed.
func (f *KeysFile) look() bool {
	info, err := os.Stat(f.path)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil:
		f.refuse(fmt.Errorf("read the keys: %w; %s", err, hintKeys))
		f.seen, f.read = fileMark{}, true
		return false
	case f.taken.same(info):
		f.failed = nil
		f.seen, f.read = f.taken, true
		return false
	case !f.seen.same(info):
		f.seen, f.read = fileMark{info.Size(), info.ModTime(), info}, false
		return false
	case f.read:
		return false
	}
	info, members, err := readKeys(f.path)
	if err == nil && !f.seen.same(info) {
		return false // it has changed since: another look
	}
	// What is wrong in it stays wrong until it changes; that it could not be read need not.
	f.read = err == nil || info != nil
	if err != nil {
		f.refuse(err)
		return false
	}
	if len(members) == 0 && len(*f.members.Load()) > 0 {
		f.logger.Warn("the file of keys is empty now: nobody is admitted by it any more; hint: if that is not meant so, put the keys back", "file", f.path)
	}
	f.failed = nil
	f.reloads++
	f.taken = fileMark{info.Size(), info.ModTime(), info}
	f.members.Store(&members)
	f.logger.Info("read the file of keys again", "file", f.path, "keys", len(members))
	return true
}

// refuse notes why the file is not taken, and says so once. The caller holds mu.
func (f *KeysFile) refuse(err error) {
	if f.failed == nil || f.failed.Error() != err.Error() {
		f.logger.Error("the file of keys is not taken, and the keys stay as they were", "file", f.path, "err", err)
	}
	f.failed = err
}

const hintKeys = "hint: write one node key a line there, as in: nodekey:<64 hex digits> laptop"

// readKeys reads and parses. info is of what was read; nil when nothing could be.
func readKeys(path string) (info fs.FileInfo, members map[key.Public]Member, err error) {
	if info, err = os.Stat(path); err == nil && !info.Mode().IsRegular() { // to open a pipe may take for ever
		return info, nil, fmt.Errorf("%s is no file; %s", path, hintKeys)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the keys: %w; %s", err, hintKeys)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeysFile+1))
	if err == nil {
		info, err = f.Stat() // after the last byte: who writes in place has begun or not
	}
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("read the keys: %w; %s", err, hintKeys)
	case len(text) > maxKeysFile:
		return info, nil, fmt.Errorf("%s is larger than %d MiB; hint: is it the file of keys?", path, maxKeysFile>>20)
	}
	if members, err = ParseKeys(text); err != nil {
		return info, nil, fmt.Errorf("%s: %w", path, err)
	}
	return info, members, nil
}

// ParseKeys reads the lines of a file of keys. The error names the line.
func ParseKeys(text []byte) (map[key.Public]Member, error) {
	members := make(map[key.Public]Member)
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))) {
		n++
		before, _, _ := strings.Cut(string(line), "#")
		words := strings.Fields(before)
		if len(words) == 0 {
			continue
		}
		k, err := key.ParsePublic(words[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w; hint: %s", n, err, keyHint(words[0]))
		}
		var m Member
		if len(words) > 1 {
			m.Name, m.Tags = words[1], words[2:]
		}
		if err := checkWords("line", strings.Join(words[1:], " ")); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		members[k] = m
		if len(members) > maxFileKeys {
			return nil, fmt.Errorf("line %d: more than %d keys; hint: let Detour ask a server that knows your nodes", n, maxFileKeys)
		}
	}
	return members, nil
}

func keyHint(word string) string {
	kind, _, some := strings.Cut(word, ":")
	if some && kind != "nodekey" {
		return fmt.Sprintf("a %s is no node key; `tailscale status --json | grep -m1 PublicKey` on the node shows that", kind)
	}
	return "a line begins with nodekey: and 64 hex digits; a name may follow"
}

// KeysReport are the figures of a KeysFile.
type KeysReport struct {
	Keys    int    `json:"keys"`
	Reloads uint64 `json:"reloads"`
	Error   string `json:"error,omitempty"` // why the file is not what is in force
}

// Report returns the figures.
func (f *KeysFile) Report() any {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := KeysReport{Keys: len(*f.members.Load()), Reloads: f.reloads}
	if f.failed != nil {
		r.Error = f.failed.Error()
	}
	return r
}
