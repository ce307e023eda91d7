package cert

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func block(pemType string, der []byte, headers ...string) string {
	b := &pem.Block{Type: pemType, Bytes: der}
	if len(headers) > 0 {
		b.Headers = map[string]string{headers[0]: headers[1]}
	}
	return string(pem.EncodeToMemory(b))
}

func TestLoadFiles(t *testing.T) {
	ca := authority(t)
	leaf := issue(t, named("relay.example.com"), &ca)
	sec1, err := x509.MarshalECPrivateKey(leaf.key)
	if err != nil {
		t.Fatal(err)
	}
	chain, key := pemCerts(leaf, ca), pemKey(t, leaf.key)
	for what, files := range map[string][2]string{
		"PKCS#8":               {chain, key},
		"SEC 1":                {chain, block("EC PARAMETERS", []byte{6, 0}) + block("EC PRIVATE KEY", sec1)},
		"wrong label":          {chain, block("PRIVATE KEY", sec1)},
		"CRLF":                 {strings.ReplaceAll(chain, "\n", "\r\n"), strings.ReplaceAll(key, "\n", "\r\n")},
		"byte order mark":      {"\xef\xbb\xbf" + chain, "\xef\xbb\xbf" + key},
		"text between":         {"subject=relay\n" + pemCerts(leaf) + "\nissuer\n" + pemCerts(ca), "Bag Attributes\n" + key},
		"both in each":         {key + chain, chain + key},
		"no newline at end":    {strings.TrimSpace(chain), strings.TrimSpace(key)},
		"as large as may be":   {chain + strings.Repeat("#", maxFileSize-len(chain)), key},
		"unrelated other type": {chain + block("DH PARAMETERS", []byte{0x30, 0}), key},
	} {
		certFile, keyFile := writePair(t, files[0], files[1])
		c, err := LoadFiles(certFile, keyFile, testNow)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		got := c.TLS()
		if len(got.Certificate) != 2 || !leaf.leaf.Equal(c.Leaf()) || !leaf.key.Equal(got.PrivateKey) {
			t.Errorf("%s: %d certificates, leaf %s, key %T", what, len(got.Certificate), c.Leaf().Subject, got.PrivateKey)
		}
		if c.Mode() != ModeFiles || !c.NotAfter().Equal(leaf.leaf.NotAfter) {
			t.Errorf("%s: mode %s, not after %v", what, c.Mode(), c.NotAfter())
		}
	}
}

func TestLoadFilesOtherKeys(t *testing.T) {
	ca := authority(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		public any
		key    string
	}{
		{rsaKey.Public(), block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey))},
		{rsaKey.Public(), pemKey(t, rsaKey)},
		{edPublic, pemKey(t, edKey)},
	} {
		template := *issue(t, named("a.example"), nil).leaf
		der, err := x509.CreateCertificate(rand.Reader, &template, ca.leaf, tt.public, ca.key)
		if err != nil {
			t.Fatal(err)
		}
		certFile, keyFile := writePair(t, block("CERTIFICATE", der), tt.key)
		if _, err := LoadFiles(certFile, keyFile, testNow); err != nil {
			t.Errorf("%T: %v", tt.public, err)
		}
	}
}

func TestLoadFilesRefuses(t *testing.T) {
	ca := authority(t)
	leaf, other := issue(t, named("a.example"), &ca), issue(t, named("a.example"), &ca)
	cert, key := pemCerts(leaf), pemKey(t, leaf.key)
	meta, err := NewMeta(serverKeyHex, testNow)
	if err != nil {
		t.Fatal(err)
	}
	metaLike := named("a.example")
	metaLike.Subject.CommonName = "derpkey.example.com"
	hidden := issue(t, metaLike, nil)
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		cert, key string
		want      []string
	}{
		"empty certificate":        {"", key, []string{"certificate file {cert}: it is empty", "write the file again"}},
		"empty key":                {cert, "", []string{"key file {key}: it is empty", "write the file again"}},
		"too large":                {cert + strings.Repeat("#", maxFileSize), key, []string{"certificate file {cert}: it is larger than 1048576 bytes", "check that --cert names"}},
		"large key":                {cert, strings.Repeat("\x00", maxFileSize+1), []string{"key file {key}: it is larger", "check that --key names"}},
		"a megabyte of zeros":      {strings.Repeat("\x00", maxFileSize), key, []string{"certificate file {cert}: it is not PEM", "-----BEGIN"}},
		"DER":                      {string(leaf.leaf.Raw), key, []string{"it is not PEM", "-inform der"}},
		"key not PEM":              {cert, "secret", []string{"key file {key}: it is not PEM", "-----BEGIN"}},
		"swapped":                  {key, cert, []string{"certificate file {cert}: it holds a private key and no certificate", "--cert and --key may be swapped"}},
		"certificate as key":       {cert, cert, []string{"key file {key}: it holds a certificate and no private key", "may be swapped"}},
		"request as certificate":   {block("CERTIFICATE REQUEST", []byte{1}), key, []string{`"CERTIFICATE REQUEST" and no certificate`, "BEGIN CERTIFICATE"}},
		"public key as key":        {cert, block("PUBLIC KEY", []byte{1}), []string{`"PUBLIC KEY" and no private key`, "BEGIN PRIVATE KEY"}},
		"encrypted key":            {cert, block("ENCRYPTED PRIVATE KEY", []byte{1}), []string{"key file {key}: the key is encrypted", "openssl pkey -in {key}"}},
		"encrypted key, old style": {cert, block("RSA PRIVATE KEY", []byte{1}, "Proc-Type", "4,ENCRYPTED"), []string{"the key is encrypted", "openssl pkey"}},
		"key of another":           {cert, pemKey(t, other.key), []string{"key file {key}: it is not the key of certificate {cert}", "issued together"}},
		"issuer first":             {pemCerts(ca, leaf), key, []string{"belongs to certificate 2", "first"}},
		"key that cannot sign":     {cert, pemKey(t, x25519), []string{"key file {key}: parse the private key", "cannot sign", "ECDSA"}},
		"damaged certificate":      {block("CERTIFICATE", []byte("x")), key, []string{"parse certificate 1", "get the file anew"}},
		"damaged issuer":           {cert + block("CERTIFICATE", []byte("x")), key, []string{"parse certificate 2", "get the file anew"}},
		"damaged key":              {cert, block("PRIVATE KEY", []byte("x")), []string{"key file {key}: parse the private key", "PKCS#8"}},
		"cut short":                {pemCerts(leaf, ca)[:len(cert)+100], key, []string{"1 of its 2 PEM blocks are damaged", "write the file again"}},
		"key cut short":            {cert, key[:40], []string{"key file {key}: 1 of its 1 PEM blocks", "write the file again"}},
		"holds a meta certificate": {cert + block("CERTIFICATE", meta), key, []string{"certificate 2 begins with \"derpkey\"", "remove that certificate"}},
		"pin no client would see":  {pemCerts(hidden), pemKey(t, hidden.key), []string{"certificate 1 begins with \"derpkey\""}},
	} {
		certFile, keyFile := writePair(t, tt.cert, tt.key)
		_, err := LoadFiles(certFile, keyFile, testNow)
		t.Run(what, func(t *testing.T) {
			paths := strings.NewReplacer("{cert}", certFile, "{key}", keyFile)
			for i, part := range tt.want {
				tt.want[i] = paths.Replace(part)
			}
			wantError(t, err, append(tt.want, "; hint: ")...)
		})
	}
}

func TestLoadFilesDates(t *testing.T) {
	leaf := issue(t, named("a.example"), nil)
	certFile, keyFile := writePair(t, pemCerts(leaf), pemKey(t, leaf.key))
	first, last := leaf.leaf.NotBefore, leaf.leaf.NotAfter
	for what, at := range map[string]struct {
		when int // seconds after first
		want []string
	}{
		"first second": {0, nil},
		"last second":  {int(last.Sub(first).Seconds()), nil},
		"too early":    {-1, nil}, // it is the clock that is wrong
		"too late":     {int(last.Sub(first).Seconds()) + 1, []string{"expired at 2026-09-01T12:00:00Z", "renew it", "--cert", "clock says 2026-09-01T12:00:01Z"}},
	} {
		_, err := LoadFiles(certFile, keyFile, first.Add(time.Duration(at.when)*time.Second))
		if at.want != nil {
			wantError(t, err, at.want...)
		} else if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestLoadFilesPaths(t *testing.T) {
	leaf := issue(t, named("a.example"), nil)
	cert, key := writePair(t, pemCerts(leaf), pemKey(t, leaf.key))
	dir := filepath.Dir(cert)
	missing := filepath.Join(dir, "missing.pem")
	for _, tt := range []struct {
		cert, key string
		want      []string
	}{
		{missing, key, []string{"read certificate file " + missing, "no such file", "check the path given by --cert"}},
		{cert, missing, []string{"read key file " + missing, "check the path given by --key"}},
		{dir, key, []string{"certificate file " + dir + ": it is a directory", "name the certificate file in it with --cert"}},
		{cert, dir, []string{"key file " + dir + ": it is a directory", "--key"}},
		{filepath.Join(cert, "below"), key, []string{"read certificate file", "not a directory", "--cert"}},
		{os.DevNull, key, []string{"it is not a regular file", "--cert"}},
		{"", key, []string{"no path is given", "set --cert"}},
		{cert, "", []string{"no path is given", "set --key"}},
	} {
		_, err := LoadFiles(tt.cert, tt.key, testNow)
		wantError(t, err, append(tt.want, "; hint: ")...)
	}
	// Tests may run as root, whom no mode keeps out: ask for the text alone.
	denied := &fs.PathError{Op: "open", Path: "/k", Err: fs.ErrPermission}
	wantError(t, readFault("key", "--key", "/k", denied), "read key file /k: permission denied; hint: ", "let the user that runs detour read the file")
	if strings.Count(fmt.Sprint(readFault("key", "--key", "/k", denied)), "/k") != 1 {
		t.Error("the path is named twice")
	}
}
