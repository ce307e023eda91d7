package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write the golden parts of testdata anew")

var (
	rootHost = Host{Root: true}
	userHost = Host{Home: "/home/ann"}
)

// run loads the layers. The file is named relay.yaml in errors, wherever it is.
func (s *script) run(t *testing.T) (Config, string) {
	t.Helper()
	host, file := userHost, ""
	if strings.TrimSpace(s.text("host")) == "root" {
		host = rootHost
	}
	dir := t.TempDir()
	if s.has("relay.yaml") {
		file = filepath.Join(dir, "relay.yaml")
		if err := os.WriteFile(file, []byte(s.text("relay.yaml")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(file, host, s.lines("env"), parseFlags(t, s.lines("flags")))
	if err == nil {
		return c, ""
	}
	return c, strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "") + "\n"
}

// parseFlags binds the flags as the command does, by way of cobra.
func parseFlags(t *testing.T, args []string) *Flags {
	t.Helper()
	flags := NewFlags()
	cmd := &cobra.Command{Use: "serve"}
	for _, f := range flags.All() {
		bound := cmd.Flags().VarPF(f, f.FlagName(), "", f.Usage)
		if f.Kind == KindBool {
			bound.NoOptDefVal = "true"
		}
	}
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return flags
}

func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			readScript(t, path).check(t)
		})
	}
}

func (s *script) check(t *testing.T) {
	c, failure := s.run(t)
	if !s.has("values") && !s.has("error") && !s.has("explain") {
		t.Fatal("the script expects nothing")
	}
	if failure != "" || s.has("error") {
		if !reflect.DeepEqual(c, Config{}) {
			t.Errorf("a failed Load returned a configuration: %+v", c)
		}
		s.golden(t, "error", failure)
		return
	}
	for _, want := range s.lines("values") {
		name, value, _ := strings.Cut(want, "=")
		row, ok := lookup(table(), name)
		if !ok {
			t.Fatalf("values names no setting: %s", want)
		}
		if got := format(row.field(&c)); got != value {
			t.Errorf("%s = %q, want %q", name, got, value)
		}
	}
	if s.has("explain") {
		s.golden(t, "explain", Explain(c))
	}
}

func TestDefaultsAreValid(t *testing.T) {
	for _, h := range []Host{rootHost, userHost} {
		loaded, err := Load("", h, nil, nil)
		if err != nil {
			t.Fatalf("root %v: %v", h.Root, err)
		}
		if got := Defaults(h); !reflect.DeepEqual(got, loaded) {
			t.Errorf("root %v: Defaults = %+v, Load = %+v", h.Root, got, loaded)
		}
	}
}

func TestStateDirOfUsers(t *testing.T) {
	tests := []struct {
		name string
		host Host
		want string
	}{
		{"home", Host{Home: "/home/ann"}, "/home/ann/.local/state/detour"},
		{"xdg", Host{Home: "/home/ann", Getenv: func(string) string { return "/x" }}, "/x/detour"},
		{"relative xdg is ignored", Host{Home: "/home/ann", Getenv: func(string) string { return "x" }}, "/home/ann/.local/state/detour"},
		{"root ignores xdg", Host{Root: true, Getenv: func(string) string { return "/x" }}, "/var/lib/detour"},
		{"nothing", Host{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Defaults(tt.host).StateDir; got != tt.want {
				t.Errorf("StateDir = %q, want %q", got, tt.want)
			}
		})
	}
	_, err := Load("", Host{}, nil, nil)
	if want := "config: state_dir: is empty; hint: name it, or set HOME or XDG_STATE_HOME"; err == nil || err.Error() != want {
		t.Errorf("without a home: %v, want %s", err, want)
	}
}

// Every setting must come through every layer, and the layers in their order.
func TestEveryLayerSetsEverySetting(t *testing.T) {
	node := "nodekey:" + strings.Repeat("ab", 32)
	// Two valid texts for each setting, none of them a default.
	texts := map[string][2]string{
		"state_dir": {"/a", "/b"}, "server_key": {"/a", "/b"}, "mesh_key_file": {"/a", "/b"},
		"listen": {":1", ":2"}, "tls": {"false", "true"}, "stun_listen": {":1", ":2"}, "stun_mode": {"rfc", "tailscale"},
		"http_listen": {":3", ":4"}, "admin_listen": {"unix:/a", "unix:/b"}, "front_page": {"blank", "http://a"},
		"hostname": {"a", "b"}, "public_ipv4": {"192.0.2.1", "192.0.2.2"}, "public_ipv6": {"2001:db8::1", "2001:db8::2"},
		"region_id": {"1", "2"}, "region_code": {"a", "b"}, "region_name": {"a", "b"}, "node_name": {"a", "b"},
		"cert_mode": {"files", "pin"}, "cert": {"/a", "/b"}, "key": {"/c", "/d"},
		"admit": {"any", "none"}, "refusal": {"close", "lobby"},
		"admit_policy": {"all_of", "any_of"}, "admit_on_unavailable": {"refuse", "admit"}, "admit_max_age": {"1h", "2h"},
		"admit_recheck": {"5s", "6s"}, "tenants": {"a:any", "b:ask"}, "admin_token_file": {"/a", "/b"}, "isolate": {"true", "false"}, "admit_key": {node, strings.ToLower(node)},
		"write_timeout": {"1s", "3s"}, "tcp_user_timeout": {"1s", "3s"}, "tcp_keepalive": {"1s", "3s"},
		"also_listen": {":5", ":6"}, "also_stun_listen": {":5", ":6"}, "proxy_protocol": {"10.0.0.0/8", "unix"},
		"public_port": {"1", "2"}, "public_stun_port": {"1", "2"},
		"acme_directory": {"https://a/d", "https://b/d"}, "acme_email": {"a@b.example", "c@d.example"}, "acme_eab_kid": {"a", "b"},
		"acme_eab_key_file": {"/a", "/b"}, "acme_ca_file": {"/a", "/b"}, "acme_name": {"a.example", "192.0.2.1"},
		"acme_dns_hook": {"/a", "/b"}, "acme_ip_profile": {"none", "other"}, "acme_switch": {"true", "false"},
		"login_pending_per_source": {"0", "1"}, "login_rate_per_source": {"0", "1"}, "login_burst_per_source": {"0", "1"},
		"accept_rate": {"1", "2"}, "accept_burst": {"1", "2"},
		"map_write": {"/a", "/b.json"}, "map_sources": {"/a", "https://a/b,token_file=/c"}, "map_refresh": {"1h", "2h"}, "map_listen": {"127.0.0.1:7", "[::1]:7"},
		"map_public": {"true", "false"}, "map_token_file": {"/a", "/b"}, "map_address": {"dns:a.example", "stun:a.example:3478"},
		"log_format": {"json", "text"}, "log_level": {"warn", "debug"},
		"cert_pair": {"/a,/b", "/c"}, "strict_sni": {"true", "false"},
		"trusted_proxies": {"192.0.2.0/24", "unix"}, "fallback": {"http://127.0.0.1:8080", "/srv/www"},
		"sni_route": {"a.example=127.0.0.1:1", "*.example.com=unix:/run/x.sock"},
	}
	with := map[string]string{"cert": "key: /z", "key": "cert: /z", "cert_mode": "cert: /y\nkey: /z", "strict_sni": "hostname: a", "map_public": "map_token_file: /t"} // what must stand beside it
	for _, s := range table() {
		t.Run(s.Name, func(t *testing.T) {
			low, high := texts[s.Name][0], texts[s.Name][1]
			yamlText := low
			switch s.Kind {
			case KindBool, KindInt, KindDuration:
			case KindList:
				yamlText = "[\"" + low + "\"]"
			default:
				yamlText = `"` + low + `"`
			}
			file := filepath.Join(t.TempDir(), "relay.yaml")
			if err := os.WriteFile(file, []byte(s.Name+": "+yamlText+"\n"+with[s.Name]+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			env := func(text string) []string { return []string{s.EnvName() + "=" + text} }
			check := func(layer, file string, env []string, args []string, want string) {
				t.Helper()
				c, err := Load(file, userHost, env, parseFlags(t, args))
				if err != nil {
					t.Fatalf("%s: %v", layer, err)
				}
				if got := format(s.field(&c)); got != want {
					t.Errorf("%s: %q, want %q", layer, got, want)
				}
			}
			check("file", file, nil, nil, low)
			check("environment over file", file, env(high), nil, high)
			check("empty variable", file, env(""), nil, low)
			check("flag over both", file, env(high), []string{"--" + s.FlagName() + "=" + low}, low)
		})
	}
}

func TestFlags(t *testing.T) {
	flags := parseFlags(t, []string{"--tls", "--listen=:1", "--listen", ":2", "--admit-key=a", "--admit-key=b"})
	want := map[string]string{"tls": "true", "listen": ":2", "admit_key": "a,b", "region_id": "900", "node_name": "made from region and server key"}
	for _, f := range flags.All() {
		if text, ok := want[f.Name]; ok && f.String() != text {
			t.Errorf("%s = %q, want %q", f.Name, f.String(), text)
		}
		if f.IsBoolFlag() != (f.Kind == KindBool) || f.Type() != string(f.Kind) {
			t.Errorf("%s: IsBoolFlag %v, Type %s", f.Name, f.IsBoolFlag(), f.Type())
		}
	}
}

func TestUnreadableFiles(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge")
	if err := os.WriteFile(huge, []byte(strings.Repeat("#\n", maxFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, path, want string }{
		{"missing", filepath.Join(dir, "missing"), "no such file"},
		{"directory", dir, "is a directory"},
		{"huge", huge, "larger than 1 MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(tt.path, userHost, nil, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.path+": ") {
				t.Errorf("got %v, want the path and %q", err, tt.want)
			}
		})
	}
}

// An alias bomb must be refused at once: 3^40 texts if it were expanded.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x]\n")
	for i := range 40 {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d, *a%d, *a%d]\n", i+1, i+1, i, i, i)
	}
	b.WriteString("admit: *a40\n")
	_, err := loadText([]byte(b.String()))
	if want := "admit (relay.yaml:42): want a list, got the alias *a40"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestManyProblemsAreBounded(t *testing.T) {
	for _, text := range []string{strings.Repeat("wrong: 1\n", 10000), "admit: [" + strings.Repeat("x,", 10000) + "]"} {
		_, err := loadText([]byte(text))
		if e, ok := errors.AsType[*Error](err); !ok || len(e.Problems) != maxProblems+1 {
			t.Errorf("%.20s...: %d bytes of error", text, len(err.Error()))
		}
	}
}

// loadText is Load of a file with this text and no other layer.
func loadText(text []byte) (Config, error) {
	l := newLoader(userHost)
	if !l.yaml("relay.yaml", text) {
		return Config{}, errorOf(l.problems)
	}
	return l.finish()
}

func FuzzYAML(f *testing.F) {
	// Short ones: the fuzzer spends its time on shrinking long ones.
	f.Add([]byte("listen: \":8443\"\ntls: true\nregion_id: 900\n"))
	f.Add([]byte("admit_key:\n- nodekey:x\nwrite_timeout: 2s\npublic_ipv4: 192.0.2.1\n"))
	f.Add([]byte("admit: [any, none]\nlisten: off\nregion_id: 0x10\n---\n"))
	f.Add([]byte("a: &a [*a]\n? [x]\n: y\n<<: {b: 1}\n"))
	f.Add([]byte("hostname: !!binary aGk=\npublic_ipv6: \"fe80::1%eth0\"\nkey: |\n  x\n"))
	f.Add([]byte("\xff\xfel\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := loadText(text)
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok || len(e.Problems) == 0 {
				t.Fatalf("an error of type %T: %v", err, err)
			}
			for _, p := range e.Problems {
				if p.What == "" {
					t.Fatalf("a problem without words: %+v", p)
				}
			}
			return
		}
		if err := Check(c); err != nil {
			t.Fatalf("loaded, and then wrong: %v", err)
		}
		Explain(c)
	})
}
