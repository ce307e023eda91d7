package stun

import (
	"net/netip"
	"slices"
	"testing"
)

func TestOneSource(t *testing.T) {
	repeat := func(n int, addrs ...string) []string { return slices.Repeat(addrs, n) }
	for name, tt := range map[string]struct {
		from []string
		want string
	}{
		"a bridge":       {repeat(50, "172.17.0.1"), "172.17.0.1"},
		"mapped":         {repeat(20, "::ffff:172.17.0.1"), "172.17.0.1"},
		"IPv6":           {repeat(20, "fd00::1"), "fd00::1"},
		"too few":        {repeat(19, "172.17.0.1"), ""},
		"public":         {repeat(50, "203.0.113.7"), ""},
		"loopback":       {repeat(50, "127.0.0.1"), ""},
		"two":            {repeat(30, "172.17.0.1", "172.17.0.2"), ""},
		"one among them": {append(repeat(19, "172.17.0.1"), append([]string{"203.0.113.7"}, repeat(30, "172.17.0.1")...)...), ""},
	} {
		var told []string
		f := firstSources{tell: func(a netip.Addr) { told = append(told, a.String()) }}
		for _, a := range tt.from {
			f.note(netip.MustParseAddr(a))
		}
		if tt.want == "" && len(told) > 0 || tt.want != "" && !slices.Equal(told, []string{tt.want}) {
			t.Errorf("%s: told %q, want %q", name, told, tt.want)
		}
	}
	(&firstSources{}).note(netip.MustParseAddr("172.17.0.1")) // nobody wants to know
}
