// Package mapkeep keeps a DERP map for a control server: this relay's own region
// and the maps of others as one, in a file that is replaced as a whole and under a
// URL, with the last good state of each source kept on disk.
//
// It goes like this:
//
//  1. feed.go: each source has a goroutine that reads it, and offers what is new to
//     the Keeper, which takes it if the whole can still be used.
//  2. keeper.go: Serve makes the map anew whenever a source or this relay has
//     changed, and every half minute to be sure.
//  3. combine.go says what stands in it, file.go writes it, handler.go serves it.
//
// follow.go is apart: it finds out at which public address this machine is.
package mapkeep

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
)

const (
	// safety is how often the map is made anew without being told of a change. It also
	// mends the file when somebody else has changed it.
	safety = 30 * time.Second
	// grace is how long a source may fail before that is a problem, when nothing of it
	// is known.
	grace = 2 * time.Minute
	// firstWait is how long nothing is published for a source of which nothing is known
	// yet: the file may hold regions of it from before.
	firstWait = 40 * time.Second
	// staleAfter is how many refreshes a URL may miss before that is a problem.
	staleAfter = 3
)

// comment stands at the head of a YAML file. It says nothing that changes: a file
// whose map is the same is not written.
const comment = `# A DERP map for Headscale, kept by detour serve (setting map_write). Do not edit:
# it is replaced as a whole when the map changes. In Headscale's configuration:
#
#   derp:
#     paths:
#       - THIS FILE
#     auto_update_enabled: true
#     update_frequency: 30m
`

// Settings are what may change while a Keeper runs.
type Settings struct {
	// File is written when the map changes: as JSON if its name ends in .json, and as
	// Headscale's YAML otherwise. Empty: none.
	File    string
	Sources []Source      // in ascending order of priority
	Refresh time.Duration // between two fetches of a URL
}

// ErrNotYet is what Options.Own returns while something is under way that decides
// its map. It is no trouble: what is kept stays as it is until a Poke.
var ErrNotYet = errors.New("the map is not known yet")

// Options are what a Keeper needs.
type Options struct {
	Settings
	// Own makes this relay's own map. It is called by one goroutine at a time, and is
	// quick. An error leaves what is kept as it is. Required.
	Own      func() (derpmap.Map, error)
	StateDir string       // holds the last good maps, in DirName
	Logger   *slog.Logger // nil: silent

	open func(Source) (reader, error) // nil: newReader; for tests
}

// Keeper keeps a map up to date.
type Keeper struct {
	own    func() (derpmap.Map, error)
	memory memory
	log    *slog.Logger
	poked  chan struct{}
	open   func(Source) (reader, error)

	mu       sync.Mutex
	want     Settings  // Guarded by mu.
	renew    bool      // Guarded by mu. want is not what the feeds run by yet.
	sources  []*state  // Guarded by mu, as what it points to.
	current  published // Guarded by mu.
	problems []string  // Guarded by mu; of the last combination.
	ownErr   error     // Guarded by mu.
	fileErr  error     // Guarded by mu.
	written  time.Time // Guarded by mu; when the file was last replaced, in this run.

	// Owned by Serve.
	lastOwn derpmap.Map
	told    string // the last trouble with this relay's map or the file, said once
}

// published is one state of the map.
type published struct {
	json, own []byte // the whole, and this relay's part alone
	etag      string // of json
	ownETag   string
	at        time.Time
	regions   int
}

// New reads what was kept of the sources, and tells whether the file can be written.
// Nothing is fetched or written before Serve. Errors end in a hint.
func New(o Options) (*Keeper, error) {
	k := &Keeper{
		own: o.Own, memory: memory{filepath.Join(o.StateDir, DirName)}, log: o.Logger,
		poked: make(chan struct{}, 1), open: o.open,
	}
	if k.open == nil {
		k.open = newReader
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if err := k.Set(o.Settings); err != nil {
		return nil, err
	}
	return k, nil
}

// Set puts other settings in the place of those that there are. Sources that stay
// keep what is known of them. After an error nothing has changed; it ends in a hint.
func (k *Keeper) Set(s Settings) error {
	if s.File != "" {
		if err := checkReplaceable(s.File); err != nil {
			return fmt.Errorf("map_write: %w; hint: the relay's user must be able to make files in %s, as it replaces the file as a whole; "+
				"give it the directory, or write to another one", err, filepath.Dir(s.File))
		}
	}
	next := make([]*state, 0, len(s.Sources))
	for _, source := range s.Sources {
		r, err := k.open(source)
		if err != nil {
			return err
		}
		next = append(next, &state{source: source, reader: r, began: time.Now()})
	}
	k.mu.Lock()
	old := k.sources
	k.mu.Unlock()
	for _, n := range next { // reads files, so not under mu; who calls Set does it once at a time
		if g, ok := k.memory.load(n.source); ok {
			n.good, n.known = g, true
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range next {
		for _, o := range old {
			if o.source.Place == n.source.Place && o.known {
				n.good, n.known, n.tried = o.good, true, o.tried
			}
		}
	}
	if s.File != k.want.File {
		k.written, k.fileErr = time.Time{}, nil
	}
	k.want, k.sources, k.renew = s, next, true
	k.wake()
	return nil
}

// Poke tells that this relay's own map may have changed. It never waits.
func (k *Keeper) Poke() { k.wake() }

func (k *Keeper) wake() {
	select {
	case k.poked <- struct{}{}:
	default: // it is awake already
	}
}

// Serve keeps the map until ctx is done, and returns nil once nothing of it runs any
// more. Call it once.
func (k *Keeper) Serve(ctx context.Context) error {
	tick := time.NewTicker(safety)
	defer tick.Stop()
	stop := func() {}
	defer func() { stop() }()
	for {
		if states, refresh, renew := k.toFeed(); renew {
			stop()
			stop = k.startFeeds(ctx, states, refresh)
		}
		k.publish(time.Now())
		select {
		case <-k.poked:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// toFeed returns what feeds are to run, once after each Set.
func (k *Keeper) toFeed() (states []*state, refresh time.Duration, renew bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	renew, k.renew = k.renew, false
	return k.sources, k.want.Refresh, renew
}

// publish makes the map anew, and writes it when it has changed. Trouble is logged
// once, until it is another or over.
func (k *Keeper) publish(now time.Time) {
	own, ownErr := k.ask()
	var err error
	if own.Regions != nil {
		var next published
		var text []byte
		if next, text, err = k.make(own, now); err == nil {
			err = k.write(text, next, now)
		}
	}
	if err == nil {
		err = ownErr
	}
	switch {
	case err == nil:
		k.told = ""
	case err.Error() != k.told:
		k.told = err.Error()
		k.log.Error("the kept DERP map is out of date", "err", err)
	}
}

// ask returns this relay's map, or the last one that there was; none has no regions.
func (k *Keeper) ask() (derpmap.Map, error) {
	own, err := k.own()
	switch {
	case err == nil:
		k.lastOwn = own
	case errors.Is(err, ErrNotYet):
		err = nil
	default:
		err = fmt.Errorf("the map of this relay cannot be made: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ownErr = err
	return k.lastOwn, err
}

// make combines, and notes the result. It returns the text for the file; an empty
// map as long as a source has neither answered nor failed and the kept file could
// lose regions.
func (k *Keeper) make(own derpmap.Map, now time.Time) (next published, text []byte, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var sources []derpmap.Named
	for _, s := range k.sources {
		if !s.tried && !s.known && now.Sub(s.began) < firstWait {
			return published{}, nil, nil
		}
		if s.known {
			sources = append(sources, derpmap.Named{Name: s.source.Name(), Map: s.good.Map})
		}
	}
	m, problems := combine(own, sources)
	for _, p := range problems {
		if !slices.Contains(k.problems, p) {
			k.log.Warn("a source of the DERP map cannot be used as it is", "problem", p)
		}
	}
	k.problems = problems
	if next, err = publishedOf(m, own); err != nil {
		return published{}, nil, err
	}
	next.at = k.current.at
	if next.etag != k.current.etag {
		next.at = now
	}
	k.current = next
	if k.want.File == "" {
		return next, nil, nil
	}
	if strings.EqualFold(filepath.Ext(k.want.File), ".json") {
		return next, next.json, nil
	}
	text, err = derpmap.HeadscaleWith(comment, m)
	return next, text, err
}

func publishedOf(m, own derpmap.Map) (p published, err error) {
	if p.json, err = derpmap.JSON(m); err != nil {
		return published{}, err
	}
	if p.own, err = derpmap.JSON(own); err != nil {
		return published{}, err
	}
	p.etag, p.ownETag, p.regions = etagOf(p.json), etagOf(p.own), len(m.Regions)
	return p, nil
}

// etagOf is quoted, as it stands in the header.
func etagOf(text []byte) string {
	sum := sha256.Sum256(text)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// write replaces the file, if there is one and it holds anything else.
func (k *Keeper) write(text []byte, p published, now time.Time) error {
	k.mu.Lock()
	path := k.want.File
	k.mu.Unlock()
	if path == "" || text == nil {
		return nil
	}
	changed, err := replace(path, text)
	if err != nil {
		err = fmt.Errorf("the DERP map %s cannot be written: %w; hint: let the relay's user make files in %s", path, err, filepath.Dir(path))
	}
	k.mu.Lock()
	if k.want.File == path {
		k.fileErr = err
		if changed {
			k.written = now
		}
	}
	k.mu.Unlock()
	if changed {
		k.log.Info("wrote the DERP map", "file", path, "regions", p.regions)
	}
	return err
}

// errNothingYet is what is answered before the first map.
var errNothingYet = errors.New("this relay has no DERP map yet; its log says why")
