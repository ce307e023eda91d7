// Package compat lets Detour stand in for derper: it reads derper's own command
// line and the DERP_* variables of the community Docker images, and gives the
// Config that makes a relay behave as that derper would.
//
// What cannot be honoured yet is an error that names the flag or variable, all
// of them at once; nothing that decides who may use the relay is ever skipped.
// Three things differ on purpose. The front page for an empty -home is the
// neutral one, where derper's names DERP. A flag after a stray argument is an
// error, where derper silently ignores it. And -hostname has no default when
// TLS is on, as nobody else can have a certificate for derper's.
package compat

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/detour-relay/detour/internal/config"
)

// Host is what the reading of a command line must know about the machine and
// the user. Every func must be set.
type Host struct {
	Base     config.Config // settings that derper has no flag for, such as the log format
	Admits   bool          // Base also says who may connect; else everybody may, as with derper
	Root     bool          // user id 0, for whom the key file has a default place
	CacheDir string        // the user's cache directory; empty: unknown
	Environ  []string      // NAME=value, as os.Environ; only searched for DERP_* names that mean nothing here

	Usage    io.Writer                              // takes the text of -h, and of a usage error
	Stat     func(path string) (fs.FileInfo, error) // as os.Stat
	ReadFile func(path string) ([]byte, error)      // as os.ReadFile
	TempDir  func() (path string, err error)        // makes a new directory that only its owner can enter
}

// ThisHost describes the machine and user that this process runs on and as.
// Usage texts go to usage.
func ThisHost(base config.Config, usage io.Writer) Host {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "" // -certdir then has no default
	}
	return Host{
		Base:     base,
		Root:     os.Getuid() == 0,
		CacheDir: cache,
		Environ:  os.Environ(),
		Usage:    usage,
		Stat:     os.Stat,
		ReadFile: os.ReadFile,
		TempDir:  func() (string, error) { return os.MkdirTemp("", "detour-dev-") },
	}
}

// Result is what a derper command line asks for.
type Result struct {
	Config    config.Config
	Warnings  []string // what the operator should know, most urgent first, one line each
	Version   bool     // -version was given: print it and exit 0; all else is zero
	Ephemeral bool     // -dev: Config.StateDir is a new temporary directory that the caller removes at exit
}

// UsageError says that the command line itself is wrong. The usage text is
// already written to Host.Usage when it is returned; derper's exit status for
// it is 2.
type UsageError struct{ reason string }

// Error returns what is wrong with the command line.
func (e *UsageError) Error() string { return "reading derper's flags: " + e.reason }

// command is one reading of a command line, from flags to Config.
type command struct {
	flags
	set    *flag.FlagSet
	env    func(string) string
	host   Host
	origin map[string]string // flag name -> "-flag" or the DERP_* variable that set it; absent: its default

	makesCert       bool // a missing certificate is made for a DNS name too
	hostUnpublished bool // -hostname names the certificate's files only

	warnings []string
	problems []error
}

// Parse reads derper's arguments, without the program's name, and for flags
// that they do not give the DERP_* variables that env looks up (empty: not set).
//
// The error is flag.ErrHelp for -h (exit 0; the text is written), a *UsageError
// for a wrong command line (exit 2), or else every setting that is wrong or not
// supported yet, one line each (exit 1). Except for the temporary directory of
// -dev nothing is written. Config is not yet checked as a whole: config.Check
// does that.
func Parse(args []string, env func(string) string, host Host) (Result, error) {
	c := &command{env: env, host: host, origin: map[string]string{}}
	c.set = c.flags.register(host.CacheDir, env("HOME"))
	if err := c.readArgs(args); err != nil {
		return Result{}, err
	}
	if c.version {
		return Result{Version: true}, nil
	}
	c.readEnv()
	c.refuseUnsupported()
	cfg := c.convert()
	if len(c.problems) > 0 {
		return Result{}, errors.Join(c.problems...)
	}
	if c.dev { // last, so that an error leaves no directory behind
		dir, err := host.TempDir()
		if err != nil {
			return Result{}, fmt.Errorf("making a temporary directory for -dev: %w", err)
		}
		keepStateIn(&cfg, filepath.Join(dir, "derper.key"))
	}
	return Result{Config: cfg, Warnings: c.warnings, Ephemeral: c.dev}, nil
}

func (c *command) readArgs(args []string) error {
	c.set.SetOutput(io.Discard) // the flag package would print the error too, and the caller does
	switch err := c.set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		c.printUsage()
		return flag.ErrHelp
	case err != nil:
		c.printUsage()
		return &UsageError{err.Error()}
	}
	c.set.Visit(func(f *flag.Flag) { c.origin[f.Name] = "-" + f.Name })
	if c.set.NArg() == 0 {
		return nil
	}
	stray := c.set.Arg(0)
	for _, arg := range c.set.Args() {
		if strings.HasPrefix(arg, "-") {
			name, _, _ := strings.Cut(arg, "=") // its value may be a secret
			return &UsageError{fmt.Sprintf("%s stands after %q, which is not a flag, and is ignored there by derper; "+
				"hint: booleans need =, as in -stun=false", name, stray)}
		}
	}
	c.warn("the argument %q is not a flag and is ignored, as derper does; booleans need =, as in -stun=false", stray)
	return nil
}

// ref names a flag in a message by what set it.
func (c *command) ref(name string) string {
	switch origin := c.origin[name]; origin {
	case "":
		return "-" + name + " (not given)"
	case "-" + name:
		return origin
	default:
		return "-" + name + " (from " + origin + ")"
	}
}

// onCommandLine reports whether the arguments gave the flag.
func (c *command) onCommandLine(name string) bool { return c.origin[name] == "-"+name }

func (c *command) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

func (c *command) fail(format string, args ...any) {
	c.problems = append(c.problems, fmt.Errorf(format, args...))
}
