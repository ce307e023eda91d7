package admin

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/unixsock"
)

func TestParseAddress(t *testing.T) {
	long := "/" + strings.Repeat("x", unixsock.MaxPath)
	tests := []struct {
		in, want string // want is empty for an error
		inError  string
	}{
		{"unix:/run/detour/admin.sock", "unix:/run/detour/admin.sock", ""},
		{"unix:state//admin.sock", "unix:state/admin.sock", ""},
		{"unix:" + long[:unixsock.MaxPath], "unix:" + long[:unixsock.MaxPath], ""},
		{"unix:" + long, "", "shorter"},
		{"unix:", "", "names no path"},
		{"unix:@abstract", "", "is no path"},
		{"unix:/a\x00b", "", "is no path"},
		{"127.0.0.1:9090", "127.0.0.1:9090", ""},
		{"127.8.9.1:0", "127.8.9.1:0", ""},
		{"localhost:9090", "127.0.0.1:9090", ""},
		{"[::1]:9090", "[::1]:9090", ""},
		{"[::ffff:127.0.0.1]:9090", "127.0.0.1:9090", ""},
		{"::1:9090", "", "brackets"},
		{"[127.0.0.1]:9090", "", "brackets"},
		{"[::1%lo]:9090", "", "not on this machine's loopback"},
		{":9090", "", "not on this machine's loopback"},
		{"0.0.0.0:9090", "", "not on this machine's loopback"},
		{"[::]:9090", "", "not on this machine's loopback"},
		{"192.0.2.1:9090", "", "not on this machine's loopback"},
		{"example.com:9090", "", "not on this machine's loopback"},
		{"127.0.0.1", "", "no port"},
		{"127.0.0.1:", "", "port is not a number"},
		{"127.0.0.1:65536", "", "port is not a number"},
		{"127.0.0.1:http", "", "port is not a number"},
		{"/run/detour/admin.sock", "", "no port"},
		{"", "", "no port"},
	}
	for _, tt := range tests {
		a, err := parseAddress(tt.in)
		if tt.want != "" {
			if err != nil || a.String() != tt.want {
				t.Errorf("parseAddress(%q) = %q, %v, want %q", tt.in, a, err, tt.want)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.inError) || !strings.Contains(err.Error(), "; hint: ") {
			t.Errorf("parseAddress(%q) = %q, %v, want an error with %q and a hint", tt.in, a, err, tt.inError)
		}
	}
}

func TestIsLoopbackHost(t *testing.T) {
	for _, host := range []string{
		"localhost", "LOCALHOST:80", "localhost:9090", "127.0.0.1", "127.0.0.1:9090", "[::1]", "[::1]:9090",
	} {
		if !isLoopbackHost(host) {
			t.Errorf("%q refused", host)
		}
	}
	for _, host := range []string{
		"", ":", "[]", "[", "evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example",
		"192.0.2.1", "0.0.0.0", "[::]:9090", "localhost:99999", "localhost:evil", "evil.example:9090:localhost",
		"[::1%25lo]:80", "localhost ",
	} {
		if isLoopbackHost(host) {
			t.Errorf("%q accepted", host)
		}
	}
}

func FuzzIsLoopbackHost(f *testing.F) {
	for _, s := range []string{
		"localhost", "localhost:80", "127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]", "evil.example:80", "[", "]:1", "::1",
		"[::1%eth0]:1", "127.0.0.1:127.0.0.1", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !isLoopbackHost(host) {
			return
		}
		// Whatever a browser would connect to for this header is this machine.
		name := (&url.URL{Host: host}).Hostname()
		if strings.EqualFold(name, "localhost") {
			return
		}
		if ip, err := netip.ParseAddr(name); err == nil && ip.Unmap().IsLoopback() {
			return
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap().IsLoopback() {
			return // an IPv6 address without brackets, which no browser sends
		}
		t.Errorf("%q accepted, its host name is %q", host, name)
	})
}
