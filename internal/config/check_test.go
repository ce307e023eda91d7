package config

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// verdict is a value and the hint (or else the fault) that it must draw; "" for
// a value that is right.
type verdict struct{ value, want string }

func checkAll(t *testing.T, check func(string) []fault, verdicts []verdict) {
	t.Helper()
	for _, v := range verdicts {
		faults := check(v.value)
		switch {
		case v.want == "" && len(faults) == 0:
		case len(faults) != 1:
			t.Errorf("%q: %d faults %v, want %q", v.value, len(faults), faults, v.want)
		case v.want == "" || !strings.Contains(faults[0].what+"; "+faults[0].hint, v.want):
			t.Errorf("%q: %+v, want %q", v.value, faults[0], v.want)
		}
	}
}

func TestCheckListen(t *testing.T) {
	checkAll(t, func(s string) []fault { return checkListen(s, "443") }, []verdict{
		{"off", ""},
		{":443", ""},
		{":0", ""},
		{":65535", ""},
		{"192.0.2.1:443", ""},
		{"[::1]:443", ""},
		{"[fe80::1%eth0]:443", ""},
		{"localhost:443", ""},
		{"fly-global-services:3478", ""},
		{"443", "write :443"},
		{"192.0.2.1", "as in 192.0.2.1:443"},
		{"::1", "as in [::1]:443"},
		{"[::1]", "as in [::1]:443"},
		{"localhost", "as in localhost:443"},
		{"", "write :443, or off"},
		{"OFF", "write off"},
		{"none", "write off"},
		{"false", "write off"},
		{":65536", "0..65535"},
		{":-1", "0..65535"},
		{":+1", "0..65535"},
		{":https", "as in :443"},
		{"192.0.2.1:", "as in 192.0.2.1:443"},
		{"*:443", "use :443 for every address"},
		{"https://192.0.2.1:443", "write an address such as :443"},
		{"192.0.2.1/24:443", "not an address"},
		{" :443", "use :443"},
		{"300.1.1.1:443", "not an address"},
		{"unix:/run/x", "use HOST:PORT"},
		{"systemd", ""},
		{"systemd:stun", ""},
		{"systemd:", "names no socket"},
	})
}

func TestCheckAdmin(t *testing.T) {
	checkAll(t, checkAdmin, []verdict{
		{"off", ""},
		{"unix:/run/x.sock", ""},
		{"unix:x.sock", ""},
		{"127.0.0.1:9090", ""},
		{"127.8.0.1:9090", ""},
		{"[::1]:0", ""},
		{"localhost:9090", ""},
		{"unix:", "write a path"},
		{"/run/x.sock", "write unix:/run/x.sock"},
		{"./x.sock", "write unix:./x.sock"},
		{"unix:~/x", "write the whole path"},
		{":9090", "use a unix socket, or 127.0.0.1:9090"},
		{"0.0.0.0:9090", "no password"},
		{"[::]:9090", "no password"},
		{"192.0.2.1:9090", "no password"},
		{"admin.example.com:9090", "no password"},
		{"9090", "write :9090"},
		{"", "write :9090, or off"},
		{"unix:/a\x00b", "control characters"},
	})
}

func TestCheckHostname(t *testing.T) {
	checkAll(t, checkHostname, []verdict{
		{"", ""},
		{"relay.example.com", ""},
		{"relay", ""},
		{"Relay-1.Example.COM", ""},
		{"xn--bcher-kva.example", ""},
		{"a_b.example.com", ""},
		{"192.0.2.1", ""},
		{"2001:db8::1", ""},
		{"127.0.0.1", ""},
		{"https://relay.example.com", "write relay.example.com alone"},
		{"https://relay.example.com:8443/derp?x#y", "write relay.example.com alone"},
		{"relay.example.com:8443", "write relay.example.com alone"},
		{"relay.example.com/derp", "write relay.example.com alone"},
		{"relay.example.com.", "write relay.example.com alone"},
		{" relay.example.com ", "write relay.example.com alone"},
		{"[2001:db8::1]", "write 2001:db8::1 alone"},
		{"[2001:db8::1]:443", "write 2001:db8::1 alone"},
		{"192.0.2.1:443", "write 192.0.2.1 alone"},
		{"https://[2001:db8::1]:443/", "write 2001:db8::1 alone"},
		{"bücher.example", "xn--"},
		{"relay example.com", "write a DNS name"},
		{"*.example.com", "write a DNS name"},
		{"a..b", "write a DNS name"},
		{"-a.example", "write a DNS name"},
		{"a-.example", "write a DNS name"},
		{"192.0.2", "write a DNS name"},
		{"192.0.2.256", "write a DNS name"},
		{strings.Repeat("a", 64) + ".example", "write a DNS name"},
		{strings.Repeat("abcdefg.", 32) + "example", "write a DNS name"},
		{"fe80::1%eth0", "write fe80::1"},
		{"::ffff:192.0.2.1", "write 192.0.2.1"},
		{"0.0.0.0", "nobody can dial"},
		{"::", "nobody can dial"},
		{"ff02::1", "nobody can dial"},
		{"://", "write a DNS name"},
		{"%zz", "write a DNS name"},
		{"https://%zz", "write a DNS name"},
		{"\x00", "write a DNS name"},
	})
}

func TestCheckPublic(t *testing.T) {
	of := func(family int) func(string) []fault {
		return func(s string) []fault { return checkPublic(netip.MustParseAddr(s), family) }
	}
	checkAll(t, of(4), []verdict{
		{"192.0.2.1", ""},
		{"10.0.0.1", ""},
		{"2001:db8::1", "give it as public_ipv6"},
		{"::ffff:192.0.2.1", "write 192.0.2.1"},
		{"0.0.0.0", "nobody can dial"},
		{"224.0.0.1", "nobody can dial"},
	})
	checkAll(t, of(6), []verdict{
		{"2001:db8::1", ""}, {"192.0.2.1", "give it as public_ipv4"}, {"fe80::1%eth0", "write fe80::1"}, {"::", "nobody can dial"}, {"ff02::1", "nobody can dial"},
	})
	if faults := checkPublic(netip.Addr{}, 4); faults != nil {
		t.Errorf("no address: %v", faults)
	}
}

func TestCheckTexts(t *testing.T) {
	checkAll(t, checkWord, []verdict{
		{"", ""},
		{"detour-900", ""},
		{"東京", ""},
		{strings.Repeat("a", 64), ""},
		{strings.Repeat("a", 65), "shorten it"},
		{"a b", "spaces"},
		{"a\tb", "spaces"},
		{"a\u00a0b", "spaces"},
		{"a\x1b[0m", "do not print"},
		{"\xff", "do not print"},
	})
	checkAll(t, checkTitle, []verdict{
		{"Detour 900", ""}, {"", ""}, {" a", "space"}, {"  ", "space"}, {"a\nb", "do not print"}, {strings.Repeat("a", 129), "shorten it"},
	})
	checkAll(t, checkPath, []verdict{
		{"", ""}, {"/a b", ""}, {"relative", ""}, {"~", "whole path"}, {"~/x", "whole path"}, {"/a~b", ""}, {"/a\nb", "control characters"},
	})
	checkAll(t, checkFrontPage, []verdict{
		{"neutral", ""},
		{"blank", ""},
		{"https://example.com", ""},
		{"http://192.0.2.1:80/x?y", ""},
		{"", "use neutral, blank"},
		{"Neutral", "did you mean neutral?"},
		{"blnak", "did you mean blank?"},
		{"ftp://example.com", "neither"},
		{"https://", "neither"},
		{"example.com", "neither"},
		{"javascript:alert(1)", "neither"},
		{"https://a/\r\nX: y", "neither"},
		{"https://a/" + strings.Repeat("a", maxURL), "shorter URL"},
		{"https://:443/", "neither"},
	})
}

func TestCheckAdmit(t *testing.T) {
	node := "nodekey:" + strings.Repeat("ab", 32)
	checkAll(t, func(s string) []fault { return checkAdmit(strings.Fields(s)) }, []verdict{
		{"any", ""},
		{"none", ""},
		{"", ""},
		{"any any", ""},
		{"any none", "contradict"},
		{"ANY", "did you mean any?"},
		{"everyone", "use any, none, ask"},
		{node, "give it as admit_key"},
		{"headscale=https://hs.example.com", ""},
		{"headscale=https://hs.example.com,token_file=/t,refresh=30s", ""},
		{"headscale=https://hs.example.com,refresh=30s", "needs a token"},
		{"headscale=https://hs.example.com,token_file=/t,token_env=T", "both given"},
		{"headscale=https://hs.example.com,token_file=/t,allow_for=1m", "are for /verify"},
		{"headscale=hs.example.com", "not an http or https URL"},
		{"headscale", "write headscale=URL"},
		{"headscale=https://hs.example.com,tokenfile=/t", "did you mean token_file?"},
		{"headscale=https://hs.example.com,token_file=", "has no value"},
		{"url=https://me:secret@hs.example.com:bad/", "…@hs"},
		{"url=http://x,allow_for=5", "write the unit"},
		{"url=http://x,allow_for=-5s", "is not in"},
		{"url=http://x,on_unavailable=open", "unknown value"},
		{"tailscaled", ""},
		{"tailscaled=/run/x", ""},
		{"ask", ""},
		{"ask=x", "write ask alone"},
		{"none ask", "leave none out"},
		{"keys=/x", ""},
		{"keys=/x keys=/y", ""},
		{"keys", "write keys=FILE"},
		{"keys=~/x", "whole path"},
		{"exec=/x,timeout=1s", ""},
		{"tailscale=example.com", "needs an API access token"},
		{"tailscale=-,key_env=TS_KEY,unauthorized=admit", ""},
		{"tailscale=-,key_env=TS-KEY", "not the name of a variable"},
		{"tailscale=-,oauth_id=k,oauth_secret_file=/s", ""},
		{"tailscale=-,oauth_secret_file=/s", "give both"},
		{"tailscale=a/b,key_env=K", "no tailnet"},
		{"url=http://x,name=a url=http://y,name=a", "given twice"},
		{"url=http://x/a url=http://x/b", "given twice"},
		{node, "give it as admit_key"},
	})
	checkAll(t, func(s string) []fault { return checkAdmitKeys(splitList(s)) }, []verdict{
		{node, ""}, {node + "," + node, ""}, {strings.Repeat("ab", 32), "is not a node key"}, {node[:20], "is not a node key"}, {node + " x", `"x" is not a node key`},
	})
	if faults := checkAdmit([]string{"x", "y"}); len(faults) != 2 {
		t.Errorf("two wrong entries: %v", faults)
	}
}

func TestCheckNumbers(t *testing.T) {
	for id, right := range map[int]bool{-1: false, 0: false, 1: true, 65535: true, 65536: false} {
		if got := len(checkRegionID(id)) == 0; got != right {
			t.Errorf("region %d: right %v, want %v", id, got, right)
		}
	}
	for d, right := range map[time.Duration]bool{
		-time.Second: false, 0: true, time.Millisecond - 1: false, time.Millisecond: true, time.Hour: true, time.Hour + 1: false,
	} {
		if got := len(checkDuration(d, time.Millisecond, time.Hour)) == 0; got != right {
			t.Errorf("%v: right %v, want %v", d, got, right)
		}
	}
}

func TestOverlap(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{":1", ":1", true},
		{":1", ":2", false},
		{":0", ":0", false},
		{"off", "off", false},
		{":1", "off", false},
		{":1", "192.0.2.1:1", true},
		{"[::]:1", "192.0.2.1:1", false},
		{":1", "relay:1", true},
		{"0.0.0.0:1", "192.0.2.1:1", true},
		{"0.0.0.0:1", "[::1]:1", false},
		{"0.0.0.0:1", "[::]:1", false},
		{"[::]:1", "[::1]:1", true},
		{":1", "[::]:1", true},
		{":1", "0.0.0.0:1", true},
		{"[::]:1", "relay:1", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"192.0.2.1:1", "192.0.2.1:1", true},
		{"127.0.0.1:1", "localhost:1", true},
		{"[::ffff:192.0.2.1]:1", "192.0.2.1:1", true},
		{"[::1]:1", "[0:0::1]:1", true},
		{":1", "unix:/x", false},
	}
	for _, tt := range tests {
		if overlap(tt.a, tt.b) != tt.want || overlap(tt.b, tt.a) != tt.want {
			t.Errorf("overlap(%s, %s) = %v, %v, want %v", tt.a, tt.b, overlap(tt.a, tt.b), overlap(tt.b, tt.a), tt.want)
		}
	}
}

// A Config made by hand is checked in full, and without panics when it is empty.
func TestCheck(t *testing.T) {
	if err := Check(Defaults(rootHost)); err != nil {
		t.Errorf("defaults: %v", err)
	}
	e, ok := errors.AsType[*Error](Check(Config{}))
	if !ok {
		t.Fatal("an empty Config passed")
	}
	var named []string
	for _, p := range e.Problems {
		named = append(named, p.Setting)
	}
	for _, want := range []string{"state_dir", "listen", "stun_listen", "stun_mode", "http_listen", "region_id", "region_code", "region_name", "cert_mode", "front_page", "log_format", "log_level"} {
		if !slices.Contains(named, want) {
			t.Errorf("an empty Config: nothing about %s in %v", want, named)
		}
	}
	c := Defaults(rootHost)
	c.ServerKey, c.AdminListen, c.Cert, c.Key = "", "", "", ""
	want := "config: 3 problems:\n" +
		"  server_key: is empty; hint: name it\n" +
		"  admin_listen: is empty; hint: name it\n" +
		"  cert: cert and key are empty; hint: set both to files in the state directory"
	if err := Check(c); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestProblemText(t *testing.T) {
	tests := []struct {
		p    Problem
		want string
	}{
		{Problem{What: "w"}, "w"},
		{Problem{Setting: "s", What: "w"}, "s: w"},
		{Problem{Origin: "f:1", What: "w", Hint: "h"}, "f:1: w; hint: h"},
		{Problem{Setting: "s", Origin: "--s", What: "w"}, "s (--s): w"},
	}
	for _, tt := range tests {
		if got := tt.p.String(); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.p, got, tt.want)
		}
	}
}
