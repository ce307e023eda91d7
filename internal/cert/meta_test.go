package cert

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

func TestMeta(t *testing.T) {
	der, err := NewMeta(serverKeyHex, testNow)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if c.Subject.String() != "CN=derpkey"+serverKeyHex {
		t.Errorf("subject %s", c.Subject)
	}
	if !bytes.Equal(c.RawIssuer, c.RawSubject) {
		t.Errorf("issuer %s is not the subject", c.Issuer)
	}
	if c.SerialNumber.String() != "2" {
		t.Errorf("serial number %s, want 2", c.SerialNumber)
	}
	if _, ok := c.PublicKey.(ed25519.PublicKey); !ok || c.SignatureAlgorithm != x509.PureEd25519 {
		t.Errorf("key %T, signature %s, want Ed25519", c.PublicKey, c.SignatureAlgorithm)
	}
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		t.Errorf("not signed by itself: %v", err)
	}
	if want := testNow.Add(-30 * 24 * time.Hour); !c.NotBefore.Equal(want) {
		t.Errorf("valid from %v, want %v", c.NotBefore, want)
	}
	if want := testNow.Add(30 * 24 * time.Hour); !c.NotAfter.Equal(want) {
		t.Errorf("valid until %v, want %v", c.NotAfter, want)
	}
	if !c.BasicConstraintsValid || c.IsCA {
		t.Errorf("basic constraints %v, CA %v", c.BasicConstraintsValid, c.IsCA)
	}
	// Basic constraints, critical, an empty sequence: and nothing else.
	if len(c.Extensions) != 1 || c.Extensions[0].Id.String() != "2.5.29.19" || !c.Extensions[0].Critical ||
		!bytes.Equal(c.Extensions[0].Value, []byte{0x30, 0}) {
		t.Errorf("extensions %v, want one critical BasicConstraints with CA false", c.Extensions)
	}

	again, err := NewMeta(serverKeyHex, testNow)
	if err != nil || bytes.Equal(again, der) {
		t.Errorf("a second meta certificate has the same key (err %v)", err)
	}
}

func TestMetaRefusesKeys(t *testing.T) {
	for what, digits := range map[string]string{
		"empty":      "",
		"short":      serverKeyHex[:63],
		"long":       serverKeyHex + "0",
		"upper case": strings.ToUpper(serverKeyHex),
		"prefixed":   "nodekey:" + serverKeyHex,
		"not hex":    strings.Repeat("g", 64),
		"zero":       strings.Repeat("0", 64),
	} {
		if _, err := NewMeta(digits, testNow); err == nil {
			t.Errorf("%s key was taken", what)
		} else {
			wantError(t, err, "make the meta certificate: the server key is")
		}
	}
}
