package compat

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/detour-relay/detour/internal/config"
)

func TestManualCertificates(t *testing.T) {
	self := certificatePEM(t, "derp.example.com", true)
	signed := certificatePEM(t, "derp.example.com", false)
	lookalike := certificatePEM(t, "CA", false) // issuer and subject are equal, the signature is another's
	for _, tt := range []struct {
		name, host string
		crt, key   []byte
		want       string // CertMode, or empty and then
		wantErr    []string
	}{
		{"domain, CA-signed", "derp.example.com", signed, []byte("k"), config.CertFiles, nil},
		{"domain, chain", "derp.example.com", append(bytes.Clone(signed), signed...), []byte("k"), config.CertFiles, nil},
		{"domain, self-signed", "derp.example.com", self, []byte("k"), config.CertPin, nil},
		{"domain, self-signed and more", "derp.example.com", append(bytes.Clone(self), signed...), []byte("k"), config.CertFiles, nil},
		{"domain, lookalike", "derp.example.com", lookalike, []byte("k"), config.CertFiles, nil},
		{"domain, garbage is the loader's", "derp.example.com", []byte("x"), []byte("k"), config.CertFiles, nil},
		{"domain, huge is the loader's", "derp.example.com", make([]byte, maxCertFile+1), []byte("k"), config.CertFiles, nil},
		{"domain, none", "derp.example.com", nil, nil, "", []string{
			"/certs/derp.example.com.crt", "/certs/derp.example.com.key", "hint: ",
		}},
		{"domain, no key", "derp.example.com", signed, nil, "", []string{"derp.example.com.key is missing", "hint: "}},
		{"domain, no certificate", "derp.example.com", nil, []byte("k"), "", []string{"derp.example.com.crt is missing"}},
		{"address, none", "192.0.2.1", nil, nil, config.CertPin, nil},
		{"address, self-signed", "192.0.2.1", self, []byte("k"), config.CertPin, nil},
		{"address, CA-signed", "192.0.2.1", signed, []byte("k"), config.CertFiles, nil},
		{"address, no key", "192.0.2.1", self, nil, "", []string{"192.0.2.1.key is missing"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := fstest.MapFS{}
			if tt.crt != nil {
				files["certs/"+tt.host+".crt"] = &fstest.MapFile{Data: tt.crt}
			}
			if tt.key != nil {
				files["certs/"+tt.host+".key"] = &fstest.MapFile{Data: tt.key}
			}
			args := []string{"-certmode=manual", "-certdir=/certs", "-hostname=" + tt.host}
			if tt.want == "" {
				wantText(t, mustFail(t, machine(files), nil, args...), append(tt.wantErr, "-certmode: ")...)
				return
			}
			want := rootConfig()
			want.Hostname, want.CertMode = tt.host, tt.want
			want.Cert, want.Key = "/certs/"+tt.host+".crt", "/certs/"+tt.host+".key"
			wantConfig(t, mustParse(t, machine(files), nil, args...).Config, want)
		})
	}
}

func TestCertificateThatCannotBeLookedFor(t *testing.T) {
	host := machine(nil)
	host.Stat = func(path string) (fs.FileInfo, error) {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrPermission}
	}
	text := mustFail(t, host, nil, "-certmode=manual", "-certdir=/certs", "-hostname=192.0.2.1")
	wantText(t, text, "/certs/192.0.2.1.crt", "permission denied", "hint: ")
}

func TestNoCacheDirectory(t *testing.T) {
	host := machine(nil)
	host.CacheDir = ""
	wantText(t, mustFail(t, host, nil, "-certmode=manual", "-hostname=192.0.2.1"), "-certdir (not given): empty")
}

func TestExplicitDerpersOwnHostname(t *testing.T) {
	wantText(t, mustFail(t, machine(nil), nil, "-certmode=manual", "-hostname=derp.tailscale.com"), "derp.tailscale.com.crt")
}

func TestFileName(t *testing.T) {
	for hostname, want := range map[string]string{
		"derp.example.com": "derp.example.com",
		"2001:db8::1":      "2001db81",
		"*.a_b/c":          ".abc",
		"DERP-1.Example":   "DERP-1.Example",
		"bücher.example":   "bcher.example",
		"::":               "",
	} {
		if got := fileName(hostname); got != want {
			t.Errorf("fileName(%q) = %q, want %q", hostname, got, want)
		}
	}
}

func TestACMECertificates(t *testing.T) {
	domain := "-hostname=derp.example.com"
	for _, tt := range []struct {
		args    []string
		change  func(*config.Config)
		wantErr []string
	}{
		{args: []string{domain}},
		{args: []string{domain, "-certmode=letsencrypt", "-acme-email=a@example.com"}, change: func(c *config.Config) { c.ACMEEmail = "a@example.com" }},
		{args: []string{"-hostname=192.0.2.1", "-acme-ip-certs"}, change: func(c *config.Config) { c.Hostname, c.ACMEName = "192.0.2.1", []string{"192.0.2.1"} }},
		{
			args: []string{domain, "-certmode=gcp", "-acme-email=a@example.com", "-acme-eab-kid=k", "-acme-eab-key=c2VjcmV0"},
			change: func(c *config.Config) {
				c.ACMEDirectory, c.ACMEEmail, c.ACMEEABKeyID, c.ACMEEABKey = gcpDirectory, "a@example.com", "k", "c2VjcmV0"
			},
		},
		{args: []string{"-hostname=192.0.2.1"}, wantErr: []string{"-acme-ip-certs", "-certmode manual"}},
		{args: []string{"-hostname=192.0.2.1", "-certmode=gcp"}, wantErr: []string{"derper has no gcp certificate"}},
		{args: []string{domain, "-certmode=gcp", "-acme-eab-key=c2VjcmV0"}, wantErr: []string{"needs -acme-email"}},
		{args: []string{domain, "-certmode=gcp", "-acme-ip-certs", "-acme-email=a@example.com", "-acme-eab-kid=k", "-acme-eab-key=c2VjcmV0"}, wantErr: []string{"only with -certmode letsencrypt"}},
	} {
		if tt.wantErr != nil {
			wantText(t, mustFail(t, machine(nil), nil, tt.args...), append(tt.wantErr, "hint: ")...)
			continue
		}
		want := rootConfig()
		want.Hostname, want.CertMode, want.ACMEName = "derp.example.com", config.CertACME, []string{"derp.example.com"}
		want.Cert, want.Key, want.ACMESwitch = "/var/lib/derper/pin.crt", "/var/lib/derper/pin.key", true
		if tt.change != nil {
			tt.change(&want)
		}
		wantConfig(t, mustParse(t, machine(nil), nil, tt.args...).Config, want)
	}
	got := mustParse(t, machine(nil), nil, domain, "-certdir=/certs", "-acme-ip-certs")
	wantText(t, strings.Join(got.Warnings, "\n"), "-certdir is not used", "only the domain")
}
