package cert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const serverKeyHex = "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20"

var testNow = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issued is a certificate that tests made, with its key.
type issued struct {
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate by the template, signed by parent or, if that is
// nil, by itself. Missing dates are a year around testNow.
func issue(t testing.TB, template x509.Certificate, parent *issued) issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.BasicConstraintsValid = true
	if template.NotBefore.IsZero() {
		template.NotBefore, template.NotAfter = testNow.AddDate(0, -6, 0), testNow.AddDate(0, 6, 0)
	}
	signer, signerKey := &template, key
	if parent != nil {
		signer, signerKey = parent.leaf, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, signer, key.Public(), signerKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issued{leaf, key}
}

func authority(t testing.TB) issued {
	t.Helper()
	return issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "Test Authority"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
}

func named(names ...string) x509.Certificate {
	template := x509.Certificate{Subject: pkix.Name{CommonName: "test leaf"}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return template
}

func pemCerts(all ...issued) string {
	var text strings.Builder
	for _, c := range all {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.leaf.Raw}))
	}
	return text.String()
}

func pemKey(t testing.TB, key crypto.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writePair puts the two texts into a fresh directory.
func writePair(t testing.TB, certText, keyText string) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	return write(t, filepath.Join(dir, "cert.pem"), certText), write(t, filepath.Join(dir, "key.pem"), keyText)
}

// loaded returns a certificate in files mode with these names, signed by itself
// or followed by the authority that signed it.
func loaded(t testing.TB, ca *issued, names ...string) *Certificate {
	t.Helper()
	leaf := issue(t, named(names...), ca)
	text := pemCerts(leaf)
	if ca != nil {
		text = pemCerts(leaf, *ca)
	}
	certFile, keyFile := writePair(t, text, pemKey(t, leaf.key))
	c, err := LoadFiles(certFile, keyFile, testNow)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pinned returns a new pin certificate and its two paths.
func pinned(t testing.TB, names ...string) (c *Certificate, certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "pin.crt"), filepath.Join(dir, "pin.key")
	c, created, err := LoadOrCreatePin(certFile, keyFile, names, testNow)
	if err != nil || !created {
		t.Fatalf("make a pin certificate: created %v, err %v", created, err)
	}
	return c, certFile, keyFile
}

// wantError checks that err is one line which holds every part.
func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q\ndoes not hold %q", err, part)
		}
	}
	if strings.Count(err.Error(), "; hint: ") > 1 || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q is not one line with one hint", err)
	}
}
