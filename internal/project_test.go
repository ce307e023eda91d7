package internal_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// requirement matches one required module in go.mod, whether in a block or alone, and whether indirect.
var requirement = regexp.MustCompile(`(?m)^(?:require\s+|\t)(\S+\.\S+) v\S+(\s*// indirect)?$`)

func TestRequirementsAreRecognised(t *testing.T) {
	const text = "module m\n\nrequire example.org/alone v1.0.0\n\nrequire (\n\texample.org/a/v3 v3.0.1\n\texample.org/b v0.0.0-20260101000000-abcdef // indirect\n)\n"
	got := direct(text)
	if strings.Join(got, " ") != "example.org/alone example.org/a/v3" {
		t.Errorf("direct requirements of a small go.mod: %q", got)
	}
}

// Every module that we import directly is explained in docs/dependencies.md.
func TestDependenciesAreExplained(t *testing.T) {
	root := moduleRoot(t)
	doc, err := os.ReadFile(filepath.Join(root, "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	own := modulePath(t, root)
	for _, mod := range []string{"go.mod", filepath.Join("interop", "go.mod")} {
		text, err := os.ReadFile(filepath.Join(root, mod))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range direct(string(text)) {
			if path != own && !strings.Contains(string(doc), "`"+path+"`") {
				t.Errorf("%s requires %s, which docs/dependencies.md does not explain", mod, path)
			}
		}
	}
}

// The linters are never silenced in place: a finding is fixed, or the rule is changed for everyone in .golangci.yml.
func TestNoSilencedLinters(t *testing.T) {
	root := moduleRoot(t)
	silenced := regexp.MustCompile(`//\s*no` + `lint\b`)
	for _, f := range sources(t, root) {
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(f.dir), f.name))
		if err != nil {
			t.Fatal(err)
		}
		if silenced.Match(text) {
			t.Errorf("%s/%s silences a linter", f.dir, f.name)
		}
	}
}

// direct lists the modules that the text of a go.mod requires, without the indirect ones.
func direct(text string) []string {
	var out []string
	for _, m := range requirement.FindAllStringSubmatch(text, -1) {
		if m[2] == "" {
			out = append(out, m[1])
		}
	}
	return out
}
