// Package internal_test holds the shape of the project: which package may import which, and that everything the
// project depends on is explained. It has no code of its own to test.
package internal_test

import (
	"errors"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows is the one table of imports: a package may import those of ours listed beside it, and no others. The depguard
// rules in .golangci.yml are written from it by `go test ./internal -run Lint -update`. Every package of this module
// has a line; relaytest is missing because only tests import it and it may import anything.
var arrows = map[string][]string{
	"cmd/detour": {
		"internal/admin", "internal/bench", "internal/cert", "internal/client", "internal/compat", "internal/config",
		"internal/daemon", "internal/derpmap", "internal/key", "internal/mapkeep", "internal/privilege", "internal/probe",
		"internal/stun",
	},
	"internal/admin":  {"internal/key", "internal/unixsock"},
	"deploy/pack":     {},
	"docs":            {},
	"internal/acme":   {},
	"internal/admit":  {"internal/crowd", "internal/key"},
	"internal/bench":  {"internal/client", "internal/derp", "internal/key", "internal/stun"},
	"internal/cert":   {},
	"internal/client": {"internal/derp", "internal/key"},
	"internal/compat": {"internal/config", "internal/key"},
	"internal/config": {"internal/key"},
	"internal/crowd":  {},
	"internal/daemon": {
		"internal/acme", "internal/admin", "internal/admit", "internal/cert", "internal/client", "internal/config", "internal/derp",
		"internal/derpmap", "internal/key", "internal/link", "internal/listen", "internal/mapkeep", "internal/mesh", "internal/probe",
		"internal/relay", "internal/sni", "internal/stun", "internal/usage", "internal/web",
	},
	"internal/derp":      {"internal/key"},
	"internal/derpmap":   {},
	"internal/key":       {},
	"internal/link":      {},
	"internal/listen":    {"internal/crowd", "internal/unixsock"},
	"internal/mapkeep":   {"internal/derpmap"},
	"internal/mesh":      {"internal/client", "internal/derp", "internal/key"},
	"internal/sni":       {},
	"internal/probe":     {"internal/client", "internal/derp", "internal/derpmap", "internal/key", "internal/stun"},
	"internal/relay":     {"internal/crowd", "internal/derp", "internal/key"},
	"internal/stun":      {},
	"internal/unixsock":  {},
	"internal/usage":     {"internal/key"},
	"internal/web":       {"internal/derp", "internal/key", "internal/link", "internal/relay"},
	"internal/privilege": {},
}

// foreign lists packages that are not ours and that a package of ours keeps out of its code (its tests may use them).
var foreign = map[string][]string{
	// The core forwards packets between links; TLS and HTTP are the business of link and web.
	"internal/relay": {"crypto/tls", "net/http"},
}

// everywhere lists modules that no file of this module imports. Real Tailscale code is an oracle, and it stays in
// interop/, which is a module of its own.
var everywhere = []string{"tailscale.com"}

const (
	helpers    = "internal/relaytest"
	configFile = ".golangci.yml"
	beginMark  = "        # arrows: begin"
	endMark    = "        # arrows: end"
)

var update = flag.Bool("update", false, "write the import arrows into "+configFile)

// file is one Go source file as far as the arrows care.
type file struct {
	dir     string // slash-separated, relative to the module's root
	name    string
	imports []string
}

func (f file) isTest() bool { return strings.HasSuffix(f.name, "_test.go") }

func TestArrows(t *testing.T) {
	root := moduleRoot(t)
	module := modulePath(t, root)
	files := sources(t, root)
	if len(files) < len(arrows)/2 {
		t.Fatalf("found only %d Go files under %s: the walk is broken", len(files), root)
	}
	for _, f := range files {
		for _, v := range violations(module, f) {
			t.Error(v)
		}
	}
}

func TestArrowsSeeViolations(t *testing.T) {
	const module = "example.org/m"
	tests := []struct {
		dir, name, imports string
		want               int
	}{
		{"internal/relay", "server.go", "example.org/m/internal/key", 0},
		{"internal/relay", "server.go", "example.org/m/internal/web", 1},
		{"internal/relay", "server.go", "net/http", 1},
		{"internal/relay", "server.go", "net/http/httputil", 1},
		{"internal/relay", "server.go", "net", 0},
		{"internal/relay", "server_test.go", "net/http", 0},
		{"internal/relay", "server_test.go", "example.org/m/internal/relay", 0},
		{"internal/relay", "server_test.go", "example.org/m/internal/web", 1},
		{"internal/relay", "server_test.go", "example.org/m/internal/relaytest", 0},
		{"internal/relay", "server.go", "example.org/m/internal/relaytest", 1},
		{"internal/relaytest", "pair.go", "example.org/m/internal/web", 0},
		{"internal/web", "web.go", "tailscale.com/derp", 1},
		{"internal/web", "web_test.go", "tailscale.com/derp", 1},
		{"internal/web", "web.go", "tailscale.community/derp", 0},
		{"internal/util", "util.go", "fmt", 1},
		{"cmd/detour", "main.go", "example.org/m/internal/daemon", 0},
		{"internal/daemon", "daemon.go", "example.org/m/cmd/detour", 1},
		{"internal", "arrows_test.go", "fmt", 0},
		{"internal/link", "link.go", "example.org/mother", 0},
	}
	for _, tt := range tests {
		got := violations(module, file{dir: tt.dir, name: tt.name, imports: []string{tt.imports}})
		if len(got) != tt.want {
			t.Errorf("%s/%s importing %s: %d violations %q, want %d", tt.dir, tt.name, tt.imports, len(got), got, tt.want)
		}
	}
}

func TestLintRulesAgreeWithArrows(t *testing.T) {
	root := moduleRoot(t)
	path := filepath.Join(root, configFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), beginMark+"\n")
	_, after, ok2 := strings.Cut(rest, endMark+"\n")
	if !ok || !ok2 {
		t.Fatalf("%s has lost its marks %q and %q", configFile, beginMark, endMark)
	}
	want := before + beginMark + "\n" + lintRules(modulePath(t, root)) + endMark + "\n" + after
	if want == string(text) {
		return
	}
	if !*update {
		t.Fatalf("%s does not agree with the table of arrows; run: go test ./internal -run Lint -update", configFile)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// violations says, one sentence each, which imports of f the arrows forbid.
func violations(module string, f file) []string {
	allowed, known := arrows[f.dir]
	if !known && f.dir != helpers && f.dir != "internal" {
		return []string{f.dir + ": this package is not in the table of arrows; add it with what it may import"}
	}
	var out []string
	for _, imp := range f.imports {
		ours, isOurs := strings.CutPrefix(imp, module+"/")
		var bad bool
		switch {
		case within(imp, everywhere):
			bad = true
		case !isOurs:
			bad = !f.isTest() && within(imp, foreign[f.dir])
		case f.dir == helpers || slices.Contains(allowed, ours):
		default:
			bad = !f.isTest() || ours != f.dir && ours != helpers
		}
		if bad {
			out = append(out, fmt.Sprintf("%s/%s imports %s, which the table of arrows forbids", f.dir, f.name, imp))
		}
	}
	return out
}

// within reports whether imp is one of roots or lies below one.
func within(imp string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return imp == r || strings.HasPrefix(imp, r+"/") })
}

// lintRules renders the tables as depguard rules, indented for their place under linters.settings.depguard.rules.
// A longer allow overrides a shorter deny; a `$` ends a path that must match whole.
func lintRules(module string) string {
	var b strings.Builder
	rule := func(name string, files, allow []string, deny map[string]string) {
		fmt.Fprintf(&b, "        %s:\n          list-mode: lax\n          files:\n", name)
		for _, f := range files {
			fmt.Fprintf(&b, "            - %q\n", f)
		}
		if len(allow) > 0 {
			b.WriteString("          allow:\n")
		}
		for _, a := range allow {
			fmt.Fprintf(&b, "            - %s/%s$\n", module, a)
		}
		b.WriteString("          deny:\n")
		for _, pkg := range slices.Sorted(maps.Keys(deny)) {
			fmt.Fprintf(&b, "            - pkg: %s\n              desc: %s\n", pkg, deny[pkg])
		}
	}
	const why = "see the table of arrows in internal/arrows_test.go"
	for _, dir := range slices.Sorted(maps.Keys(arrows)) {
		allow := append([]string{dir, helpers}, arrows[dir]...)
		slices.Sort(allow)
		name := strings.ReplaceAll(dir, "/", "-")
		rule(name, []string{"**/" + dir + "/*.go"}, allow, map[string]string{module + "/": why})
		if len(foreign[dir]) > 0 {
			deny := make(map[string]string)
			for _, pkg := range foreign[dir] {
				deny[pkg] = "kept out of this package, " + why
			}
			rule(name+"-foreign", []string{"**/" + dir + "/*.go", "!$test"}, nil, deny)
		}
	}
	rule("helpers-in-tests-only", []string{"!$test", "!**/" + helpers + "/*.go"}, nil,
		map[string]string{module + "/" + helpers: "only tests import it"})
	deny := make(map[string]string)
	for _, pkg := range everywhere {
		deny[pkg] = "only interop/ uses it"
	}
	rule("foreign-everywhere", []string{"$all", "!**/interop/*.go"}, nil, deny)
	return b.String()
}

// sources reads the imports of every Go file of this module, whatever its build constraints say, so that a violation
// in a file for another system is seen here too.
func sources(t *testing.T, root string) []file {
	t.Helper()
	var out []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return enter(root, path, d.Name())
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		f := file{dir: filepath.ToSlash(dir), name: d.Name()}
		tree, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range tree.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return fmt.Errorf("reading the imports of %s: %w", path, err)
			}
			f.imports = append(f.imports, imp)
		}
		out = append(out, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// enter returns fs.SkipDir for directories the go tool does not count among this module's packages either.
func enter(root, path, name string) error {
	if path == root {
		return nil
	}
	if name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return fs.SkipDir
	}
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	switch {
	case err == nil:
		return fs.SkipDir // a module of its own
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

// moduleRoot is the directory that holds go.mod; a test runs in its package's directory, one below.
func moduleRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// modulePath reads the module's path from go.mod, so that renaming the module needs no change here.
func modulePath(t *testing.T, root string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			return strings.TrimSpace(path)
		}
	}
	t.Fatal("go.mod names no module")
	return ""
}
