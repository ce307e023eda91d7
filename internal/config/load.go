package config

import (
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Host is what the defaults depend on.
type Host struct {
	Root   bool                // whether the process may bind ports below 1024 and owns /var/lib
	Getenv func(string) string // for XDG_STATE_HOME alone; nil: no such variable
	Home   string              // home directory; empty: none
}

// Defaults returns the configuration of a relay that was told nothing. StateDir
// and what is derived from it are empty when h has no home directory.
func Defaults(h Host) Config {
	c := base(h)
	complete(&c)
	return c
}

// base returns the defaults that do not depend on other settings.
func base(h Host) Config {
	var c Config
	for _, s := range table() {
		if len(assign(s.field(&c), s.defaultFor(h))) > 0 {
			panic("config: the default of " + s.Name + " does not parse")
		}
	}
	return c
}

// complete fills what is empty and follows from other settings. It runs once,
// on the merged layers.
func complete(c *Config) {
	if c.StateDir != "" {
		orDefault(&c.ServerKey, filepath.Join(c.StateDir, "server.key"))
		orDefault(&c.AdminListen, unixPrefix+filepath.Join(c.StateDir, "admin.sock"))
	}
	if c.CertMode == "" {
		c.CertMode = CertPin
		if c.Cert != "" || c.Key != "" || len(c.CertPair) > 0 {
			c.CertMode = CertFiles
		}
	}
	completeACME(c)
	// One of the two alone stays as it is: the checks refuse it.
	if c.CertMode == CertPin && c.Cert == "" && c.Key == "" && c.StateDir != "" {
		c.Cert = filepath.Join(c.StateDir, "pin.crt")
		c.Key = filepath.Join(c.StateDir, "pin.key")
	}
	if c.Fallback != "" {
		orDefault(&c.FrontPage, FrontFallback)
	}
	orDefault(&c.FrontPage, FrontNeutral)
	// With the number in them the names of two regions never collide.
	orDefault(&c.RegionCode, "detour-"+strconv.Itoa(c.RegionID))
	orDefault(&c.RegionName, "Detour "+strconv.Itoa(c.RegionID))
}

func orDefault(p *string, text string) {
	if *p == "" {
		*p = text
	}
}

// Load merges the layers, each over the one before: the defaults of h, the YAML
// file (none when file is empty), the DETOUR_* variables of environ (as from
// os.Environ; an empty one counts as not set) and the flags that were given
// (nil: none). A list in one layer replaces the list below it as a whole.
//
// The error is an *Error that holds every problem found, except that a file
// that cannot be read or is not YAML hides the problems of the layers above it.
func Load(file string, h Host, environ []string, flags *Flags) (Config, error) {
	l := newLoader(h)
	if file != "" && !l.file(file) {
		return Config{}, errorOf(l.problems)
	}
	l.environ(environ)
	l.flags(flags)
	return l.finish()
}

// loader merges layers into cfg and remembers where each value came from.
type loader struct {
	table    []setting
	cfg      Config
	origin   map[string]string // setting's name -> FILE:LINE, variable or flag
	wrong    map[string]bool   // settings with a value that did not parse: not checked further
	problems []Problem
}

func newLoader(h Host) *loader {
	return &loader{table: table(), cfg: base(h), origin: map[string]string{}, wrong: map[string]bool{}}
}

// finish completes and checks what the layers gave.
func (l *loader) finish() (Config, error) {
	complete(&l.cfg)
	for _, p := range problems(l.cfg) {
		if !l.wrong[p.Setting] {
			p.Origin = l.origin[p.Setting]
			l.problems = append(l.problems, p)
		}
	}
	if err := errorOf(l.problems); err != nil {
		return Config{}, err
	}
	return l.cfg, nil
}

// set takes text as the value of s from one place.
func (l *loader) set(s setting, origin, text string) {
	if faults := assign(s.field(&l.cfg), text); len(faults) > 0 {
		l.refuse(s, origin, faults)
		return
	}
	l.origin[s.Name] = origin
	delete(l.wrong, s.Name) // a layer below was wrong, and is reported; this value is checked
}

func (l *loader) setList(s setting, origin string, entries []string) {
	assignList(s.field(&l.cfg), entries)
	l.origin[s.Name] = origin
	delete(l.wrong, s.Name)
}

// refuse notes faults in a value that could not be taken at all.
func (l *loader) refuse(s setting, origin string, faults []fault) {
	l.wrong[s.Name] = true
	for _, f := range faults {
		l.problems = append(l.problems, Problem{Setting: s.Name, Origin: origin, What: f.what, Hint: f.hint})
	}
}

// environ reads the DETOUR_* variables.
func (l *loader) environ(environ []string) {
	seen := map[string]bool{}
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		// Of two variables with one name the first counts, as for os.Getenv.
		if !strings.HasPrefix(name, envPrefix) || text == "" || seen[name] {
			continue
		}
		seen[name] = true
		i := slices.IndexFunc(l.table, func(s setting) bool { return s.EnvName() == name })
		switch {
		case i >= 0 && l.table[i].spaced:
			l.setList(l.table[i], name, strings.Fields(text))
		case i >= 0:
			l.set(l.table[i], name, text)
		case name == envPrefix+"ACME_EAB_KEY": // a secret, so it is no setting that --help or a flag shows
			l.cfg.ACMEEABKey = text
		case name == envPrefix+"CONFIG": // whoever calls Load has read the file it names
		case fromKubernetes(name, text):
		default:
			l.problems = append(l.problems, Problem{Origin: name, What: "no setting has this variable", Hint: l.nearestEnv(name)})
		}
	}
}

func (l *loader) nearestEnv(name string) string {
	known := append(names(l.table), "config")
	if near, ok := nearest(strings.TrimPrefix(name, envPrefix), known); ok {
		return "did you mean " + Setting{Name: near}.EnvName() + "?"
	}
	return "unset it; detour config example lists the settings and their variables"
}

// Kubernetes gives every container in a namespace variables for each service
// there, so a service called detour, or detour-something, brings DETOUR_PORT and
// its like. They are none of ours, and no reason not to start.
var (
	kubeService = regexp.MustCompile(`^DETOUR_(.+_)?SERVICE_(HOST|PORT(_.+)?)$`)
	kubePort    = regexp.MustCompile(`^DETOUR_(.+_)?PORT(_[0-9]+_(TCP|UDP|SCTP))?$`)
	kubePart    = regexp.MustCompile(`^DETOUR_(.+_)?PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)$`)
	kubeURL     = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

// fromKubernetes asks a name that ends in PORT for a URL too, so that it does
// not hide a mistyped setting.
func fromKubernetes(name, text string) bool {
	return kubeService.MatchString(name) || kubePart.MatchString(name) ||
		kubePort.MatchString(name) && kubeURL.MatchString(text)
}

// flags takes the flags that were given.
func (l *loader) flags(flags *Flags) {
	if flags == nil {
		return
	}
	for _, f := range flags.all {
		s, ok := lookup(l.table, f.Name)
		if !ok || f.given == nil {
			continue
		}
		origin := "--" + f.FlagName()
		if f.Kind == KindList {
			l.setList(s, origin, f.given)
			if faults := shownSecrets(s, f.given); len(faults) > 0 {
				l.refuse(s, origin, faults)
			}
		} else {
			l.set(s, origin, f.given[len(f.given)-1])
		}
	}
}
