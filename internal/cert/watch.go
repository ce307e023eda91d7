package cert

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	pollEvery  = time.Minute            // for file systems that report no changes
	settleTime = 200 * time.Millisecond // from the first change to the look at it: writers need several steps
	patience   = 5 * time.Second        // how long files may be wrong before it is said: somebody may be at work
)

// WatchOptions is what NewWatcher needs.
type WatchOptions struct {
	Source *Source        // serves Loaded; the watcher alone replaces what it serves
	Pairs  []Pair         // at least one
	Loaded []*Certificate // what LoadPairs returned for Pairs

	// Check may refuse what would be served, as when it lacks the relay's name.
	// Nil: nothing is refused.
	Check func([]*Certificate) error

	Logger *slog.Logger     // nil: logs nothing
	Now    func() time.Time // nil: time.Now

	Poll, Settle, Patience time.Duration // 0: a minute, 200 ms, 5 s
}

// Watcher serves the certificates of files as they are replaced. What cannot be
// served is refused pair by pair, with a log line, and the old one stays.
type Watcher struct {
	WatchOptions
	asked chan struct{} // holds a token while Reload wants a look

	// Owned by Run.
	pairs   []*watched
	entries map[string]bool // the paths of which a change matters: see trail
	dirs    map[string]bool // the directories that are watched for them
	deaf    bool            // the operator was told that a directory cannot be watched

	reloads, refused atomic.Uint64
	refusing         atomic.Pointer[[]string]
}

// NewWatcher returns a watcher, which does nothing before Run.
func NewWatcher(o WatchOptions) *Watcher {
	orDefault(&o.Poll, pollEvery)
	orDefault(&o.Settle, settleTime)
	orDefault(&o.Patience, patience)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	w := &Watcher{WatchOptions: o, asked: make(chan struct{}, 1), dirs: map[string]bool{}}
	for i, p := range o.Pairs {
		w.pairs = append(w.pairs, &watched{Pair: p, current: o.Loaded[i]})
	}
	w.refusing.Store(&[]string{})
	return w
}

func orDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Reload makes Run look at the files at once and log what it found, also that
// nothing changed. It does not wait.
func (w *Watcher) Reload() {
	select {
	case w.asked <- struct{}{}:
	default: // it is about to look
	}
}

// Run watches until ctx ends and then returns nil. Call it once.
func (w *Watcher) Run(ctx context.Context) error {
	events, errs, follow, unwatch := w.open()
	defer unwatch()
	poll := time.NewTicker(w.Poll)
	defer poll.Stop()
	// The first look finds what changed between the loading and the watching.
	settle, retry := time.NewTimer(0), time.NewTimer(w.Poll)
	defer settle.Stop()
	defer retry.Stop()
	settling := true
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				events = nil
			} else if !settling && w.concerns(e.Name) {
				settling = true
				settle.Reset(w.Settle)
			}
			continue
		case err, ok := <-errs: // such as too many events at once
			if !ok {
				errs = nil
				continue
			}
			w.Logger.Debug("watching the certificate files", "err", err)
		case <-w.asked:
			asked = true
		case <-settle.C:
			settling = false
		case <-poll.C:
		case <-retry.C:
		}
		follow()
		if w.scan(asked) {
			retry.Reset(w.Patience)
		}
	}
}

// open begins to hear of changes. Where that cannot be, the channels stay silent
// and the other two do nothing.
func (w *Watcher) open() (events <-chan fsnotify.Event, errs <-chan error, follow, unwatch func()) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		w.Logger.Warn("cannot watch the certificate files; they are read every "+w.Poll.String()+" instead", "err", err)
		return nil, nil, func() {}, func() {}
	}
	return n.Events, n.Errors, func() { w.follow(n) }, func() {
		_ = n.Close() // nothing was written
	}
}

// concerns reports whether a change of path may be one of the files' content. A
// watched directory that is itself moved or removed is one.
func (w *Watcher) concerns(path string) bool { return w.entries[path] || w.dirs[path] }

// follow watches the directories that now decide what the files are. It adds
// each every time: of one that was moved away and made anew only the path is the
// same.
func (w *Watcher) follow(n *fsnotify.Watcher) {
	w.entries = map[string]bool{}
	dirs := map[string]bool{}
	for _, p := range w.pairs {
		for _, file := range []string{p.CertFile, p.KeyFile} {
			for _, entry := range trail(file) {
				w.entries[entry] = true
				dirs[filepath.Dir(entry)] = true
			}
		}
	}
	for dir := range w.dirs {
		if !dirs[dir] {
			_ = n.Remove(dir) // it may be gone, and its watch with it
		}
	}
	w.dirs = dirs
	for dir := range dirs {
		if err := n.Add(dir); err != nil && !w.deaf {
			w.deaf = true
			w.Logger.Warn("cannot watch a directory of certificate files; they are read every "+w.Poll.String()+" in any case", "dir", dir, "err", err)
		}
	}
}

// WatchStats counts what a Watcher did.
type WatchStats struct {
	Reloads  uint64   `json:"reloads"`  // certificates that were taken from changed files
	Refused  uint64   `json:"refused"`  // contents of files that were not taken
	Refusing []string `json:"refusing"` // certificate files whose present content is not what is served; never null
}

// Stats returns the present figures.
func (w *Watcher) Stats() WatchStats {
	return WatchStats{Reloads: w.reloads.Load(), Refused: w.refused.Load(), Refusing: *w.refusing.Load()}
}
