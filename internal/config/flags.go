package config

import "strings"

// Flags holds one command line's flags for all settings. It knows no flag
// package: bind each Flag to one.
type Flags struct {
	all []*Flag
}

// NewFlags returns flags of which none is given yet.
func NewFlags() *Flags {
	f := &Flags{}
	for _, s := range Settings() {
		f.all = append(f.all, &Flag{Setting: s})
	}
	return f
}

// All returns the flags in the order of the table.
func (f *Flags) All() []*Flag { return f.all }

// Flag is the command-line flag of one setting. It has the methods of
// pflag.Value and flag.Value. A Flag of KindBool is to be bound so that it needs
// no value (pflag: NoOptDefVal "true").
type Flag struct {
	Setting
	given []string // in the order of the command line; nil: not given
}

// Set notes that the flag was given. It never fails: Load checks the value
// together with all others, so that one run reports every problem.
func (f *Flag) Set(text string) error {
	f.given = append(f.given, text)
	return nil
}

// Given reports whether the flag stands on the command line.
func (f *Flag) Given() bool { return f.given != nil }

// String returns the value in force, or the default as a person reads it while
// the flag is not given: flag packages print that in their help.
func (f *Flag) String() string {
	switch {
	case f.given == nil:
		return f.Default
	case f.Kind == KindList:
		return strings.Join(f.given, ",")
	default:
		return f.given[len(f.given)-1]
	}
}

// Type returns the Kind, which help shows in the place of the value.
func (f *Flag) Type() string { return string(f.Kind) }

// IsBoolFlag tells the flag package of the standard library that the flag needs
// no value.
func (f *Flag) IsBoolFlag() bool { return f.Kind == KindBool }
