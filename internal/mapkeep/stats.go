package mapkeep

import (
	"fmt"
	"time"
)

// Stats say how the kept map does.
type Stats struct {
	Regions int           `json:"regions"`
	Changed *time.Time    `json:"changed,omitempty"` // the map, in this run
	File    string        `json:"file,omitempty"`
	Written *time.Time    `json:"written,omitempty"` // the file, in this run
	Error   string        `json:"error,omitempty"`   // why the file, or this relay's part, is out of date
	Sources []SourceStats `json:"sources,omitempty"`
}

// SourceStats are those of one source.
type SourceStats struct {
	Name       string  `json:"name"`
	Regions    int     `json:"regions"`
	AgeSeconds float64 `json:"age_seconds"` // since the source last confirmed what is in use; -1: nothing is
	Error      string  `json:"error,omitempty"`
}

// Stats returns the facts at one moment.
func (k *Keeper) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Stats{Regions: k.current.regions, File: k.want.File, Changed: unlessZero(k.current.at), Written: unlessZero(k.written)}
	for _, err := range []error{k.ownErr, k.fileErr} {
		if err != nil {
			s.Error = err.Error()
		}
	}
	for _, src := range k.sources {
		one := SourceStats{Name: src.source.Name(), AgeSeconds: -1}
		if src.known {
			one.Regions, one.AgeSeconds = len(src.good.Map.Regions), time.Since(src.good.Confirmed).Seconds()
		}
		if src.err != nil {
			one.Error = src.err.Error()
		}
		s.Sources = append(s.Sources, one)
	}
	return s
}

func unlessZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// Problems are what an operator should look at, in sentences: a file that cannot be
// written, sources that nothing was heard of for too long, and maps that do not go
// together.
func (k *Keeper) Problems(now time.Time) (list []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fileErr != nil {
		list = append(list, k.fileErr.Error())
	}
	if k.ownErr != nil && (k.want.File != "" || len(k.sources) > 0) {
		list = append(list, k.ownErr.Error())
	}
	for _, s := range k.sources {
		age := now.Sub(s.good.Confirmed)
		switch {
		case s.err == nil:
		case !s.known && now.Sub(s.began) > grace:
			list = append(list, fmt.Sprintf("nothing is known of the DERP map %s: %v", s.source.Name(), s.err))
		case s.known && age > max(staleAfter*k.want.Refresh, grace):
			list = append(list, fmt.Sprintf("the DERP map %s has not been read for %v: %v", s.source.Name(), age.Truncate(time.Minute), s.err))
		}
	}
	return append(list, k.problems...)
}
