package compat

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/detour-relay/detour/internal/config"
)

// The environments are those of the images' documented docker run lines, with
// what their Dockerfiles set where "image's own" says so.
func TestImages(t *testing.T) {
	mounted := fstest.MapFS{
		"app/certs/derp.example.com.crt": {Data: certificatePEM(t, "derp.example.com", false)},
		"app/certs/derp.example.com.key": {Data: []byte("k")},
		"ssl/derp.example.com.crt":       {Data: certificatePEM(t, "derp.example.com", false)},
		"ssl/derp.example.com.key":       {Data: []byte("k")},
	}
	domain := func(c *config.Config, dir string) {
		c.Hostname, c.CertMode = "derp.example.com", config.CertFiles
		c.Cert, c.Key = dir+"/derp.example.com.crt", dir+"/derp.example.com.key"
	}
	ip := func(c *config.Config, name string) {
		c.Hostname, c.Cert, c.Key = name, "/app/certs/"+name+".crt", "/app/certs/"+name+".key"
	}
	for _, tt := range []struct {
		name   string
		env    environ
		change func(*config.Config)
	}{
		{
			"derper, manual, mounted certificates",
			environ{"DERP_DOMAIN": "derp.example.com", "DERP_CERT_MODE": "manual"},
			func(c *config.Config) { domain(c, "/app/certs") },
		},
		{"derper, the image's own variables", environ{
			"DERP_DOMAIN": "derp.example.com", "DERP_CERT_MODE": "manual", "DERP_CERT_DIR": "/ssl", "DERP_ADDR": ":8443",
			"DERP_STUN": "true", "DERP_STUN_PORT": "3479", "DERP_HTTP_PORT": "-1", "DERP_VERIFY_CLIENTS": "false",
			"DERP_VERIFY_CLIENT_URL": "",
		}, func(c *config.Config) {
			domain(c, "/ssl")
			c.Listen, c.STUNListen, c.HTTPListen = ":8443", ":3479", config.Off
		}},
		{
			"derper, a guide's address",
			environ{"DERP_DOMAIN": "derp.example.com", "DERP_CERT_MODE": "manual", "DERP_ADDR": "12345"},
			func(c *config.Config) { domain(c, "/app/certs"); c.Listen = ":12345" },
		},
		{
			"derper, behind a proxy",
			environ{"DERP_DOMAIN": "derp.example.com", "DERP_ADDR": ":8080", "DERP_STUN": "false"},
			func(c *config.Config) {
				c.Hostname, c.Listen, c.TLS = "derp.example.com", ":8080", false
				c.Cert, c.Key = "/var/lib/derper/pin.crt", "/var/lib/derper/pin.key"
				c.HTTPListen, c.STUNListen = config.Off, config.Off
			},
		},
		{"ip_derper", environ{"DERP_HOST": "198.51.100.7"}, func(c *config.Config) { ip(c, "198.51.100.7") }},
		{"ip_derper, the image's own variables", environ{
			"DERP_HOST": "127.0.0.1", "DERP_CERTS": "/app/certs/", "DERP_ADDR": ":443", "DERP_HTTP_PORT": "80",
			"DERP_STUN": "true", "DERP_VERIFY_CLIENTS": "false",
		}, func(c *config.Config) { ip(c, "127.0.0.1"); c.Hostname = "" }},
		{
			"ip_derper, other ports",
			environ{"DERP_HOST": "198.51.100.7", "DERP_ADDR": ":9003", "DERP_HTTP_PORT": "9004"},
			func(c *config.Config) { ip(c, "198.51.100.7"); c.Listen, c.HTTPListen = ":9003", ":9004" },
		},
		{
			"ip_derper with a domain that has no certificate",
			environ{"DERP_HOST": "new.example.com", "DERP_CERTS": "/app/certs"},
			func(c *config.Config) { ip(c, "new.example.com") },
		},
		{"less common ones", environ{
			"DERP_HOSTNAME": "derp.example.com", "DERP_CERTMODE": "manual", "DERP_CERTDIR": "/ssl", "DERP_RUN_STUN": "false",
			"DERP_RUN_DERP": "true", "DERP_CONFIG_FILE": "/data/derper.key", "DERP_HOME": "blank", "DERP_MESH_PSK_FILE": "/mesh",
			"DERP_TCP_WRITE_TIMEOUT": "3s", "DERP_ACCEPT_CONNECTION_LIMIT": "+Inf", "DERP_VERIFY_CLIENT_URL_FAIL_OPEN": "false",
		}, func(c *config.Config) {
			domain(c, "/ssl")
			c.STUNListen, c.FrontPage, c.MeshKeyFile, c.WriteTimeout = config.Off, config.FrontBlank, "/mesh", 3e9
			c.StateDir, c.ServerKey, c.AdminListen = "/data", "/data/derper.key", "unix:/data/admin.sock"
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := rootConfig()
			tt.change(&want)
			got := mustParse(t, machine(mounted), tt.env)
			wantConfig(t, got.Config, want)
			if strings.Contains(strings.Join(got.Warnings, "\n"), "not known") {
				t.Errorf("warnings: %q", got.Warnings)
			}
			if tt.env.get(ImageVariable(tt.env.get)) == "" {
				t.Error("the variables are not taken for an image's")
			}
		})
	}
}

func TestImagesThatCannotRunYet(t *testing.T) {
	for _, tt := range []struct {
		env  environ
		want []string
	}{
		{environ{"DERP_DOMAIN": "your-hostname.com", "DERP_CERT_MODE": "letsencrypt"}, []string{"-hostname (not given): needed"}},
		{environ{"DERP_DOMAIN": "derp.example.com", "DERP_CERT_MODE": "manual"}, []string{"/app/certs/derp.example.com.crt"}},
		{environ{"DERP_HOST": "192.0.2.1", "DERP_STUN": `"true"`}, []string{`DERP_STUN="\"true\""`, "hint: write true or false"}},
		{environ{"DERP_HOST": "192.0.2.1", "DERP_STUN_PORT": "x"}, []string{`DERP_STUN_PORT="x"`, "hint: give it as for -stun-port"}},
		{environ{"DERP_HOST": "192.0.2.1", "DERP_ADDR": "nowhere"}, []string{"-a (from DERP_ADDR)", "missing port"}},
		{environ{"DERP_HOST": "192.0.2.1", "DERP_DOMAIN": "derp.example.com"}, []string{"DERP_DOMAIN and DERP_HOST both set -hostname"}},
	} {
		wantText(t, mustFail(t, machine(nil), tt.env), tt.want...)
	}
}

func TestVerifyingImages(t *testing.T) {
	for name, want := range map[string]string{
		"DERP_VERIFY_CLIENTS": "tailscaled", "DERP_VERIFY_CLIENT_URL": "url:hs.example.com",
	} {
		env := environ{"DERP_HOST": "192.0.2.1", "DERP_CERTS": "/app/certs", name: "true"}
		if name == "DERP_VERIFY_CLIENT_URL" {
			env[name] = "https://hs.example.com/verify"
		}
		got := mustParse(t, machine(nil), env)
		tenants := got.Config.Tenants()
		if len(tenants) != 1 || len(tenants[0].Entries) != 1 || tenants[0].Entries[0].Name() != want || len(got.Warnings) > 0 && strings.Contains(got.Warnings[0], "every Tailscale client") {
			t.Errorf("%s: %+v, %q", name, tenants, got.Warnings)
		}
		if got.Config.AdmitsAll() {
			t.Errorf("%s: open", name)
		}
		host := machine(nil)
		host.Admits = true
		wantText(t, mustFail(t, host, env), "both say who may connect", "unset one")
	}
}

func TestVerifyBoth(t *testing.T) {
	got := mustParse(t, machine(nil), nil, "-hostname=192.0.2.1", "-certmode=manual", "-verify-clients", "-socket=/run/ts.sock",
		"-verify-client-url=https://a", "-verify-client-url-fail-open=false").Config
	want := "tailscaled=/run/ts.sock,allow_for=0s,refuse_for=0s,timeout=5s,on_unavailable=refuse " +
		"url=https://a,allow_for=0s,refuse_for=0s,timeout=5s,derper=on,on_unavailable=refuse"
	if text := strings.Join(got.Admit, " "); text != want || !got.Tenants()[0].AllOf {
		t.Errorf("%s, %+v", text, got.Tenants())
	}
}

func TestCommandLineBeatsVariables(t *testing.T) {
	env := environ{
		"DERP_HOST": "198.51.100.7", "DERP_CERTS": "/app/certs", "DERP_STUN": "not read", "DERP_VERIFY_CLIENTS": "true", "DERP_ADDR": ":1",
	}
	args := []string{"-hostname=192.0.2.1", "-certdir=/cache/tailscale/derper-certs", "-stun=true", "-verify-clients=false", "-a=:443"}
	wantConfig(t, mustParse(t, machine(nil), env, args...).Config, rootConfig())

	// ip_derper's leave to make certificates goes with its DERP_HOST alone.
	text := mustFail(t, machine(nil), environ{"DERP_HOST": "198.51.100.7"}, "-hostname=derp.example.com", "-certmode=manual")
	wantText(t, text, "derp.example.com.crt")
}

func TestEveryVariableIsHandled(t *testing.T) {
	var f flags
	set := f.register("/cache", "/home/u")
	args := map[string]string{}
	for _, tt := range derperFlags {
		_, args[tt.name], _ = strings.Cut(tt.arg, "=")
	}
	args["verify-clients"] = "true"
	seen := map[string]bool{}
	for _, v := range variables {
		if seen[v.name] || set.Lookup(v.flag) == nil || args[v.flag] == "" {
			t.Errorf("%s: a duplicate, or no flag -%s", v.name, v.flag)
		}
		seen[v.name] = true
		c := &command{env: environ{v.name: args[v.flag]}.get, origin: map[string]string{}}
		c.set = c.flags.register("/cache", "/home/u")
		c.readEnv()
		if got := c.set.Lookup(v.flag).Value.String(); got != normal(t, v.flag, args[v.flag]) || c.origin[v.flag] != v.name {
			t.Errorf("%s=%s: -%s is %q from %q", v.name, args[v.flag], v.flag, got, c.origin[v.flag])
		}
	}
}

// normal is how a flag prints a value that is set on the command line.
func normal(t *testing.T, name, value string) string {
	t.Helper()
	var f flags
	set := f.register("/cache", "/home/u")
	if err := set.Parse([]string{"-" + name + "=" + value}); err != nil {
		t.Fatal(err)
	}
	return set.Lookup(name).Value.String()
}

func TestVariablesWithoutEffectAreNamed(t *testing.T) {
	env := environ{
		"DERP_HOST": "127.0.0.1", "DERP_NOSUCH": "secret", "DERP_ALSO": "secret", "DERP_EMPTY": "", "PATH": "/bin", "TS_DEBUG_KEY_PATH": "secret",
		"DERP_DEBUG_LOGS": "true", "TAILSCALE_DERPER_MESH_KEY": "secret", "TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH": "64",
		"TS_ALLOW_DEBUG_IP": "192.0.2.1", "TS_DEBUG_TRUSTED_CIDRS": "192.0.2.0/24",
	}
	text := strings.Join(mustParse(t, machine(nil), env).Warnings, "\n")
	wantText(t, text, "not known and without effect: DERP_ALSO, DERP_NOSUCH", "TS_DEBUG_KEY_PATH is set", "DERP_DEBUG_LOGS is set",
		"TS_ALLOW_DEBUG_IP is set", "TS_DEBUG_TRUSTED_CIDRS is set", "SEND_QUEUE_DEPTH is set", "TAILSCALE_DERPER_MESH_KEY is set",
		"DERP_HOST gives no address")
	for _, no := range []string{"secret", "DERP_EMPTY", "PATH,"} {
		if strings.Contains(text, no) {
			t.Errorf("%q in:\n%s", no, text)
		}
	}
}

func TestOtherProgramsVariablesAreNotAnImages(t *testing.T) {
	// A Kubernetes service called derp gives its pods the first two.
	env := environ{"DERP_SERVICE_HOST": "10.0.0.1", "DERP_PORT": "tcp://10.0.0.1:443", "STUN_PORT": "3478", "DERP_DOMAIN": ""}
	if ImageVariable(env.get) != "" {
		t.Error("taken for an image's variables")
	}
}

// Who was told by other means who may connect is not opened.
func TestAdmissionThatTheHostDecides(t *testing.T) {
	host := machine(nil)
	host.Admits = true
	got := mustParse(t, host, environ{"DERP_HOST": "198.51.100.7"})
	if got.Config.Admit[0] != "none" || got.Config.AdmitKey[0] != "unset" {
		t.Errorf("admits %q and %q", got.Config.Admit, got.Config.AdmitKey)
	}
	if len(got.Warnings) != 0 {
		t.Errorf("warnings: %q", got.Warnings)
	}
}
