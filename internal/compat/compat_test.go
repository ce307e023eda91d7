package compat

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/detour-relay/detour/internal/config"
)

// base has every setting that derper's flags decide at a value that none of
// them gives, so that a test sees what is not overwritten.
var base = config.Config{
	StateDir: "/unset", ServerKey: "/unset/server.key", AdminListen: "unix:/unset/admin.sock",
	Listen: "unset", STUNListen: "unset", STUNMode: config.STUNRFC, HTTPListen: "unset", Hostname: "unset",
	CertMode: "unset", Cert: "/unset/pin.crt", Key: "/unset/pin.key", RegionID: 1, RegionCode: "own", RegionName: "Own",
	Admit: []string{"none"}, AdmitKey: []string{"unset"}, MeshKeyFile: "/unset", FrontPage: "unset",
	WriteTimeout: 1, TCPUserTimeout: 1, TCPKeepAlive: 1, LogFormat: "json", LogLevel: "debug",
}

// rootConfig is what root gets from `-hostname 192.0.2.1 -certmode manual`.
func rootConfig() config.Config {
	c := base
	c.StateDir, c.ServerKey, c.AdminListen = "/var/lib/derper", "/var/lib/derper/derper.key", "unix:/var/lib/derper/admin.sock"
	c.Listen, c.TLS, c.STUNListen, c.HTTPListen = ":443", true, ":3478", ":80"
	c.STUNMode, c.Hostname, c.CertMode = config.STUNTailscale, "192.0.2.1", config.CertPin
	c.Cert = "/cache/tailscale/derper-certs/192.0.2.1.crt"
	c.Key = "/cache/tailscale/derper-certs/192.0.2.1.key"
	c.RegionID, c.Admit, c.AdmitKey, c.MeshKeyFile = 900, []string{"any"}, nil, ""
	c.FrontPage, c.Refusal = config.FrontNeutral, config.RefusalClose
	c.WriteTimeout, c.TCPUserTimeout, c.TCPKeepAlive = 2*time.Second, 15*time.Second, 10*time.Minute
	return c
}

// machine is a Host with the given files and nothing else.
func machine(files fstest.MapFS) Host {
	return Host{
		Base: base, Root: true, CacheDir: "/cache", Usage: io.Discard,
		Stat:     func(p string) (fs.FileInfo, error) { return files.Stat(strings.TrimPrefix(p, "/")) },
		ReadFile: func(p string) ([]byte, error) { return files.ReadFile(strings.TrimPrefix(p, "/")) },
		TempDir:  func() (string, error) { return "/tmp/new", nil },
	}
}

type environ map[string]string

func (e environ) get(name string) string { return e[name] }

// list is e as os.Environ gives it.
func (e environ) list() []string {
	var list []string
	for name, value := range e {
		list = append(list, name+"="+value)
	}
	return list
}

func mustParse(t *testing.T, host Host, env environ, args ...string) Result {
	t.Helper()
	host.Environ = env.list()
	got, err := Parse(args, env.get, host)
	if err != nil {
		t.Fatalf("Parse(%q): %v", args, err)
	}
	return got
}

func mustFail(t *testing.T, host Host, env environ, args ...string) string {
	t.Helper()
	host.Environ = env.list()
	got, err := Parse(args, env.get, host)
	if err == nil {
		t.Fatalf("Parse(%q) gave no error but %+v", args, got)
	}
	if !reflect.DeepEqual(got, Result{}) {
		t.Errorf("Parse(%q) gave a result beside its error: %+v", args, got)
	}
	return err.Error()
}

func wantConfig(t *testing.T, got, want config.Config) {
	t.Helper()
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			t.Errorf("%s = %v, want %v", g.Type().Field(i).Name, g.Field(i), w.Field(i))
		}
	}
}

func wantText(t *testing.T, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("no %q in:\n%s", part, got)
		}
	}
}

func TestRootDefaults(t *testing.T) {
	got := mustParse(t, machine(nil), nil, "-hostname", "192.0.2.1", "--certmode=manual")
	wantConfig(t, got.Config, rootConfig())
	if got.Version || got.Ephemeral || len(got.Warnings) != 1 {
		t.Errorf("got %+v", got)
	}
	wantText(t, got.Warnings[0], "every Tailscale client", "detour serve")
}

func TestBareRunNamesWhatIsMissing(t *testing.T) {
	wantText(t, mustFail(t, machine(nil), nil), "-hostname (not given): needed with TLS")
}

func TestConfigPassesTheChecks(t *testing.T) {
	host := machine(nil)
	host.Base = config.Defaults(config.Host{Root: true})
	for _, args := range [][]string{
		{"-hostname=192.0.2.1", "-certmode=manual"},
		{"-a=:8443", "-hostname=2001:db8::1", "-certmode=manual", "-c=/data/derper.key", "-home=https://example.com/"},
		{"-a=127.0.0.1:8080"},
		{"-a=:8080", "-hostname=derp.example.com", "-stun=false"},
		{"-hostname=derp.example.com"},
		{"-hostname=192.0.2.1", "-acme-ip-certs"},
		{"-hostname=derp.example.com", "-certmode=gcp", "-acme-email=a@example.com", "-acme-eab-kid=k", "-acme-eab-key=MTIz"},
		{"-dev"},
	} {
		if err := config.Check(mustParse(t, host, nil, args...).Config); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestVersionComesFirst(t *testing.T) {
	host := machine(nil)
	host.Root = false
	got := mustParse(t, host, environ{"DERP_STUN": "bad"}, "-version", "-verify-clients", "-home=bad")
	if !reflect.DeepEqual(got, Result{Version: true}) {
		t.Errorf("got %+v", got)
	}
}

func TestHelp(t *testing.T) {
	var usage strings.Builder
	host := machine(nil)
	host.Usage = &usage
	for _, arg := range []string{"-h", "--help"} {
		usage.Reset()
		if _, err := Parse([]string{arg}, environ{"HOME": "/home/u"}.get, host); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: error %v, want flag.ErrHelp", arg, err)
		}
		golden(t, "usage.txt", usage.String())
	}
}

func TestUsageErrors(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-nosuch"}, "not defined: -nosuch"},
		{[]string{"-stun-port=x"}, `"x"`},
		{[]string{"-stun=maybe"}, `"maybe"`},
		{[]string{"-tcp-write-timeout=2"}, `"2"`},
		{[]string{"-a"}, "needs an argument: -a"},
		{[]string{"-stun", "false", "-verify-client-url=https://s3cret@example.com"}, "-verify-client-url stands after"},
		{[]string{"--", "-verify-clients"}, "-verify-clients"},
	} {
		var usage strings.Builder
		host := machine(nil)
		host.Usage = &usage
		_, err := Parse(tt.args, environ{}.get, host)
		var usageError *UsageError
		if !errors.As(err, &usageError) {
			t.Errorf("%q: error %v is no UsageError", tt.args, err)
			continue
		}
		wantText(t, err.Error(), tt.want)
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: the error shows a secret: %v", tt.args, err)
		}
	}
}

func TestUsageIsWrittenForUnknownFlagOnce(t *testing.T) {
	var usage strings.Builder
	host := machine(nil)
	host.Usage = &usage
	_, err := Parse([]string{"-nosuch"}, environ{}.get, host)
	if n := strings.Count(usage.String(), "Usage:"); n != 1 || strings.Contains(usage.String(), "nosuch") || err == nil {
		t.Errorf("error %v, %d usage texts:\n%s", err, n, usage.String())
	}
}

func TestStrayArgumentAlone(t *testing.T) {
	got := mustParse(t, machine(nil), nil, "-hostname=192.0.2.1", "-certmode=manual", "-stun", "false")
	wantConfig(t, got.Config, rootConfig())
	wantText(t, strings.Join(got.Warnings, "\n"), `"false" is not a flag`, "-stun=false")
}

func TestThisHost(t *testing.T) {
	host := ThisHost(base, io.Discard)
	dir, err := host.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	info, err := host.Stat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
		t.Errorf("TempDir made %v (%v)", info, err)
	}
	if len(host.Environ) != len(os.Environ()) || host.Root != (os.Getuid() == 0) || host.ReadFile == nil {
		t.Errorf("got %+v", host)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-hostname=192.0.2.1\n-certmode=manual", "")
	f.Add("-hostname=192.0.2.1\n-certmode=manual\n-verify-clients", "DERP_STUN=true")
	f.Add("-dev\n-a=:1\n-stun\nfalse", "DERP_HOST=192.0.2.1\nDERP_VERIFY_CLIENTS=true")
	f.Add("-c=x\n-a=[::1%lo]:https", "DERP_ADDR=12345\nDERP_DOMAIN=derp.example.com")
	f.Fuzz(func(t *testing.T, args, vars string) {
		env := environ{}
		for line := range strings.SplitSeq(vars, "\n") {
			name, value, _ := strings.Cut(line, "=")
			env[name] = value
		}
		host := machine(nil)
		host.Environ = env.list()
		list := strings.Split(args, "\n")
		got, err := Parse(list, env.get, host)
		if err != nil || got.Version {
			return
		}
		if c := got.Config; c.StateDir == "" || c.ServerKey == "" || c.Listen == "" || c.RegionID != 900 {
			t.Fatalf("%q and %q gave an incomplete config: %+v", list, env, c)
		}
		// Whatever stands around it, a wish to verify never ends in an open relay.
		env["DERP_VERIFY_CLIENTS"] = "true"
		if got, err := Parse(list, env.get, host); err == nil && got.Config.AdmitsAll() && !strings.Contains(args, "verify-clients") {
			t.Fatalf("%q and %q gave an open relay", list, env)
		}
	})
}

// certificatePEM makes a certificate for name, signed by itself or by a CA.
func certificatePEM(t *testing.T, name string, self bool) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
	}
	parent, signer := leaf, key
	if !self {
		ca := *leaf
		ca.Subject.CommonName = "CA"
		parent = &ca
		if signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// golden compares with a file of testdata; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with UPDATE_GOLDEN=1 and look at the change. Got:\n%s", path, got)
	}
}
