package config

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// script is one file of testdata in the txtar form: "-- name --" begins a part.
// It has the layers (host, relay.yaml, env, flags; each may be missing) and what
// comes of them: values (those named are compared), error or explain (the whole
// text).
type script struct {
	path  string
	intro string
	parts []part
}

type part struct{ name, text string }

var partHead = regexp.MustCompile(`(?m)^-- (\S+) --\n`)

func readScript(t *testing.T, path string) *script {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	heads := partHead.FindAllStringSubmatchIndex(text, -1)
	if len(heads) == 0 {
		t.Fatal("a script without parts")
	}
	s := &script{path: path, intro: text[:heads[0][0]]}
	for i, h := range heads {
		end := len(text)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		s.parts = append(s.parts, part{text[h[2]:h[3]], text[h[1]:end]})
	}
	return s
}

func (s *script) index(name string) int {
	return slices.IndexFunc(s.parts, func(p part) bool { return p.name == name })
}

func (s *script) has(name string) bool { return s.index(name) >= 0 }

func (s *script) text(name string) string {
	if i := s.index(name); i >= 0 {
		return s.parts[i].text
	}
	return ""
}

func (s *script) lines(name string) []string {
	return strings.FieldsFunc(s.text(name), func(r rune) bool { return r == '\n' })
}

// golden compares a part of the script, or writes it anew with -update.
func (s *script) golden(t *testing.T, name, got string) {
	t.Helper()
	if s.text(name) == got {
		return
	}
	i := s.index(name)
	if !*update || i < 0 {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, s.text(name))
		return
	}
	s.parts[i].text = got
	var b bytes.Buffer
	b.WriteString(s.intro)
	for _, p := range s.parts {
		b.WriteString("-- " + p.name + " --\n" + p.text)
	}
	if err := os.WriteFile(s.path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
