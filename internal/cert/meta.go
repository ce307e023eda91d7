package cert

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
)

const (
	// metaPrefix begins the common name of a meta certificate; the server's
	// public key follows in lower-case hex. Clients do not count such a
	// certificate when they compare a pin.
	metaPrefix = "derpkey"

	// metaVersion is the DERP protocol version, carried as the serial number.
	metaVersion = 2

	// metaLife is how long a meta certificate is valid before and after the
	// moment at which it was made.
	metaLife = 30 * 24 * time.Hour
)

// NewMeta makes the meta certificate, in DER, that ends every chain the relay
// serves: a client that finds it in a TLS 1.3 handshake knows the server key
// before the relay has said a word, and need not wait for the HTTP answer.
// ServerKeyHex is the relay's public key in 64 lower-case hex digits.
//
// It is signed by itself with a fresh Ed25519 key that nobody keeps. Subject and issuer
// are the common name "derpkey" and the server key, the serial number is 2, it
// is valid from 30 days before now to 30 days after, and its only extension is
// the critical BasicConstraints with CA false.
// Source: read from the certificates that Tailscale's derper serves.
func NewMeta(serverKeyHex string, now time.Time) ([]byte, error) {
	if err := checkServerKey(serverKeyHex); err != nil {
		return nil, fmt.Errorf("make the meta certificate: %w", err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for the meta certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(metaVersion),
		Subject:               pkix.Name{CommonName: metaPrefix + serverKeyHex},
		NotBefore:             now.Add(-metaLife),
		NotAfter:              now.Add(metaLife),
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, fmt.Errorf("make the meta certificate: %w", err)
	}
	return der, nil
}

// checkServerKey wants the one spelling of a key that clients compare: 64
// lower-case hex digits, not all zero.
func checkServerKey(digits string) error {
	if len(digits) != 64 || strings.Trim(digits, "0123456789abcdef") != "" {
		return errors.New("the server key is not 64 lower-case hex digits")
	}
	if strings.Trim(digits, "0") == "" {
		return errors.New("the server key is all zero")
	}
	return nil
}
