package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseTrusted(t *testing.T) {
	checkAll(t, func(s string) []fault { _, _, faults := parseTrusted([]string{s}); return faults }, []verdict{
		{"192.0.2.0/24", ""},
		{"192.0.2.7", ""},
		{"2001:db8::/32", ""},
		{"::1", ""},
		{"unix", ""},
		{"0.0.0.0/0", ""},
		{"::ffff:192.0.2.0/120", ""},
		{"::ffff:0:0/95", "write the IPv4 range alone"},
		{"192.0.2.0/33", "write 192.0.2.0/24"},
		{"fe80::1%eth0", "write 192.0.2.0/24"},
		{"proxy.example.com", "not a range"},
		{"192.0.2.1:80", "not a range"},
		{"Unix", "or unix"},
		{"", "not a range"},
	})
	from, unix, _ := parseTrusted([]string{"192.0.2.7/24", "unix", "::ffff:10.0.0.0/104", "2001:db8::1"})
	if got := fmt.Sprint(from, unix); got != "[192.0.2.0/24 10.0.0.0/8 2001:db8::1/128] true" {
		t.Errorf("parsed: %s", got)
	}
}

func TestCheckFallback(t *testing.T) {
	checkAll(t, checkFallback, []verdict{
		{"", ""},
		{"http://127.0.0.1:8080", ""},
		{"http://localhost", ""},
		{"http://site.example.com:80/", ""},
		{"http://[::1]:8080", ""},
		{"unix:/run/site.sock", ""},
		{"/srv/www", ""},
		{"./www", ""},
		{".", ""},
		{"unix:", "write a path"},
		{"~/www", "write the whole path"},
		{"https://127.0.0.1:8443", "sni_route"},
		{"127.0.0.1:8080", "use http://HOST:PORT"},
		{"www", "directory's path with a / in it"},
		{"http://127.0.0.1:8080/site", "write http://127.0.0.1:8080"},
		{"http://a:b@127.0.0.1", "write http://127.0.0.1"},
		{"http://127.0.0.1:0", "port 0"},
		{"http://:8080", "names no host"},
		{"http://127.0.0.1:99999", "0..65535"},
		{"http://", "use http://HOST:PORT"},
		{"neutral", "use http://HOST:PORT"},
	})
}

func TestParseRoutes(t *testing.T) {
	checkAll(t, func(s string) []fault { _, faults := parseRoutes([]string{s}); return faults }, []verdict{
		{"a.example.com=127.0.0.1:8443", ""},
		{"A.Example.com.=site.internal:443", ""},
		{"*.example.com=[::1]:8443", ""},
		{"localhost=127.0.0.1:8443", ""},
		{"a.example.com=unix:/run/site.sock", ""},
		{"a.example.com=127.0.0.1:8443,proxy_protocol=v2", ""},
		{"a.example.com", "write other.example.com="},
		{"a.example.com:127.0.0.1:8443", "write other.example.com="},
		{"=127.0.0.1:8443", "use a DNS name"},
		{"192.0.2.1=127.0.0.1:8443", "use a DNS name"},
		{"*=127.0.0.1:8443", "use a DNS name"},
		{"*.com=127.0.0.1:8443", "use a DNS name"},
		{"a.*.com=127.0.0.1:8443", "use a DNS name"},
		{"a.example.com=127.0.0.1", "add the port"},
		{"a.example.com=:8443", "write 127.0.0.1:8443"},
		{"a.example.com=127.0.0.1:0", "port 0"},
		{"a.example.com=https://127.0.0.1:8443", "not"},
		{"a.example.com=unix:", "write a path"},
		{"a.example.com=127.0.0.1:8443,proxy_protocol=v1", "use proxy_protocol=v2"},
		{"a.example.com=127.0.0.1:8443,v2", "use proxy_protocol=v2"},
		{"proxy_protocol=v2", "add the port"},
	})
	// As the environment gives it: the comma parts entries.
	routes, faults := parseRoutes([]string{"A.example.com.=127.0.0.1:1", "proxy_protocol=v2", "*.b.example=unix:/x"})
	want := []Route{{"a.example.com", "tcp", "127.0.0.1:1", true}, {"*.b.example", "unix", "/x", false}}
	if len(faults) > 0 || !slices.Equal(routes, want) {
		t.Errorf("%+v, %v", routes, faults)
	}
	if _, faults := parseRoutes([]string{"a.example=127.0.0.1:1", "A.example=127.0.0.1:2"}); len(faults) != 1 {
		t.Errorf("two routes for one name: %v", faults)
	}
	if _, faults := parseRoutes([]string{"a.example=127.0.0.1:1", "proxy_protocol=v3"}); len(faults) != 1 {
		t.Errorf("a bad option apart: %v", faults)
	}
}

func TestProxyChecks(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string // in the one problem; empty: none
	}{
		{"nothing", func(*Config) {}, ""},
		{"fallback", func(c *Config) { c.Fallback, c.FrontPage = "http://127.0.0.1:8080", FrontFallback }, ""},
		{"fallback to elsewhere on the same port", func(c *Config) { c.Fallback, c.FrontPage = "http://192.0.2.1:443", FrontFallback }, ""},
		{"fallback in vain", func(c *Config) { c.Fallback = "/srv" }, "remove front_page or fallback"},
		{"no fallback", func(c *Config) { c.FrontPage = FrontFallback }, "set fallback"},
		{"fallback to itself", func(c *Config) { c.Fallback, c.FrontPage = "http://127.0.0.1:443", FrontFallback }, "the relay itself"},
		{"fallback to port 80", func(c *Config) { c.Fallback, c.FrontPage = "http://localhost", FrontFallback }, "the relay itself"},
		{"fallback to its address", func(c *Config) {
			c.Listen, c.Fallback, c.FrontPage = "192.0.2.1:8080", "http://192.0.2.1:8080", FrontFallback
		}, "the relay itself"},
		{"route", func(c *Config) { c.SNIRoute = []string{"a.example=127.0.0.1:8443"} }, ""},
		{"route beside the hostname", func(c *Config) {
			c.Hostname, c.SNIRoute = "relay.example.com", []string{"*.example.com=127.0.0.1:8443"}
		}, ""},
		{"route of the hostname", func(c *Config) {
			c.Hostname, c.SNIRoute = "Relay.example.com", []string{"relay.example.com=127.0.0.1:8443"}
		}, "the relay's own hostname"},
		{"route to itself", func(c *Config) { c.SNIRoute = []string{"a.example=[::1]:443"} }, "the relay itself"},
		{"route without TLS", func(c *Config) { c.TLS, c.SNIRoute = false, []string{"a.example=127.0.0.1:8443"} }, "needs TLS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := Defaults(rootHost)
			tt.change(&c)
			err := Check(c)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n")):
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
