package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe returns a Conn and the peer's end of it, on which nothing is buffered.
func pipe(t testing.TB) (c *Conn, peer net.Conn) {
	t.Helper()
	peer, ours := net.Pipe()
	c = Over(ours)
	t.Cleanup(func() { peer.Close(); c.raw.Close() })
	return c, peer
}

// tcp returns both ends of a connection over loopback.
func tcp(t testing.TB) (ours, peer net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	return ours, peer
}

// secure returns a Conn and its peer after a TLS handshake over loopback.
func secure(t testing.TB, version uint16) (c *Conn, peer *tls.Conn) {
	t.Helper()
	ours, raw := tcp(t)
	c = Accept(ours, &tls.Config{
		Certificates:           []tls.Certificate{selfSigned(t)},
		SessionTicketsDisabled: true, // nothing is on its way after the handshake
	})
	peer = tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
	done := make(chan error, 1)
	go func() { done <- peer.Handshake() }()
	if err := c.Handshake(t.Context()); err != nil {
		t.Errorf("handshake: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatalf("the peer's handshake: %v", err)
	}
	return c, peer
}

func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// scripted is a connection whose reads are written down beforehand. Methods
// that it does not have panic.
type scripted struct {
	net.Conn
	reads    [][]byte
	withLast error // comes with the last read, instead of after it
}

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.reads) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.reads[0])
	if s.reads[0] = s.reads[0][n:]; len(s.reads[0]) > 0 {
		return n, nil
	}
	if s.reads = s.reads[1:]; len(s.reads) == 0 {
		return n, s.withLast
	}
	return n, nil
}

// pattern returns n bytes, of which no two stretches of 8 are the same.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i >> (8 * (i % 4)) * 7)
	}
	return b
}
