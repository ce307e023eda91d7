package daemon

import "testing"

func TestBurst(t *testing.T) {
	var b burst
	for i, look := range []struct {
		logins uint64
		over   bool
	}{
		{0, false}, {150, false}, {150, false}, // too few
		{250, false}, {400, false}, {400, true}, {400, false}, // once, when it is over
		{450, false}, {450, false}, {5000, false}, {5001, false}, {5001, true},
	} {
		if got := b.over(look.logins); got != look.over {
			t.Errorf("look %d, %d logins: %v", i, look.logins, got)
		}
	}
}
