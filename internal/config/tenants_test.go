package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestTenants(t *testing.T) {
	const text = `
admit: [none]
admit_key: ["nodekey:` + "0101010101010101010101010101010101010101010101010101010101010101" + `=laptop"]
tenants:
  home:
    admit: ["headscale=https://a.example.com,name=main", ask]
    policy: all_of
  work: [tailscale=-, key_env=K]
`
	c, err := loadText([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, tenant := range c.Tenants() {
		line := tenant.Name
		if tenant.AllOf {
			line += " all"
		}
		for _, e := range tenant.Entries {
			line += " " + e.Name()
		}
		got = append(got, line)
	}
	want := []string{" keys", "home all main ask", "work tailscale:-"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("tenants %q, want %q", got, want)
	}
	files := Config{Admit: []string{"keys=/k", "tailscale=-,oauth_id=i,oauth_secret_file=/s"}, TenantList: []string{"a:headscale=https://x,token_file=/t"}}.AdmissionFiles()
	if !reflect.DeepEqual(files, []string{"/k", "/s", "/t"}) {
		t.Errorf("reads again %q", files)
	}
	if c.AdmitsAll() || !c.Asks() {
		t.Error("closed or open, or it does not ask")
	}
}

func TestAdmitsAll(t *testing.T) {
	for list, want := range map[string]bool{
		"any": true, "ask any": true, "": false, "none": false, "ask": false, "keys=/x": false,
	} {
		if got := (Config{Admit: strings.Fields(list)}).AdmitsAll(); got != want {
			t.Errorf("%q admits all: %v", list, got)
		}
	}
	if (Config{Admit: []string{"any", "ask"}, AdmitPolicy: PolicyAllOf}).AdmitsAll() {
		t.Error("all_of with ask admits all")
	}
	if !(Config{TenantList: []string{"a:any"}}).AdmitsAll() {
		t.Error("a tenant that admits all does not")
	}
}

func TestCheckTenants(t *testing.T) {
	for text, want := range map[string]string{
		"tenants: [\"a:ask\"]":                         "",
		"tenants: [ask]":                               "write NAME:SOURCE",
		"tenants: [\"A:ask\"]":                         "write NAME:SOURCE",
		"tenants: {a: {admit: [ask], policy: both}}":   "unknown policy",
		"tenants: {a: {admits: [ask]}}":                "did you mean admit?",
		"tenants: {a: ask}":                            "write admit:",
		"tenants: {a: {policy: all_of}}":               "has no source",
		"tenants: {a: [ask], a: [any]}":                "",
		"tenants: {a: [none]}":                         "leave the tenant out",
		"isolate: true\nmesh_key_file: /k":             "leave one of the two out",
		"tenants: {a: [\"keys=/x\", \"keysfile=/y\"]}": "use any, none, ask",
	} {
		_, err := loadText([]byte(text))
		switch {
		case want == "" && strings.Contains(text, "a: [ask], a:"):
			if err == nil {
				t.Errorf("%q: a tenant twice is taken", text)
			}
		case want == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// A password on the command line is refused, and not shown once more; where only
// its owner reads, it is taken.
func TestSecretsInFlags(t *testing.T) {
	const secret = "s3cr3t"
	for text, want := range map[string]string{
		"--admit=url=http://relay:" + secret + "@127.0.0.1:9090/verify":                        "token_file=FILE or token_env=NAME",
		"--admit=ask --admit=url=http://" + secret + "@127.0.0.1/verify,timeout=1s":            "token_file=FILE",
		"--tenants=home:url=http://relay:" + secret + "@127.0.0.1:9090/verify":                 "token_file=FILE",
		"--admit=headscale=https://u:" + secret + "@example.com":                               "url=https://HOST/verify,token_file=FILE",
		"--admit=tailscale=-,key_env=K,base_url=https://u:" + secret + "@example.com":          "configuration file or a variable",
		"--admit=url=http://127.0.0.1/verify,token_file=/t":                                    "",
		"--admit=url=http://127.0.0.1/verify,token_env=T --tenants=a:url=http://h/,timeout=1s": "",
	} {
		_, err := Load("", rootHost, nil, parseFlags(t, strings.Fields(text)))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret)):
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"url=http://relay:" + secret + "@127.0.0.1/verify":               "",
		"url=http://relay:" + secret + "@127.0.0.1/verify,token_file=/t": "keep the token",
		"url=http://127.0.0.1/verify,token_file=/t,token_env=T":          "keep one",
	} {
		_, err := Load("", rootHost, []string{"DETOUR_ADMIT=" + text}, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
