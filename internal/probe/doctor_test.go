package probe

import (
	"bytes"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/relaytest"
)

// Every text is there in both languages, and uses the same arguments.
func TestWords(t *testing.T) {
	verb := regexp.MustCompile(`%\[\d\]s`)
	if e, c := slices.Sorted(maps.Keys(english)), slices.Sorted(maps.Keys(chinese)); !slices.Equal(e, c) {
		t.Fatalf("codes differ:\n%v\n%v", e, c)
	}
	for code, e := range english {
		c := chinese[code]
		for _, pair := range [][2]string{{e.says, c.says}, {e.cause, c.cause}, {e.next, c.next}} {
			if (pair[0] == "") != (pair[1] == "") {
				t.Errorf("%s: %q and %q", code, pair[0], pair[1])
			}
			all := func(s string) []string {
				list := verb.FindAllString(s, -1)
				slices.Sort(list)
				return slices.Compact(list)
			}
			if x, y := all(pair[0]), all(pair[1]); !slices.Equal(x, y) {
				t.Errorf("%s: arguments %v in %q, %v in %q", code, x, pair[0], y, pair[1])
			}
			if strings.Contains(verb.ReplaceAllString(pair[0]+pair[1], ""), "%!") {
				t.Errorf("%s: %q, %q", code, pair[0], pair[1])
			}
		}
		if (e.cause == "") != (e.next == "") {
			t.Errorf("%s has a cause without a next step, or the reverse", code)
		}
	}
	for id, s := range titles {
		if s.en == "" || s.zh == "" {
			t.Errorf("title of %s: %+v", id, s)
		}
	}
}

// Every code that the checks return has words, those of warnings and failures with
// their cause and next step; and every check has a title.
func TestEveryCodeHasWords(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{"relay.small": true, "relay.usual": true, "relay.large": true, "relay.disco": true}
	call := regexp.MustCompile(`\b(pass|warn|fail|skip)\("([a-z0-9_.]+)"([^\n]*)`)
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), "doctor") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			used[m[2]] = true
			w, ok := english[m[2]]
			bad := m[1] == "warn" || m[1] == "fail"
			if !ok || bad != (w.cause != "") {
				t.Errorf("%s: %s %s: words %+v", f.Name(), m[1], m[2], w)
			}
			needs := 0
			for i := 1; strings.Contains(w.says+w.cause+w.next, "%["+string(rune('0'+i))+"]s"); i++ {
				needs = i
			}
			if needs > 0 && !strings.Contains(m[3], ",") {
				t.Errorf("%s: %s wants %d arguments", f.Name(), m[2], needs)
			}
		}
	}
	for code := range english {
		if !used[code] && code != "local.down" {
			t.Errorf("nothing says %s", code)
		}
	}
	v := &visit{node: relaytest.Live(t, relaytest.Everybody)}
	for _, c := range v.checks() {
		if titles[c.id].en == "" {
			t.Errorf("check %s has no title", c.id)
		}
	}
}

func TestExamine(t *testing.T) {
	n := relaytest.Live(t, relaytest.Everybody)
	d := Examine(t.Context(), DoctorOptions{Node: n, Known: true})
	var text bytes.Buffer
	if err := d.Print(&text, "en"); err != nil {
		t.Fatal(err)
	}
	worst, ok := d.Worst()
	if !ok || worst.Code != "admission.open" || strings.Contains(text.String(), "%!") {
		t.Errorf("%+v\n%s", worst, &text)
	}
	if d.Took > 15 {
		t.Errorf("it took %v seconds", d.Took)
	}
	t.Log(text.String())
	text.Reset()
	d = Examine(t.Context(), DoctorOptions{Node: n, Known: true, Lang: Chinese, Limit: time.Minute})
	if err := d.Print(&text, Chinese); err != nil || !strings.Contains(text.String(), "陌生人: 新密钥获准进入") || strings.Contains(text.String(), "%!") {
		t.Errorf("%v\n%s", err, &text)
	}
}
