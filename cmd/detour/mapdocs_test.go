package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// What the manual shows is what the commands print.
func TestMapManual(t *testing.T) {
	files := regexp.MustCompile("(?ms)^```yaml\n# (\\S+)\n(.*?)^```$")
	outputs := regexp.MustCompile("(?ms)^```text\n(.*?)^```$")
	for _, page := range []string{"map.md", "map.zh-CN.md"} {
		page, err := filepath.Abs(filepath.Join("../../docs", page))
		if err != nil {
			t.Fatal(err)
		}
		text := read(t, page)
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Chdir(t.TempDir())
			for _, m := range files.FindAllStringSubmatch(text, -1) {
				if err := os.WriteFile(m[1], []byte("# "+m[1]+"\n"+m[2]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			shown := outputs.FindAllStringSubmatch(text, -1)
			for i, args := range [][]string{{"map", "check", "hurried.yaml"}, {"map", "diff", "derp.yaml", "new.yaml"}} {
				if got := detour(t, args...).stdout; len(shown) != 2 || got != shown[i][1] {
					t.Errorf("%v prints\n%s", args, got)
				}
			}
		})
	}
}
