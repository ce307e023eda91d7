package client

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// PinPrefix begins a CertName that pins one certificate.
const PinPrefix = "sha256-raw:"

// pin is the SHA-256 of a certificate's DER. nil: none.
type pin []byte

// parsePin reads a CertName. One without the prefix is a name and gives no pin.
// Upper-case digits are refused because official clients never match them.
func parsePin(certName string) (pin, error) {
	digits, ok := strings.CutPrefix(certName, PinPrefix)
	if !ok {
		return nil, nil
	}
	sum, err := hex.DecodeString(digits)
	if err != nil || len(sum) != sha256.Size || digits != strings.ToLower(digits) {
		return nil, fmt.Errorf("client: pin %q is not %s and %d lower-case hex digits; hint: copy the relay's CertName whole", certName, PinPrefix, 2*sha256.Size)
	}
	return sum, nil
}

// tlsConfig says how to shake hands with the relay and whether to trust it.
func (o *Options) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{}
	if o.TLS != nil {
		cfg = o.TLS.Clone()
	}
	cfg.ServerName, cfg.NextProtos = o.Host, nil
	p, err := parsePin(o.CertName)
	switch {
	case err != nil:
		return nil, err
	case o.CertName != "":
		// SNI stays Host, which crypto/tls would check the certificate against.
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			if p != nil {
				return p.verify(cs.PeerCertificates, o.nameToMatch(), now(cfg))
			}
			return verifyName(cs.PeerCertificates, o.CertName, cfg)
		}
	case o.Insecure:
		cfg.InsecureSkipVerify = true
	}
	return cfg, nil
}

// nameToMatch is the name that a pinned certificate must be for. An IP address
// is none: a pinned relay may move.
func (o *Options) nameToMatch() string {
	if o.hostIsIP() {
		return ""
	}
	return o.Host
}

func now(cfg *tls.Config) time.Time {
	if cfg.Time != nil {
		return cfg.Time()
	}
	return time.Now()
}

// verify holds the presented certificates to the pin: apart from meta
// certificates there is exactly one, it is the pinned one, it is for name (when
// there is one), and its dates hold. No chain is looked at.
//
// Source: observed on Tailscale 1.102 clients.
func (p pin) verify(certs []*x509.Certificate, name string, now time.Time) error {
	var only *x509.Certificate
	for _, c := range certs {
		if strings.HasPrefix(c.Subject.CommonName, derp.MetaCertPrefix) {
			continue
		}
		if only != nil {
			return errors.New("relay presents several certificates where one is pinned; hint: a pinned relay sends no intermediates")
		}
		only = c
	}
	if only == nil {
		return errors.New("relay presents no certificate of its own")
	}
	if sum := sha256.Sum256(only.Raw); string(sum[:]) != string(p) {
		return fmt.Errorf("certificate is %s%x, not the pinned one; hint: if the relay's certificate was replaced, take its new CertName", PinPrefix, sum)
	}
	if name != "" {
		if err := only.VerifyHostname(name); err != nil {
			return fmt.Errorf("pinned certificate: %w", err)
		}
	}
	if now.Before(only.NotBefore) || now.After(only.NotAfter) {
		return fmt.Errorf("pinned certificate holds from %s to %s; hint: check the clock",
			only.NotBefore.Format(time.DateOnly), only.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// verifyName is the ordinary check of a chain, against a name that is not SNI's.
func verifyName(certs []*x509.Certificate, name string, cfg *tls.Config) error {
	opts := x509.VerifyOptions{Roots: cfg.RootCAs, DNSName: name, CurrentTime: now(cfg), Intermediates: x509.NewCertPool()}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := certs[0].Verify(opts)
	return err
}

// maxMetaVersion is the largest serial number of a meta certificate: it is the
// protocol version, one byte.
const maxMetaVersion = 255

// metaKey finds the meta certificate, which tells the server key before the
// relay has said a word. Its dates and signature mean nothing: whoever can show
// it in this handshake holds the relay's TLS key, and a wrong server key only
// makes the login fail.
func metaKey(cs tls.ConnectionState) (server key.Public, ok bool) {
	if cs.Version < tls.VersionTLS13 {
		return key.Public{}, false // certificates are readable on the wire before 1.3; official clients wait for it too
	}
	for _, c := range cs.PeerCertificates {
		digits, isMeta := strings.CutPrefix(c.Subject.CommonName, derp.MetaCertPrefix)
		if !isMeta || !c.SerialNumber.IsInt64() {
			continue
		}
		version := c.SerialNumber.Int64()
		k, err := key.ParsePublicHex(digits)
		if err == nil && 0 < version && version <= maxMetaVersion {
			return k, true
		}
	}
	return key.Public{}, false
}
