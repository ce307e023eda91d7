package main

import (
	"fmt"
	"os"
	"regexp"

	"github.com/spf13/pflag"

	"github.com/detour-relay/detour/internal/bench"
	"github.com/detour-relay/detour/internal/key"
)

// attackFlags are those of detour bench --attack.
type attackFlags struct {
	on      bool
	through string
	rate    int
	keys    []string // files
}

func (f *attackFlags) register(fl *pflag.FlagSet) {
	fl.BoolVar(&f.on, "attack", false, "measure a quiet pair beside attacks instead")
	fl.StringVar(&f.through, "attack-through", "", "`address` on loopback where the relay takes PROXY headers, with --attack")
	fl.IntVar(&f.rate, "attack-rate", 300, "`connections` per second of each attack")
	fl.StringArrayVar(&f.keys, "quiet-key", nil, "`file` of a key that the relay admits, as detour key generate makes it; two for --attack")
}

// privateKey is the key in a file of detour key generate.
var privateKey = regexp.MustCompile(`privkey:[0-9a-f]{64}`)

func (f *attackFlags) options(l bench.Load) (bench.AttackOptions, error) {
	o := bench.AttackOptions{Through: f.through, Rate: f.rate, Duration: l.Duration, Warmup: l.Warmup}
	if len(f.keys) != len(o.Keys) {
		return o, fmt.Errorf("--attack needs %d --quiet-key files; hint: make them with `detour key generate FILE`, and have the relay admit them", len(o.Keys))
	}
	for i, name := range f.keys {
		text, err := os.ReadFile(name)
		if err != nil {
			return o, fmt.Errorf("read a --quiet-key: %w; hint: make one with `detour key generate FILE`", err)
		}
		if o.Keys[i], err = key.ParsePrivate(string(privateKey.Find(text))); err != nil {
			return o, fmt.Errorf("%s holds no key; hint: make one with `detour key generate FILE`", name)
		}
	}
	return o, nil
}
