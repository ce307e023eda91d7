package config

import (
	"strings"
	"testing"
)

func TestACMESettings(t *testing.T) {
	for _, tt := range []struct {
		args string
		env  []string
		want string // of the error; empty: none
	}{
		{args: "--cert-mode=acme"},
		{args: "--cert-mode=acme --acme-name=relay.example --acme-email=a@relay.example"},
		{args: "--cert-mode=acme --acme-name=*.relay.example --acme-dns-hook=/hook"},
		{args: "--cert-mode=acme --acme-eab-kid=k", env: []string{"DETOUR_ACME_EAB_KEY=c2VjcmV0"}},
		{args: "--acme-name=*.relay.example"}, // not used in this mode
		{args: "--cert-mode=acme --acme-name=*.relay.example", want: "acme_dns_hook"},
		{args: "--cert-mode=acme --acme-name=127.0.0.1", want: "no authority can reach"},
		{args: "--cert-mode=acme --acme-name=https://relay.example", want: "relay.example alone"},
		{args: "--cert-mode=acme --acme-eab-kid=k", want: "without its key"},
		{args: "--cert-mode=acme --acme-eab-key-file=/k", want: "without its id"},
		{args: "--cert-mode=acme --acme-eab-kid=k --acme-eab-key-file=/k", env: []string{"DETOUR_ACME_EAB_KEY=c2VjcmV0"}, want: "keep one of them"},
		{args: "--cert-mode=acme --tls=false", want: "tls false"},
		{args: "--acme-directory=http://ca.example/d", want: "not an https URL"},
		{args: "--acme-email=nobody", want: "not an e-mail address"},
		{args: "--cert-mode=acmee", want: "did you mean acme?"},
	} {
		_, err := Load("", rootHost, tt.env, parseFlags(t, strings.Fields(tt.args)))
		if tt.want == "" && err != nil {
			t.Errorf("%s: %v", tt.args, err)
		}
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "c2VjcmV0")) {
			t.Errorf("%s: %v, want an error with %q", tt.args, err, tt.want)
		}
	}
}

func TestACMECompletes(t *testing.T) {
	c, err := Load("", rootHost, []string{"DETOUR_ACME_EAB_KEY=c2VjcmV0"}, parseFlags(t, []string{
		"--cert-mode=acme", "--acme-name=192.0.2.1", "--acme-name=relay.example", "--acme-eab-kid=k",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if c.Hostname != "relay.example" || c.Cert != "/var/lib/detour/pin.crt" || c.Key != "/var/lib/detour/pin.key" || c.ACMEEABKey != "c2VjcmV0" {
		t.Errorf("got %+v", c)
	}
	text := Explain(c)
	if !strings.Contains(text, LetsEncrypt) || !strings.Contains(text, "192.0.2.1, relay.example") || strings.Contains(text, "c2VjcmV0") {
		t.Errorf("explained as:\n%s", text)
	}
}
