package compat

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/detour-relay/detour/internal/config"
)

// maxCertFile is far above any chain, in bytes. Larger files are left to the
// certificate loader's own message.
const maxCertFile = 1 << 20

// hostnameOK checks -hostname and -certmode, which derper leaves alone without
// TLS; a misspelt -certmode there means a relay without TLS that nobody wanted.
func (c *command) hostnameOK() bool {
	before := len(c.problems)
	switch c.certMode {
	case certManual, certLetsEncrypt, certGCP:
	default:
		c.fail("%s: there is no certificate mode %q; hint: use %s", c.ref("certmode"), c.certMode, certManual)
	}
	if !isIP(c.hostname) && strings.ContainsAny(c.hostname, "/:[] \t\r\n") {
		c.fail("%s: %q is neither a domain nor an IP address; hint: leave out scheme, port, brackets, path and spaces",
			c.ref("hostname"), c.hostname)
	}
	return len(c.problems) == before
}

// certificate decides where the certificate comes from when TLS is on.
func (c *command) certificate(cfg *config.Config) {
	if c.origin["hostname"] == "" || c.hostname == "" {
		c.fail("%s: needed with TLS, as the name of the certificate; "+
			"hint: give the domain or the IP address that clients dial", c.ref("hostname"))
		return
	}
	if c.certMode != certManual {
		c.acme(cfg)
		return
	}
	if c.certDir == "" {
		c.fail("%s: empty; hint: name the directory of the certificate", c.ref("certdir"))
		return
	}
	name := fileName(c.hostname)
	cfg.Cert = filepath.Join(c.certDir, name+".crt")
	cfg.Key = filepath.Join(c.certDir, name+".key")
	mode, err := c.pickCertMode(cfg.Cert, cfg.Key)
	if err != nil {
		c.fail("%s: %w", c.ref("certmode"), err)
	}
	cfg.CertMode = mode
}

// pickCertMode chooses between files and pin. A certificate that is there and signed
// by itself is pinned too: clients refuse it otherwise, and the one made at the
// first start must not change the mode at the second.
func (c *command) pickCertMode(cert, key string) (string, error) {
	hasCert, err := c.exists(cert)
	if err != nil {
		return "", err
	}
	hasKey, err := c.exists(key)
	if err != nil {
		return "", err
	}
	switch {
	case hasCert && hasKey && c.selfSigned(cert):
		return config.CertPin, nil
	case hasCert && hasKey:
		return config.CertFiles, nil
	case hasCert != hasKey:
		there, missing := cert, key
		if hasKey {
			there, missing = key, cert
		}
		return "", fmt.Errorf("%s is there and %s is missing; hint: put it there, or move the first one away", there, missing)
	case isIP(c.hostname) || c.makesCert:
		return config.CertPin, nil
	}
	return "", fmt.Errorf("no certificate for %s: %s and %s are missing; hint: put the PEM files there, name their "+
		"directory with -certdir, or use an IP address as -hostname, for which a certificate is made", c.hostname, cert, key)
}

func (c *command) exists(file string) (bool, error) {
	_, err := c.host.Stat(file)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, fmt.Errorf("looking for the certificate: %w; hint: check the directory's owner and mode", err)
}

// selfSigned reports whether the file holds one certificate and nothing but
// itself vouches for it. What is wrong with a file, the loader says.
func (c *command) selfSigned(file string) bool {
	if info, err := c.host.Stat(file); err != nil || info.Size() > maxCertFile {
		return false
	}
	text, err := c.host.ReadFile(file)
	if err != nil {
		return false
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return false
	}
	if more, _ := pem.Decode(rest); more != nil {
		return false
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	return err == nil && bytes.Equal(leaf.RawIssuer, leaf.RawSubject) &&
		leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil
}

// fileName is the hostname as derper names certificate files after it: every
// byte outside A-Z a-z 0-9 . - is deleted, so 2001:db8::1 gives 2001db81.
// Source: a derper driven by hand.
func fileName(hostname string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return -1
	}, hostname)
}

// isIP reports whether name is an IP address without brackets and zone.
func isIP(name string) bool {
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.Zone() == ""
}
