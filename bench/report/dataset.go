package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// The two relays, as compare.sh names them.
const (
	derper = "derper"
	detour = "detour"
)

// meta is the first line of a file of results: where and how it was measured.
type meta struct {
	Date      string `json:"date"`
	CPU       string `json:"cpu"`
	Cores     int    `json:"cores"`
	Kernel    string `json:"kernel"`
	Go        string `json:"go"`
	Commit    string `json:"commit"`
	Derper    string `json:"derper"`
	Generator string `json:"generator"`
	Rounds    int    `json:"rounds"`
	Seconds   int    `json:"seconds"`
	Pinned    bool   `json:"pinned"`
	Load      string `json:"load"` // load averages before the first run
}

// line is any other: one measurement of one relay.
type line struct {
	Meta   *meta          `json:"meta"`
	Round  int            `json:"round"`
	Run    string         `json:"run"`
	Server string         `json:"server"`
	Failed bool           `json:"failed"`
	Result map[string]any `json:"result"`
}

// cell names one figure but for its metric.
type cell struct {
	run, server string
	round       int
}

// dataset is a file of results, in the units of the metrics.
type dataset struct {
	meta   meta
	values map[cell]map[metric]float64
	runs   []string // in the order in which they were first seen
	failed []cell
}

const maxLine = 1 << 20 // bytes

// parse reads a file of results: JSON objects, one a line, the first of them meta.
func parse(r io.Reader) (*dataset, error) {
	d := &dataset{values: make(map[cell]map[metric]float64)}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if err := d.add(l, n == 1); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(d.values) == 0 {
		return nil, errors.New("there is no result in it")
	}
	return d, nil
}

func (d *dataset) add(l line, first bool) error {
	if first != (l.Meta != nil) {
		return errors.New("the first line, and no other, has to be meta")
	}
	if first {
		if d.meta = *l.Meta; generators[d.meta.Generator] == nil {
			return fmt.Errorf("the generator %q is not one of ours", d.meta.Generator)
		}
		return nil
	}
	if l.Run == "" || l.Server != derper && l.Server != detour || l.Round < 1 {
		return fmt.Errorf("no run, relay or round: %q, %q, %d", l.Run, l.Server, l.Round)
	}
	c := cell{l.Run, l.Server, l.Round}
	if l.Failed {
		d.failed = append(d.failed, c)
		return nil
	}
	if !slices.Contains(d.runs, l.Run) {
		d.runs = append(d.runs, l.Run)
	}
	d.values[c] = make(map[metric]float64)
	for m, names := range generators[d.meta.Generator] {
		for _, f := range names {
			if v, ok := f.in(l.Result); ok {
				d.values[c][m] = v
				break
			}
		}
	}
	return nil
}

// value returns one figure; ok is false when it was not measured.
func (d *dataset) value(c cell, m metric) (v float64, ok bool) {
	v, ok = d.values[c][m]
	return v, ok
}

// all returns a relay's figures of a run, one a round.
func (d *dataset) all(run, server string, m metric) spread {
	var s spread
	for round := 1; round <= d.meta.Rounds; round++ {
		if v, ok := d.value(cell{run, server, round}, m); ok {
			s = append(s, v)
		}
	}
	return s
}

// spread is the figures of several rounds.
type spread []float64

// median returns the middle figure, or the mean of the two. s is not empty.
func (s spread) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func (s spread) min() float64 { return slices.Min(s) }
func (s spread) max() float64 { return slices.Max(s) }

// String is the median and the range, or a dash for no figures.
func (s spread) String() string {
	switch len(s) {
	case 0:
		return "-"
	case 1:
		return number(s[0])
	}
	return fmt.Sprintf("%s [%s..%s]", number(s.median()), number(s.min()), number(s.max()))
}

// number prints three digits that count, and all of a larger number.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.01:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.4f", v)
}
