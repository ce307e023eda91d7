package mapkeep

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func put(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func mustReplace(t *testing.T, path, text string, changed bool) {
	t.Helper()
	got, err := replace(path, []byte(text))
	if err != nil || got != changed {
		t.Errorf("replace %s: changed %v, %v", path, got, err)
	}
	if is := get(t, path); is != text {
		t.Errorf("it holds %q", is)
	}
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "derp.yaml")
	mustReplace(t, path, "one", true)
	mustReplace(t, path, "one", false)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(path) // whoever reads it meanwhile has the old one, whole
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	before, _ := os.Stat(path)
	mustReplace(t, path, "two", true)
	after, _ := os.Stat(path)
	if os.SameFile(before, after) {
		t.Error("the file is written in place")
	}
	if after.Mode() != before.Mode() {
		t.Errorf("mode %v is now %v", before.Mode(), after.Mode())
	}
	old := make([]byte, 3)
	if n, _ := held.Read(old); string(old[:n]) != "one" {
		t.Errorf("the reader has %q", old[:n])
	}
}

// TestKilledBetween leaves what a killed process leaves: a half file beside the whole one.
func TestKilledBetween(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "derp.yaml")
	mustReplace(t, path, "one", true)
	put(t, stagedName(path), "tw", 0o400)
	if got := get(t, path); got != "one" {
		t.Errorf("it holds %q", got)
	}
	mustReplace(t, path, "two", true)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}

func TestReplaceBehindLinks(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	link, target := filepath.Join(dir, "derp.yaml"), filepath.Join(elsewhere, "real.yaml")
	if err := os.Symlink(target, link); err != nil {
		t.Skip(err)
	}
	mustReplace(t, link, "one", true) // it leads nowhere yet
	mustReplace(t, link, "two", true)
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v %v", info, err)
	}
	if got := get(t, target); got != "two" {
		t.Errorf("the file behind it holds %q", got)
	}
	// What lies where the new contents are staged is not followed.
	victim := filepath.Join(elsewhere, "victim")
	put(t, victim, "mine", 0o600)
	if err := os.Symlink(victim, stagedName(target)); err != nil {
		t.Fatal(err)
	}
	mustReplace(t, link, "three", true)
	if got := get(t, victim); got != "mine" {
		t.Errorf("a link was followed: %q", got)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	if _, err := replace(loop, []byte("x")); err == nil {
		t.Error("a loop is taken")
	}
}

func TestReplaceFails(t *testing.T) {
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	places := []string{filepath.Join(dir, "none", "derp.yaml"), dir}
	if os.Geteuid() != 0 {
		places = append(places, filepath.Join(closed, "derp.yaml"))
	}
	for _, path := range places {
		if _, err := replace(path, []byte("x")); err == nil {
			t.Errorf("%s was written", path)
		}
		if err := checkReplaceable(path); err == nil {
			t.Errorf("%s: the check is content", path)
		}
	}
	if err := checkReplaceable(filepath.Join(dir, "derp.yaml")); err != nil {
		t.Error(err)
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if strings.Contains(e.Name(), staging) {
			t.Errorf("%s is left", e.Name())
		}
	}
}
