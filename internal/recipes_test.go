package internal_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fenced matches a block of a document that names the language of a recipe.
var fenced = regexp.MustCompile("(?ms)^```(nginx|haproxy|caddyfile|yaml)\n(.*?)^```$")

// What docs/proxies.md shows, in both languages, are the files that make proxies
// runs: every file, and no other.
func TestRecipesAreTheFiles(t *testing.T) {
	docs := filepath.Join(moduleRoot(t), "docs")
	entries, err := os.ReadDir(filepath.Join(docs, "proxies"))
	if err != nil || len(entries) == 0 {
		t.Fatalf("no recipes: %v", err)
	}
	for _, doc := range []string{"proxies.md", "proxies.zh-CN.md"} {
		text, err := os.ReadFile(filepath.Join(docs, doc))
		if err != nil {
			t.Fatal(err)
		}
		shown := map[string]bool{}
		for _, m := range fenced.FindAllStringSubmatch(string(text), -1) {
			shown[m[2]] = true
		}
		for _, e := range entries {
			recipe, err := os.ReadFile(filepath.Join(docs, "proxies", e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if !shown[string(recipe)] {
				t.Errorf("%s does not show proxies/%s as it is", doc, e.Name())
			}
			delete(shown, string(recipe))
			if link := "](proxies/" + e.Name() + ")"; !strings.Contains(string(text), link) {
				t.Errorf("%s has no link %s", doc, link)
			}
		}
		for block := range shown {
			t.Errorf("%s shows what is no file of docs/proxies:\n%s", doc, block)
		}
	}
}
