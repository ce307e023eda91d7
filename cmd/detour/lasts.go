package main

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// lasts is a flag for how long something is to be: as time.ParseDuration reads it, or
// whole days as in 7d.
type lasts time.Duration

// Set reads the flag.
func (l *lasts) Set(text string) error {
	const day, most = 24 * time.Hour, 100 * 366 // days
	d, err := time.ParseDuration(text)
	if count, ok := strings.CutSuffix(text, "d"); ok {
		if days, wrong := strconv.Atoi(count); wrong == nil && days <= most && days >= -most {
			d, err = time.Duration(days)*day, nil
		}
	}
	if err != nil {
		return errors.New("no length of time: write it as 30m, 24h or 7d")
	}
	*l = lasts(d)
	return nil
}

// String is empty for none, so that the help shows no default.
func (l *lasts) String() string {
	if *l == 0 {
		return ""
	}
	return time.Duration(*l).String()
}

// Type is what help shows in the place of the value.
func (l *lasts) Type() string { return "duration" }
