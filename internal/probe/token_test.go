package probe

import (
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

func TestToken(t *testing.T) {
	k := NewToken()
	k.Relay, k.Until = key.NewPrivate().Public(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	got, err := ParseToken("# a comment\r\n\n" + k.Text())
	if err != nil || got.Text() != k.Text() || got.Keys[0].Public() == got.Keys[1].Public() {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{
		"", "x", k.Text() + "more", strings.Replace(k.Text(), "until", "till", 1), strings.Replace(k.Text(), "privkey:", "privkey:x", 1),
		strings.Replace(k.Text(), "nodekey:", "", 1), strings.Replace(k.Text(), "2026", "26", 1),
	} {
		if _, err := ParseToken(text); err == nil || !strings.Contains(err.Error(), "; hint: ") {
			t.Errorf("%q: %v", text, err)
		} else if strings.Contains(err.Error(), k.Keys[1].Reveal()[10:20]) {
			t.Errorf("it shows the key: %v", err)
		}
	}
}
