package compat

import (
	"flag"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/detour-relay/detour/internal/config"
)

// Source of names and defaults: derper 1.102's -h, for the user u.
var derperFlags = []struct {
	name, value, arg string
	change           func(*config.Config) // what arg does to rootConfig
	refused          string               // or what the error about it says
}{
	{name: "dev", value: "false", arg: "-dev", change: func(c *config.Config) {
		c.Listen, c.HTTPListen = ":3340", ":80" // TLS stays, as the certmode is manual
		c.StateDir, c.ServerKey, c.AdminListen = "/tmp/new", "/tmp/new/derper.key", "unix:/tmp/new/admin.sock"
	}},
	{name: "version", value: "false", arg: "-version"},
	{name: "a", value: ":443", arg: "-a=192.0.2.7:8443", change: func(c *config.Config) {
		c.Listen, c.HTTPListen, c.STUNListen = "192.0.2.7:8443", "192.0.2.7:80", "192.0.2.7:3478"
	}},
	{name: "http-port", value: "80", arg: "-http-port=-1", change: func(c *config.Config) { c.HTTPListen = config.Off }},
	{name: "stun-port", value: "3478", arg: "-stun-port=3479", change: func(c *config.Config) { c.STUNListen = ":3479" }},
	{name: "stun", value: "true", arg: "-stun=false", change: func(c *config.Config) { c.STUNListen = config.Off }},
	{name: "derp", value: "true", arg: "-derp=false", refused: "detour serve --listen off"},
	{name: "c", value: "", arg: "-c=/etc/relay/my.key", change: func(c *config.Config) {
		c.StateDir, c.ServerKey, c.AdminListen = "/etc/relay", "/etc/relay/my.key", "unix:/etc/relay/admin.sock"
	}},
	{name: "certmode", value: "letsencrypt", arg: "-certmode=gcp", refused: "derper has no gcp certificate for an IP address"},
	{name: "certdir", value: "/cache/tailscale/derper-certs", arg: "-certdir=/certs", change: func(c *config.Config) {
		c.Cert, c.Key = "/certs/192.0.2.1.crt", "/certs/192.0.2.1.key"
	}},
	{name: "hostname", value: "derp.tailscale.com", arg: "-hostname=2001:db8::1", change: func(c *config.Config) {
		c.Hostname = "2001:db8::1"
		c.Cert = "/cache/tailscale/derper-certs/2001db81.crt"
		c.Key = "/cache/tailscale/derper-certs/2001db81.key"
	}},
	{name: "acme-email", value: "", arg: "-acme-email=a@example.com", change: func(*config.Config) {}},
	{name: "acme-eab-kid", value: "", arg: "-acme-eab-kid=kid", change: func(*config.Config) {}},
	{name: "acme-eab-key", value: "", arg: "-acme-eab-key=s3cret", change: func(*config.Config) {}},
	{name: "acme-ip-certs", value: "false", arg: "-acme-ip-certs", change: func(*config.Config) {}},
	{name: "home", value: "", arg: "-home=blank", change: func(c *config.Config) { c.FrontPage = config.FrontBlank }},
	{name: "mesh-psk-file", value: "", arg: "-mesh-psk-file=/mesh.key", change: func(c *config.Config) { c.MeshKeyFile = "/mesh.key" }},
	{name: "mesh-with", value: "", arg: "-mesh-with=b.example.com", refused: "not supported yet"},
	{name: "secrets-url", value: "", arg: "-secrets-url=https://s", refused: "-mesh-psk-file"},
	{name: "secrets-path-prefix", value: "prod/derp", arg: "-secrets-path-prefix=x", refused: "-mesh-psk-file"},
	{name: "secrets-cache-dir", value: "/home/u/.cache/derper-secrets", arg: "-secrets-cache-dir=x", refused: "-mesh-psk-file"},
	{name: "bootstrap-dns-names", value: "", arg: "-bootstrap-dns-names=x", refused: "not supported yet"},
	{name: "unpublished-bootstrap-dns-names", value: "", arg: "-unpublished-bootstrap-dns-names=x", refused: "not supported yet"},
	{name: "verify-clients", value: "false", arg: "-verify-clients", change: func(c *config.Config) {
		c.Admit = []string{"tailscaled,allow_for=0s,refuse_for=0s,timeout=5s,on_unavailable=refuse"}
		c.AdmitPolicy = config.PolicyAllOf
	}},
	{name: "verify-client-url", value: "", arg: "-verify-client-url=https://a/b,c", change: func(c *config.Config) {
		c.Admit = []string{"url=https://a/b%2Cc,allow_for=0s,refuse_for=0s,timeout=5s,derper=on,on_unavailable=admit"}
		c.AdmitPolicy = config.PolicyAllOf
	}},
	{name: "verify-client-url-fail-open", value: "true", arg: "-verify-client-url-fail-open=false", change: func(*config.Config) {}},
	{name: "socket", value: "", arg: "-socket=/s", change: func(*config.Config) {}},
	{name: "accept-connection-limit", value: "+Inf", arg: "-accept-connection-limit=10", change: func(*config.Config) {}},
	{name: "accept-connection-burst", value: "9223372036854775807", arg: "-accept-connection-burst=10", change: func(*config.Config) {}},
	{name: "rate-config", value: "", arg: "-rate-config=/r.json", refused: "not supported yet"},
	{name: "tcp-keepalive-time", value: "10m0s", arg: "-tcp-keepalive-time=1m", change: func(c *config.Config) { c.TCPKeepAlive = time.Minute }},
	{name: "tcp-user-timeout", value: "15s", arg: "-tcp-user-timeout=20s", change: func(c *config.Config) { c.TCPUserTimeout = 20 * time.Second }},
	{name: "tcp-write-timeout", value: "2s", arg: "-tcp-write-timeout=0", change: func(c *config.Config) { c.WriteTimeout = 0 }},
	{name: "ace", value: "false", arg: "-ace", refused: "not supported yet"},
}

func TestEveryFlagIsKnownWithDerpersDefault(t *testing.T) {
	var f flags
	var names []string
	set := f.register("/cache", "/home/u")
	set.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	for _, tt := range derperFlags {
		known := set.Lookup(tt.name)
		if known == nil {
			t.Errorf("-%s is not known", tt.name)
			continue
		}
		if known.DefValue != tt.value {
			t.Errorf("-%s is %q by default, want %q", tt.name, known.DefValue, tt.value)
		}
		names = slices.DeleteFunc(names, func(n string) bool { return n == tt.name })
	}
	if len(names) > 0 {
		t.Errorf("flags without a test: %q", names)
	}
}

func TestEveryFlagIsHandled(t *testing.T) {
	env := environ{"HOME": "/home/u"}
	for _, tt := range derperFlags {
		t.Run(tt.name, func(t *testing.T) {
			args := []string{"-hostname=192.0.2.1", "-certmode=manual", tt.arg}
			switch {
			case tt.refused != "":
				text := mustFail(t, machine(nil), env, args...)
				wantText(t, text, "-"+tt.name+":", "hint: ", tt.refused)
				if strings.Contains(text, "s3cret") || strings.Contains(text, "\n") {
					t.Errorf("shows a secret or more than one problem:\n%s", text)
				}
			case tt.name == "version":
				if !mustParse(t, machine(nil), env, args...).Version {
					t.Error("Version is not set")
				}
			default:
				want := rootConfig()
				tt.change(&want)
				wantConfig(t, mustParse(t, machine(nil), env, args...).Config, want)
			}
		})
	}
}

func TestUnsupportedAtTheirDefaultsAreFine(t *testing.T) {
	args := []string{"-hostname=192.0.2.1", "-certmode=manual"}
	for _, tt := range derperFlags {
		if tt.refused != "" && tt.name != "certmode" {
			args = append(args, "-"+tt.name+"="+tt.value)
		}
	}
	got := mustParse(t, machine(nil), environ{"HOME": "/home/u"}, args...)
	wantConfig(t, got.Config, rootConfig())
}

func TestAllProblemsAreReportedTogether(t *testing.T) {
	text := mustFail(t, machine(nil), nil, "-verify-clients", "-mesh-with=b", "-derp=false", "-home=ftp://x",
		"-tcp-write-timeout=-1s", "-a=99999", "-hostname=https://derp.example.com", "-certmode=manuel")
	golden(t, "problems.txt", text+"\n")
}

func TestListeners(t *testing.T) {
	for _, tt := range []struct {
		args                   []string
		listen, stun, httpAddr string
		tls                    bool
	}{
		{[]string{"-a=:443", "-certmode=manual"}, ":443", ":3478", ":80", true},
		{[]string{"-a=:https", "-certmode=manual"}, ":443", ":3478", ":80", true},
		{[]string{"-a=:8443"}, ":8443", ":3478", config.Off, false},
		{[]string{"-a=:8443", "-certmode=gcp"}, ":8443", ":3478", config.Off, false},
		{[]string{"-a=:http"}, ":80", ":3478", config.Off, false},
		{[]string{"-a=127.0.0.1:0"}, "127.0.0.1:0", "127.0.0.1:3478", config.Off, false},
		{[]string{"-a=0.0.0.0:8443"}, ":8443", ":3478", config.Off, false}, // both families, to Go and so to derper
		{[]string{"-a=[::]:8443"}, ":8443", ":3478", config.Off, false},
		{[]string{"-a=[::1]:8443", "-certmode=manual"}, "[::1]:8443", "[::1]:3478", "[::1]:80", true},
		{[]string{"-a=[::1]:8443", "-certmode=manual", "-http-port=0"}, "[::1]:8443", "[::1]:3478", "[::1]:0", true},
		{[]string{"-dev", "-a=192.0.2.1:443"}, ":3340", ":3478", config.Off, false},
	} {
		got := mustParse(t, machine(nil), nil, append(tt.args, "-hostname=192.0.2.1")...)
		c := got.Config
		if c.Listen != tt.listen || c.STUNListen != tt.stun || c.HTTPListen != tt.httpAddr || c.TLS != tt.tls {
			t.Errorf("%q: %s, STUN %s, HTTP %s, TLS %t", tt.args, c.Listen, c.STUNListen, c.HTTPListen, c.TLS)
		}
		if loud := strings.HasPrefix(got.Warnings[0], "PLAIN HTTP, NO TLS on "+tt.listen); loud == tt.tls {
			t.Errorf("%q: TLS %t, first warning %q", tt.args, tt.tls, got.Warnings[0])
		}
		if !tt.tls && !got.Ephemeral && (c.Cert != "/var/lib/derper/pin.crt" || c.Key != "/var/lib/derper/pin.key" || c.CertMode != config.CertPin) {
			t.Errorf("%q: certificate of plain HTTP: %s %s %s", tt.args, c.CertMode, c.Cert, c.Key)
		}
	}
}

func TestBadAddressesAndPorts(t *testing.T) {
	for arg, want := range map[string]string{
		"-a=12345":              "missing port",
		"-a=":                   "missing port",
		"-a=:ssh":               `port "ssh"`,
		"-a=:65536":             `port "65536"`,
		"-a=::1":                "too many colons",
		"-stun-port=65536":      "-stun-port: port 65536",
		"-stun-port=-1":         "-stun-port: port -1",
		"-http-port=65536":      "-http-port: port 65536",
		"-certdir=":             "-certdir: empty",
		"-hostname=":            "-hostname: needed with TLS",
		"-hostname=[::1]":       "brackets",
		"-hostname=a.b:443":     "port",
		"-home=example.com":     "http://",
		"-home=https://":        "http://",
		"-certmode=letsEnc":     `no certificate mode "letsEnc"`,
		"-tcp-user-timeout=-1s": "below zero",
	} {
		text := mustFail(t, machine(nil), nil, "-hostname=192.0.2.1", "-certmode=manual", arg)
		name, _, _ := strings.Cut(arg, "=")
		wantText(t, text, name+":", want)
		if strings.Contains(text, "\n") {
			t.Errorf("%s: more than one problem:\n%s", arg, text)
		}
	}
}

func TestHostnameWithoutTLS(t *testing.T) {
	for _, tt := range []struct{ arg, want string }{
		{"-stun=true", ""}, // derper's default is nobody's name
		{"-hostname=derp.example.com", "derp.example.com"},
	} {
		if got := mustParse(t, machine(nil), nil, "-a=:8080", tt.arg).Config.Hostname; got != tt.want {
			t.Errorf("%s: hostname %q, want %q", tt.arg, got, tt.want)
		}
	}
}

func TestKeyFile(t *testing.T) {
	user := machine(nil)
	user.Root = false
	wantText(t, mustFail(t, user, nil, "-a=:8080"), "-c: without root", "hint: give -c FILE")
	got := mustParse(t, user, nil, "-a=:8080", "-c", "derper.key")
	if c := got.Config; c.StateDir != "." || c.ServerKey != "derper.key" || c.AdminListen != "unix:admin.sock" || got.Ephemeral {
		t.Errorf("got %+v", got)
	}
}

func TestDev(t *testing.T) {
	user := machine(fstest.MapFS{"home/derp/keys/derp-mesh.key": {}})
	user.Root = false
	got := mustParse(t, user, nil, "-dev")
	want := rootConfig()
	want.Listen, want.TLS, want.HTTPListen, want.Hostname, want.Cert, want.Key = ":3340", false, config.Off, "", "/tmp/new/pin.crt", "/tmp/new/pin.key"
	want.StateDir, want.ServerKey, want.AdminListen = "/tmp/new", "/tmp/new/derper.key", "unix:/tmp/new/admin.sock"
	wantConfig(t, got.Config, want)
	if !got.Ephemeral {
		t.Error("not ephemeral")
	}

	got = mustParse(t, user, nil, "-dev", "-c=/real.key", "-mesh-psk-file=/m")
	if got.Config.ServerKey != "/tmp/new/derper.key" || got.Config.MeshKeyFile != "/m" {
		t.Errorf("got %+v", got.Config)
	}
	wantText(t, strings.Join(got.Warnings, "\n"), "-c is not read with -dev")

	user.TempDir = func() (string, error) { t.Error("made a directory before an error"); return "", nil }
	text := mustFail(t, user, environ{"TAILSCALE_DERPER_MESH_KEY": "s3cret"}, "-dev")
	wantText(t, text, "TAILSCALE_DERPER_MESH_KEY", "-mesh-psk-file")
	if strings.Contains(text, "s3cret") {
		t.Errorf("shows a secret: %s", text)
	}
}

func TestMeshKeyProbing(t *testing.T) {
	for _, tt := range []struct {
		files []string
		args  []string
		want  string
	}{
		{nil, nil, ""},
		{[]string{"home/u/keys/derp-mesh.key"}, nil, "/home/u/keys/derp-mesh.key"},
		{[]string{"home/u/keys/derp-mesh.key", "home/derp/keys/derp-mesh.key"}, nil, "/home/derp/keys/derp-mesh.key"},
		{[]string{"home/derp/keys/derp-mesh.key"}, []string{"-mesh-psk-file="}, ""},
	} {
		files := fstest.MapFS{}
		for _, f := range tt.files {
			files[f] = &fstest.MapFile{}
		}
		args := append([]string{"-a=:8080"}, tt.args...)
		if got := mustParse(t, machine(files), environ{"HOME": "/home/u"}, args...).Config.MeshKeyFile; got != tt.want {
			t.Errorf("%q with %q: %q, want %q", args, tt.files, got, tt.want)
		}
	}
}
