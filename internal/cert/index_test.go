package cert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// lasting is a certificate for these names that is valid for so many days more.
func lasting(t testing.TB, forDays int, names ...string) *Certificate {
	t.Helper()
	template := named(names...)
	template.NotBefore, template.NotAfter = testNow.AddDate(0, -1, 0), testNow.Add(days(forDays))
	return inMemory(t, issue(t, template, nil))
}

func inMemory(t testing.TB, i issued) *Certificate {
	t.Helper()
	return parsedAt(t, i, testNow)
}

func parsedAt(t testing.TB, i issued, now time.Time) *Certificate {
	t.Helper()
	c, err := ParsePEM("test", []byte(pemCerts(i)), []byte(pemKey(t, i.key)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// withRSA is a certificate with an RSA key.
func withRSA(t testing.TB, names ...string) *Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := named(names...)
	template.SerialNumber = big.NewInt(1)
	template.NotBefore, template.NotAfter = testNow.AddDate(0, -1, 0), testNow.AddDate(0, 6, 0)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), crypto.Signer(key))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParsePEM("rsa", []byte(block("CERTIFICATE", der)), []byte(pemKey(t, key)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func several(t testing.TB, strict bool, certs ...*Certificate) *Source {
	t.Helper()
	s, err := New(Options{
		Certificate: certs[0], More: certs[1:], StrictSNI: strict, ServerKeyHex: serverKeyHex,
		Now: func() time.Time { return testNow },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// meet makes a handshake in which the client's hello holds this server name, as
// it stands: crypto/tls would leave out an IP address.
func meet(s *Source, name string, change func(*tls.Config)) (*x509.Certificate, error) {
	c := &tls.Config{InsecureSkipVerify: true, ServerName: name}
	if change != nil {
		change(c)
	}
	state, err := handshake(s, c)
	if err != nil {
		return nil, err
	}
	return state.PeerCertificates[0], nil
}

func TestCertificateByName(t *testing.T) {
	first := lasting(t, 90, "Relay.Example.com", "192.0.2.1")
	second := lasting(t, 90, "other.example.com", "Two.Example.com")
	wild := lasting(t, 900, "*.Example.com", "*.deep.example.com")
	old, renewed := lasting(t, 5, "renewed.example.com"), lasting(t, 60, "renewed.example.com")
	s := several(t, false, first, second, wild, old, renewed)
	strict := several(t, true, first, second, wild, old, renewed)
	for name, want := range map[string]*Certificate{
		"relay.example.com":   first,
		"RELAY.EXAMPLE.COM":   first,
		"other.example.com":   second, // though the wildcard is valid for longer
		"two.example.com":     second,
		"any.example.com":     wild,
		"ANY.example.com":     wild,
		"x.deep.example.com":  wild,
		"renewed.example.com": renewed,
		// Not covered:
		"":                        nil,
		"example.com":             nil,
		"x.y.example.com":         nil,
		"relay.example.com.evil":  nil,
		"unknown.example.org":     nil,
		strings.Repeat("a.", 126): nil,
	} {
		switch fits, known := s.current.Load().index.lookup(name); {
		case known != (want != nil):
			t.Errorf("%q: known %v", name, known)
		case want == nil && fits[0] != 0:
			t.Errorf("%q: not the default", name)
		}
		if strings.HasSuffix(name, ".") {
			continue // no client may send it
		}
		got, err := meet(strict, name, nil)
		if want == nil {
			if alert, ok := errors.AsType[*net.OpError](err); !ok || !strings.Contains(alert.Error(), "unrecognized name") {
				t.Errorf("strict, %q: err %v, want the alert unrecognized name", name, err)
			}
			want = first
		} else if err != nil || !got.Equal(want.leaf) {
			t.Errorf("strict, %q: another certificate (err %v)", name, err)
		}
		if got, err := meet(s, name, nil); err != nil || !got.Equal(want.leaf) {
			t.Errorf("%q: another certificate (err %v)", name, err)
		}
		if ForName(s.Certificates(), name) != want {
			t.Errorf("ForName(%q) is another", name)
		}
	}
	if n := strict.Stats().RefusedNames; n != 5 || s.Stats().RefusedNames != 0 {
		t.Errorf("%d refused by strict, %d by the other, want 5 and 0", n, s.Stats().RefusedNames)
	}
	// An address as a server name, which the standard forbids and some clients send.
	for name, known := range map[string]bool{"192.0.2.1": true, "192.0.2.2": false} {
		got, err := s.choose(&tls.ClientHelloInfo{ServerName: name})
		if err != nil || !got.Leaf.Equal(first.leaf) {
			t.Errorf("%s: another certificate than the default (err %v)", name, err)
		}
		if got, err := strict.choose(&tls.ClientHelloInfo{ServerName: name}); err != nil || (got != nil) != known {
			t.Errorf("strict, %s: certificate %v, err %v", name, got != nil, err)
		}
	}
}

func TestCertificateByKeyType(t *testing.T) {
	rsaCert, ecdsaCert := withRSA(t, "relay.example.com"), lasting(t, 900, "relay.example.com")
	onlyRSA := func(c *tls.Config) {
		c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	}
	for _, certs := range [][]*Certificate{{rsaCert, ecdsaCert}, {ecdsaCert, rsaCert}} {
		s := several(t, false, certs...)
		for _, name := range []string{"relay.example.com", ""} {
			if got, err := meet(s, name, onlyRSA); err != nil || !got.Equal(rsaCert.leaf) {
				t.Errorf("%q, a client that knows RSA alone: err %v", name, err)
			}
		}
		if got, err := meet(s, "relay.example.com", nil); err != nil || !got.Equal(ecdsaCert.leaf) {
			t.Errorf("a client that knows both: not the one that is valid for longer (err %v)", err)
		}
		if got, err := meet(s, "", nil); err != nil || !got.Equal(certs[0].leaf) {
			t.Errorf("a client that knows both and names no server: not the default (err %v)", err)
		}
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	s := several(t, false, lasting(t, 90, "relay.example.com"), lasting(t, 90, "*.example.org"))
	for _, name := range []string{"", "Relay.Example.COM", "x.example.org", "unknown.example.net"} {
		hello := &tls.ClientHelloInfo{ServerName: name}
		if n := testing.AllocsPerRun(100, func() { _, _ = s.choose(hello) }); n != 0 {
			t.Errorf("%q: %v allocations", name, n)
		}
	}
}

func TestReplace(t *testing.T) {
	first, second, third := lasting(t, 90, "a.example"), lasting(t, 90, "b.example"), lasting(t, 90, "c.example")
	s := several(t, false, first)
	held, err := s.choose(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	before := len(held.Certificate)
	for _, wrong := range [][]*Certificate{nil, {}, {second, nil}} {
		if err := s.Replace(wrong); err == nil || s.Certificates()[0] != first {
			t.Errorf("replaced by %v (err %v)", wrong, err)
		}
	}
	certs := []*Certificate{second, third}
	if err := s.Replace(certs); err != nil {
		t.Fatal(err)
	}
	certs[0] = first // the caller's slice is its own
	if got := s.Certificates(); len(got) != 2 || got[0] != second || got[1] != third {
		t.Errorf("serves %v", got)
	}
	v := s.current.Load()
	if a, b := v.chains[0].Certificate, v.chains[1].Certificate; &a[len(a)-1][0] != &b[len(b)-1][0] {
		t.Error("the chains of one state have two meta certificates")
	}
	if len(held.Certificate) != before || !held.Leaf.Equal(first.leaf) {
		t.Error("the certificate that a handshake holds has changed")
	}
}

func TestParsePEM(t *testing.T) {
	leaf := issue(t, named("a.example"), nil)
	cert, key := []byte(pemCerts(leaf)), []byte(pemKey(t, leaf.key))
	c, err := ParsePEM("a.example", cert, key)
	if err != nil || c.Mode() != ModeACME || !c.Leaf().Equal(leaf.leaf) {
		t.Fatalf("%+v, err %v", c, err)
	}
	if c.Early(c.NotBefore()) || !c.Early(c.NotBefore().Add(-1)) || c.Expired(c.NotAfter()) || !c.Expired(c.NotAfter().Add(1)) {
		t.Error("its first or last moment is not one of its own, or the one beside is")
	}
	_, err = ParsePEM("a.example", cert, []byte("x"))
	wantError(t, err, "key file a.example: it is not PEM", "issued anew")
}

func TestChallenge(t *testing.T) {
	normal, answer := lasting(t, 90, "relay.example.com"), lasting(t, 1, "challenge.example.com")
	answered := answer.TLS()
	failing := errors.New("no challenge")
	s, err := New(Options{
		Certificate: normal, ServerKeyHex: serverKeyHex, StrictSNI: true,
		Challenge: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != "challenge.example.com" {
				return nil, failing
			}
			return &answered, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		offered []string
		want    *ecdsa.PublicKey // nil: refused
		chosen  string
	}{
		{"challenge.example.com", []string{"acme-tls/1"}, answer.leaf.PublicKey.(*ecdsa.PublicKey), "acme-tls/1"},
		{"relay.example.com", []string{"acme-tls/1"}, nil, ""},
		{"relay.example.com", []string{"acme-tls/1", "http/1.1"}, normal.leaf.PublicKey.(*ecdsa.PublicKey), "http/1.1"},
		{"relay.example.com", []string{"h2", "http/1.1"}, normal.leaf.PublicKey.(*ecdsa.PublicKey), "http/1.1"},
		{"relay.example.com", []string{"h2"}, nil, ""},
		{"relay.example.com", nil, normal.leaf.PublicKey.(*ecdsa.PublicKey), ""},
	} {
		state, err := handshake(s, &tls.Config{InsecureSkipVerify: true, ServerName: tt.name, NextProtos: tt.offered})
		if (err == nil) != (tt.want != nil) {
			t.Errorf("%s %q: err %v", tt.name, tt.offered, err)
		} else if err == nil && (!tt.want.Equal(state.PeerCertificates[0].PublicKey) || state.NegotiatedProtocol != tt.chosen) {
			t.Errorf("%s %q: got %s and protocol %q", tt.name, tt.offered, state.PeerCertificates[0].DNSNames, state.NegotiatedProtocol)
		}
	}
}
