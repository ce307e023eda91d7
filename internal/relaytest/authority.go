package relaytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"testing"
	"time"
)

// Authority issues certificates, by an intermediate of its own if it is asked for one.
type Authority struct {
	t     testing.TB
	root  issuer
	inter issuer
}

type issuer struct {
	der  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority that nobody trusts yet.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t}
	a.root = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "Test Root"}, IsCA: true, BasicConstraintsValid: true}, issuer{})
	a.inter = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "Test Intermediate"}, IsCA: true, BasicConstraintsValid: true}, a.root)
	return a
}

// Roots are for those who trust it.
func (a *Authority) Roots() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.root.cert)
	return p
}

// Issued says what a certificate is for and when. Zero times are a month around now.
type Issued struct {
	Names               []string // domains and addresses
	NotBefore, NotAfter time.Time
	Alone               bool // without the intermediate
	SelfSigned          bool
}

// Issue makes a certificate and its chain.
func (a *Authority) Issue(i Issued) tls.Certificate {
	a.t.Helper()
	c := &x509.Certificate{NotBefore: i.NotBefore, NotAfter: i.NotAfter, Subject: pkix.Name{CommonName: "leaf"}, BasicConstraintsValid: true}
	for _, name := range i.Names {
		if ip := net.ParseIP(name); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
			continue
		}
		c.DNSNames = append(c.DNSNames, name)
	}
	by := a.inter
	if i.SelfSigned {
		by = issuer{}
	}
	leaf := a.sign(c, by)
	made := tls.Certificate{Certificate: [][]byte{leaf.der}, PrivateKey: leaf.key}
	if !i.SelfSigned && !i.Alone {
		made.Certificate = append(made.Certificate, a.inter.der)
	}
	return made
}

// Pin is the CertName that pins a certificate.
func Pin(c tls.Certificate) string {
	return fmt.Sprintf("sha256-raw:%x", sha256.Sum256(c.Certificate[0]))
}

func (a *Authority) sign(c *x509.Certificate, by issuer) issuer {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	const month = 30 * 24 * time.Hour
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Now().Add(-month)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(3 * month)
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		a.t.Fatal(err)
	}
	if by.key == nil {
		by.cert, by.key = c, private
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by.cert, private.Public(), by.key)
	if err != nil {
		a.t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return issuer{der, parsed, private}
}
