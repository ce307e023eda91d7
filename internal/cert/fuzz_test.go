package cert

import (
	"crypto/x509"
	"strings"
	"testing"
)

// FuzzParsePair feeds the parser of files that an operator, or what renews
// certificates for him, may have left in any state.
func FuzzParsePair(f *testing.F) {
	ca := authority(f)
	leaf, other := issue(f, named("a.example"), &ca), issue(f, named("b.example"), nil)
	meta, err := NewMeta(serverKeyHex, testNow)
	if err != nil {
		f.Fatal(err)
	}
	cert, key := pemCerts(leaf, ca), pemKey(f, leaf.key)
	f.Add(cert, key)
	f.Add(pemCerts(other), pemKey(f, other.key))
	f.Add(cert+key, key+cert)
	f.Add(key, cert)
	f.Add(cert, pemKey(f, other.key))
	f.Add(cert[:len(cert)/2], key[:len(key)/2])
	f.Add(cert+block("CERTIFICATE", meta), key)
	f.Add("\xef\xbb\xbf"+cert, block("ENCRYPTED PRIVATE KEY", []byte{1}))
	f.Add("", "-----BEGIN -----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----")
	f.Fuzz(func(t *testing.T, certText, keyText string) {
		c, err := parsePair("c.pem", "k.pem", []byte(certText), []byte(keyText))
		if err != nil {
			if c != nil || strings.Count(err.Error(), "; hint: ") != 1 {
				t.Fatalf("certificate %v, error %q: want an error with one hint alone", c, err)
			}
			return
		}
		if indexOf(c.key.Public(), []*x509.Certificate{c.leaf}) != 0 || len(c.TLS().Certificate) != len(c.chain) {
			t.Fatal("took a key that is not the leaf's")
		}
		if c.SelfSigned() != (c.Pin() != "") {
			t.Fatalf("SelfSigned %v, pin %q", c.SelfSigned(), c.Pin())
		}
	})
}

// FuzzParseNames checks that whatever name is let into a pin certificate, the
// certificate is one that clients accept for that name.
func FuzzParseNames(f *testing.F) {
	for _, name := range []string{"a.example", "A.Example.", "*.example", "192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0", "192.0.2.300", "192.0.2.1.", "::1.", "a..b", "-a", "a_b.c", "derpkey.example", "x n"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		who, err := parseNames([]string{name})
		if err != nil {
			return
		}
		if len(who.dns)+len(who.ips) != 1 || len(who.common) > maxCN || strings.HasPrefix(who.common, metaPrefix) {
			t.Fatalf("%q became %+v", name, who)
		}
		certPEM, keyPEM, err := makePin([]string{name}, testNow)
		if err != nil {
			t.Fatal(err)
		}
		c, err := parsePair("c.pem", "k.pem", certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		if asked := strings.Replace(name, "*", "any", 1); !c.SelfSigned() || !c.Covers(asked) {
			t.Fatalf("%q: SelfSigned %v, not covered by %q", name, c.SelfSigned(), c.Names())
		}
	})
}
