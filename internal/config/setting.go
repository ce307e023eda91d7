package config

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Kind says what text a setting takes. Its text is what --help shows in the
// place of the value.
type Kind string

// The kinds of settings.
const (
	KindText     Kind = "text"
	KindBool     Kind = "bool"     // true, false, on or off
	KindInt      Kind = "int"      // a decimal whole number
	KindDuration Kind = "duration" // as time.ParseDuration reads it
	KindAddress  Kind = "address"  // HOST:PORT and other places to listen, or Off
	KindIP       Kind = "ip"       // an IPv4 or IPv6 literal
	KindPath     Kind = "path"     // a file or directory
	KindList     Kind = "list"     // texts; a YAML sequence, a flag per entry, comma or space in the environment
)

const envPrefix = "DETOUR_"

// Setting describes one setting to a person: for --help, for the annotated
// example and for the documents. Flag, variable and YAML key are made from its
// Name.
type Setting struct {
	Name    string   // the key in YAML: lower-case words joined by underscores
	Kind    Kind     // what text it takes
	Default string   // as a person reads it: "<state_dir>/server.key"; empty: none
	Usage   string   // one line without a full stop
	Note    string   // more: what, unit, bounds; may be empty
	Values  []string // the only words it takes, or those worth completing; nil: free text
}

// FlagName returns the flag's name without dashes in front: "stun-listen".
func (s Setting) FlagName() string { return strings.ReplaceAll(s.Name, "_", "-") }

// EnvName returns the environment variable's name: "DETOUR_STUN_LISTEN".
func (s Setting) EnvName() string { return envPrefix + strings.ToUpper(s.Name) }

// Settings returns a description of every setting, in the order of the example.
func Settings() []Setting {
	var all []Setting
	for _, s := range table() {
		all = append(all, s.Setting)
	}
	return all
}

// setting is a Setting with what the program needs: one row of the table.
type setting struct {
	Setting
	section string                               // heading in the example
	value   string                               // default as text that assign takes; empty when derived
	spaced  bool                                 // of a list: entries may hold commas, so that only spaces part them in the environment
	mapping func(*yaml.Node) ([]string, []fault) // of a list: reads a YAML mapping as one; nil: there is no such form
	user    func(Host) string
	field   func(*Config) any // pointer to the field; assign lists the types
	check   func(*Config) []fault
}

// defaultFor returns the default text on h. user, where set, is the default of
// a process that is not root.
func (s setting) defaultFor(h Host) string {
	if s.user != nil && !h.Root {
		return s.user(h)
	}
	return s.value
}

// faults checks the setting's value in c without looking at other settings'
// bounds: those are in crossChecks.
func (s setting) faults(c *Config) []fault {
	if s.check != nil {
		return s.check(c)
	}
	if text, ok := s.field(c).(*string); ok && s.Values != nil && !slices.Contains(s.Values, *text) {
		return bad(didYouMean(*text, s.Values), "unknown value %s", quote(*text))
	}
	return nil
}

// lookup finds a setting by its YAML name.
func lookup(all []setting, name string) (setting, bool) {
	i := slices.IndexFunc(all, func(s setting) bool { return s.Name == name })
	if i < 0 {
		return setting{}, false
	}
	return all[i], true
}

func names(all []setting) []string {
	var list []string
	for _, s := range all {
		list = append(list, s.Name)
	}
	return list
}
