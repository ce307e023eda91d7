package cert

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// What an operator, or a broken renewal, may leave in the files of a pair: each
// is an error with the next step at the start, and at a reload the same error in
// the log and the old certificate served.
func TestBadInput(t *testing.T) {
	ca := authority(t)
	leaf, other := issue(t, named("a.example"), &ca), issue(t, named("a.example"), &ca)
	template := named("a.example")
	template.NotBefore, template.NotAfter = testNow.Add(-days(90)), testNow.Add(-days(1))
	expired := issue(t, template, &ca)
	cert, key := pemCerts(leaf, ca), pemKey(t, leaf.key)
	second := pemCerts(other) + pemKey(t, other.key)
	for what, tt := range map[string]struct {
		cert, key string // "": missing, "/": a directory
		also      string // the content of a second pair; "": there is none
		unread    bool   // the key's mode is 0
		want      string
		hint      string
	}{
		"certificate missing":      {cert: "", key: key, want: "no such file", hint: "check the path"},
		"key missing":              {cert: cert, key: "", want: "no such file", hint: "check the path"},
		"unreadable key":           {cert: cert, key: key, unread: true, want: "permission denied", hint: "let the user that runs detour read the file"},
		"key of another":           {cert: cert, key: pemKey(t, other.key), want: "is not the key of certificate", hint: "issued together"},
		"expired":                  {cert: pemCerts(expired), key: pemKey(t, expired.key), want: "expired at", hint: "renew it"},
		"encrypted key":            {cert: cert, key: block("ENCRYPTED PRIVATE KEY", []byte{1}), want: "the key is encrypted", hint: "openssl pkey"},
		"encrypted, old style":     {cert: cert, key: block("RSA PRIVATE KEY", []byte{1}, "Proc-Type", "4,ENCRYPTED"), want: "the key is encrypted", hint: "openssl pkey"},
		"a request":                {cert: block("CERTIFICATE REQUEST", []byte{1}), key: key, want: `"CERTIFICATE REQUEST" and no certificate`, hint: "BEGIN CERTIFICATE"},
		"a public key":             {cert: cert, key: block("PUBLIC KEY", []byte{1}), want: `"PUBLIC KEY" and no private key`, hint: "BEGIN PRIVATE KEY"},
		"swapped":                  {cert: key, key: cert, want: "private key and no certificate", hint: "swapped"},
		"certificate a directory":  {cert: "/", key: key, want: "is a directory", hint: "name the certificate file in it"},
		"key a directory":          {cert: cert, key: "/", want: "is a directory", hint: "name the key file in it"},
		"a megabyte of zeros":      {cert: strings.Repeat("\x00", 1<<20), key: key, want: "is not PEM", hint: "-----BEGIN"},
		"key a megabyte of zeros":  {cert: cert, key: strings.Repeat("\x00", 1<<20), want: "is not PEM", hint: "-----BEGIN"},
		"more than a megabyte":     {cert: strings.Repeat("\x00", 1<<20+1), key: key, want: "larger than 1048576 bytes", hint: "check that"},
		"two pairs for one name":   {cert: cert, key: key, also: second, want: `are both for "a.example"`, hint: "take one of them out"},
		"half of a chain":          {cert: cert[:len(cert)-40], key: key, want: "damaged or cut short", hint: "write the file again"},
		"empty, as on a full disk": {cert: "\n", key: key, want: "it is not PEM", hint: "-----BEGIN"},
	} {
		t.Run(what, func(t *testing.T) {
			if tt.unread && (os.Geteuid() == 0 || runtime.GOOS == "windows") {
				t.Skip("no mode keeps this user out; the error's text has a test of its own")
			}
			names := [][]string{{"a.example"}}
			if tt.also != "" {
				names = append(names, []string{"b.example"})
			}
			b := newWatchBed(t, &ca, nil, names...)
			old := b.Source.Certificates()
			for i, text := range []string{tt.cert, tt.key} {
				path := []string{b.Pairs[0].CertFile, b.Pairs[0].KeyFile}[i]
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				switch text {
				case "":
				case "/":
					if err := os.Mkdir(path, 0o700); err != nil {
						t.Fatal(err)
					}
				default:
					write(t, path, text)
				}
			}
			if tt.unread {
				if err := os.Chmod(b.Pairs[0].KeyFile, 0); err != nil {
					t.Fatal(err)
				}
			}
			if tt.also != "" {
				write(t, b.Pairs[1].CertFile, tt.also)
				write(t, b.Pairs[1].KeyFile, tt.also)
			}
			_, err := LoadPairs(b.Pairs, testNow)
			if runtime.GOOS == "windows" && tt.want == "no such file" {
				tt.want = "cannot find"
			}
			wantError(t, err, tt.want, "; hint: ", tt.hint, filepath.Base(b.dir))

			b.scan(true)
			if tt.also == "" {
				b.serves("a.example", issued{leaf: old[0].leaf})
			} else { // one of the two can be taken, and is
				b.serves("a.example", leaf)
				b.serves("b.example", issued{leaf: old[1].leaf})
			}
			if text := b.log.take(); !strings.Contains(strings.ReplaceAll(text, `\"`, `"`), tt.want) {
				t.Errorf("the log does not say %q:\n%s", tt.want, text)
			}
		})
	}
}

// Two certificates for one name are fine when their keys differ in type, and a
// wildcard beside a name in any case.
func TestPairsThatOverlapAndMay(t *testing.T) {
	ca := authority(t)
	exact, wild := loaded(t, &ca, "a.example.com"), loaded(t, &ca, "*.example.com")
	if err := checkOverlap([]*Certificate{exact, wild, withRSA(t, "a.example.com")}); err != nil {
		t.Error(err)
	}
	wantError(t, checkOverlap([]*Certificate{exact, wild, loaded(t, &ca, "A.Example.com", "b.example.com")}),
		`are both for "a.example.com"`, "ECDSA", "; hint: take one of them out")
}
