// Package cert holds what the relay shows in a TLS handshake: its certificate,
// from files or made once and pinned, and behind it the meta certificate that
// tells clients the server key so that they may skip a round trip.
package cert

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Mode says where a certificate came from.
type Mode string

// The modes of a certificate, as the configuration spells them.
const (
	ModePin   Mode = "pin"   // made by the relay itself, known to clients by its hash
	ModeFiles Mode = "files" // given by the operator
	ModeACME  Mode = "acme"  // issued by an ACME server
)

// pinPrefix begins a CertName that holds a hash instead of a name.
// Source: the CertName field of a DERP map node in Tailscale's map format.
const pinPrefix = "sha256-raw:"

// Certificate is a certificate chain with the leaf first, and the leaf's
// private key. It never changes once made, so handshakes may share it.
type Certificate struct {
	mode              Mode
	certFile, keyFile string // only to name them to people
	chain             [][]byte
	leaf              *x509.Certificate
	key               crypto.Signer
	selfSigned        bool
}

// newCertificate joins a parsed chain, which is not empty, and its key.
func newCertificate(chain []*x509.Certificate, key crypto.Signer) *Certificate {
	c := &Certificate{leaf: chain[0], key: key}
	for _, link := range chain {
		c.chain = append(c.chain, link.Raw)
	}
	c.selfSigned = len(chain) == 1 && signedByItself(chain[0])
	return c
}

// signedByItself looks at names and signature only: CheckSignatureFrom would
// also want a CA, which a pinned leaf is not.
func signedByItself(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) &&
		c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// TLS returns the chain and key for crypto/tls, without the meta certificate.
// Each call returns a chain slice of its own, but the bytes in it are shared
// and must not be written to.
func (c *Certificate) TLS() tls.Certificate {
	return c.withLast(nil)
}

// withLast returns the chain followed by one more certificate (nil: none), in
// a slice that shares nothing with any other and has no room to be appended to
// in place: two handshakes that append to one array overwrite each other.
func (c *Certificate) withLast(der []byte) tls.Certificate {
	chain := slices.Clone(c.chain)
	if der != nil {
		chain = append(chain, der)
	}
	return tls.Certificate{
		Certificate: slices.Clip(chain),
		PrivateKey:  c.key,
		Leaf:        c.leaf,
	}
}

// Leaf returns the relay's own certificate. It is shared: read it only.
func (c *Certificate) Leaf() *x509.Certificate { return c.leaf }

// Mode returns where the certificate came from.
func (c *Certificate) Mode() Mode { return c.mode }

// NotAfter returns the last moment at which the leaf is valid, in whole
// seconds and UTC.
func (c *Certificate) NotAfter() time.Time { return c.leaf.NotAfter }

// NotBefore returns the first moment at which the leaf is valid, in whole seconds
// and UTC.
func (c *Certificate) NotBefore() time.Time { return c.leaf.NotBefore }

// Expired reports whether the leaf's time is over at now.
func (c *Certificate) Expired(now time.Time) bool { return now.After(c.leaf.NotAfter) }

// Early reports whether the leaf's time has not come at now. Whoever issued it made
// it valid at once, so it is most likely the clock that is late, as that of a small
// machine without a battery is at each start. Clients go by their own, so that such
// a certificate may be served.
func (c *Certificate) Early(now time.Time) bool { return now.Before(c.leaf.NotBefore) }

// SelfSigned reports whether the chain is exactly one certificate that signs
// itself. Only such a chain can be pinned: a client with a pin refuses every
// certificate beyond the pinned one, apart from the meta certificate.
// Source: observed with Tailscale's DERP client.
func (c *Certificate) SelfSigned() bool { return c.selfSigned }

// Pin returns what a DERP map's CertName must say for clients to trust this
// certificate by its hash: "sha256-raw:" and the SHA-256 of the leaf's DER in
// 64 lower-case hex digits (clients refuse upper case). It is empty when the
// certificate is not SelfSigned, as no pin works then.
func (c *Certificate) Pin() string {
	if !c.selfSigned {
		return ""
	}
	return PinOf(c.leaf)
}

// PinOf returns the hash of a certificate in the form of Pin, whoever signed it.
func PinOf(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.Raw)
	return pinPrefix + hex.EncodeToString(sum[:])
}

// Names returns the DNS names and then the IP addresses that the leaf holds as
// subject alternative names. The common name is not among them, because
// clients do not look at it. The slice is the caller's, and never nil.
func (c *Certificate) Names() []string {
	names := make([]string, 0, len(c.leaf.DNSNames)+len(c.leaf.IPAddresses))
	names = append(names, c.leaf.DNSNames...)
	for _, ip := range c.leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// keyType names the kind of the private key: a name may have a certificate of each.
func (c *Certificate) keyType() string { return c.leaf.PublicKeyAlgorithm.String() }

// Covers reports whether a client that expects name accepts the leaf. A DNS
// name is compared without case and may match a wildcard of one label; an IP
// literal must be among the leaf's addresses.
func (c *Certificate) Covers(name string) bool {
	return c.leaf.VerifyHostname(name) == nil
}

// CheckName returns an error, with what to do, if clients that find hostname
// as a node's HostName in the DERP map would refuse c for its name.
//
// A DNS name must be one that c covers, in pin mode too. For an IP literal
// clients send no SNI and check no name, so every certificate passes.
// Source: observed with Tailscale's DERP client.
func CheckName(c *Certificate, hostname string) error {
	if hostname == "" {
		return fault("check the certificate's name: the hostname is empty",
			"set --hostname to the domain or IP address that clients dial")
	}
	if _, err := netip.ParseAddr(hostname); err == nil || c.Covers(hostname) {
		return nil
	}
	names := strings.Join(c.Names(), ", ")
	if names == "" {
		names = "no names"
	}
	what := fmt.Sprintf("certificate %s is not valid for %q: it holds %s", c.certFile, hostname, names)
	if c.mode == ModePin {
		return fault(what+", and clients check the name even of a pinned certificate",
			"set --hostname to a name it holds or to an IP address (whose name is not checked), or "+remakePin(c.certFile, c.keyFile))
	}
	hint := fmt.Sprintf("give --cert and --key a certificate for %s (in its subject alternative names; the common name does not count), or set --hostname to a name it holds", hostname)
	if c.selfSigned {
		hint += "; another self-signed certificate has another pin, which every DERP map must then carry"
	}
	return fault(what, hint)
}

// hinted is an error for an operator: what went wrong, and the next step.
type hinted struct{ what, hint string }

func (h *hinted) Error() string { return h.what + "; hint: " + h.hint }

func fault(what, hint string) *hinted { return &hinted{what: what, hint: hint} }

// remakePin is the hint that ends every error which only a new pin certificate
// can cure. It is never done for the operator, as it cuts off every client
// until the maps are changed.
func remakePin(certFile, keyFile string) string {
	return fmt.Sprintf("move both %s and %s away and start detour serve again to make a new certificate for the configured names; "+
		"its pin is new too, and clients are refused until every DERP map carries it", certFile, keyFile)
}
