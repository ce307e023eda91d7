package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestVersion(t *testing.T) {
	r := detour(t, "version")
	r.want(t, exitOK, "detour "+versionText()+"\n", "")
	version = "v1.2.3"
	defer func() { version = "" }()
	detour(t, "version").want(t, exitOK, "detour v1.2.3\n", "")
}

// The help of every command is a file, so that a change of it is seen.
func TestHelp(t *testing.T) {
	const dir = "testdata/help"
	var files []string
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())
		r := detour(t, append([]string{"help"}, path[1:]...)...)
		r.want(t, exitOK, "Usage:\n  "+cmd.CommandPath(), "")
		name := strings.Join(path, "-") + ".txt"
		golden(t, filepath.Join(dir, name), r.stdout)
		files = append(files, name)
		if !cmd.DisableFlagParsing || cmd.Hidden { // which has derper's own
			if got := detour(t, append(path[1:], "--help")...); got != r {
				t.Errorf("%s --help differs from detour help %s", cmd.CommandPath(), strings.Join(path[1:], " "))
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())

	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(files) {
		t.Errorf("%s holds %d files for %d commands; remove those of commands that are gone", dir, len(entries), len(files))
	}
}

func TestNoArgumentsIsHelp(t *testing.T) {
	want := detour(t, "help")
	if got := detour(t); got != want {
		t.Errorf("got %+v", got)
	}
	for _, group := range []string{"key", "config"} {
		if got, want := detour(t, group), detour(t, "help", group); got != want {
			t.Errorf("detour %s: %+v", group, got)
		}
	}
}

// A wrong command line ends with status 2, one line on standard error, and the
// way on.
func TestWrongCommandLine(t *testing.T) {
	tests := []struct{ args, want string }{
		{"bogus", "unknown command \"bogus\"; hint: see `detour --help`"},
		{"sevre", "unknown command \"sevre\"; hint: did you mean `detour serve`?"},
		{"config chek", "unknown command \"chek\"; hint: did you mean `detour config check`?"},
		{"key bogus", "unknown command \"bogus\"; hint: see `detour key --help`"},
		{"--bogus", "unknown flag: --bogus; hint: see `detour --help`"},
		{"serve --bogus", "unknown flag: --bogus; hint: see `detour serve --help`"},
		{"serve --listen", "flag needs an argument: --listen; hint: see `detour serve --help`"},
		{"serve :443", "unexpected argument \":443\": `detour serve` takes none; hint: see `detour serve --help`"},
		{"map x", "unexpected argument \"x\""},
		{"healthcheck x", "unexpected argument \"x\""},
		{"version x", "unexpected argument \"x\""},
		{"key show x", "unexpected argument \"x\""},
		{"config example x", "unexpected argument \"x\""},
		{"config check", "no FILE is given to `detour config check`"},
		{"config check a b", "unexpected argument \"b\": `detour config check` takes one FILE"},
		{"key generate a b", "unexpected argument \"b\": `detour key generate` takes one FILE"},
		{"map --format xml", "--format \"xml\" is unknown; hint: use headscale, json or policy"},
		{"map --for-old-clients=perhaps", "invalid argument \"perhaps\""},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			r := detour(t, strings.Fields(tt.args)...)
			r.want(t, exitUsage, "", "detour: "+tt.want)
			if strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "; hint: ") {
				t.Errorf("not one line with a hint: %q", r.stderr)
			}
		})
	}
}

func TestErrorsOfSeveralLines(t *testing.T) {
	tests := []struct{ err, want string }{
		{"one", "detour: one\n"},
		{"one\ntwo", "detour: one\ndetour: two\n"},
		{"config: 2 problems:\n  first\n  second", "detour: config: 2 problems:\n  first\n  second\n"},
	}
	for _, tt := range tests {
		var b strings.Builder
		printError(&b, errors.New(tt.err))
		if b.String() != tt.want {
			t.Errorf("%q is printed as %q", tt.err, b.String())
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		r := detour(t, "completion", shell)
		r.want(t, exitOK, "__complete", "")
	}
	// What the scripts ask for.
	r := detour(t, "__complete", "he")
	if r.status != exitOK || !strings.Contains(r.stdout, "healthcheck") || strings.Contains(r.stdout, "serve") {
		t.Errorf("completion of %q: %+v", "he", r)
	}
}
