package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"maps"
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

// kind is a form of the codec and what it carries over TCP.
type kind struct {
	name    string
	accept  func(net.Conn, *tls.Config) *Conn
	version uint16 // of TLS; 0: plain
	suites  []uint16
}

// kinds are all that Go's client can be made to speak. The ChaCha20 of TLS 1.3
// needs OpenSSL.
func kinds() (all []kind) {
	chacha := []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}
	forms := map[string]func(net.Conn, *tls.Config) *Conn{"default": Accept, "portable": AcceptPortable}
	maps.Copy(forms, moreForms())
	for name, accept := range forms {
		all = append(all,
			kind{name + "/plain", accept, 0, nil},
			kind{name + "/TLS 1.2", accept, tls.VersionTLS12, nil},
			kind{name + "/TLS 1.2 ChaCha20", accept, tls.VersionTLS12, chacha},
			kind{name + "/TLS 1.3", accept, tls.VersionTLS13, nil})
	}
	return all
}

// each runs a test for every kind.
func each(t *testing.T, f func(t *testing.T, k kind)) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) { f(t, k) })
	}
}

// open returns a Conn and its peer, ready to carry data over loopback. prepare,
// if any, sees both sockets first.
func (k kind) open(t testing.TB, prepare ...func(*net.TCPConn)) (c *Conn, peer net.Conn) {
	t.Helper()
	ours, raw := tcp(t)
	for _, f := range prepare {
		f(ours.(*net.TCPConn))
		f(raw.(*net.TCPConn))
	}
	if k.version == 0 {
		return k.accept(ours, nil), raw
	}
	return shake(t, k.accept(ours, serverConfig(t)), tls.Client(raw, &tls.Config{
		InsecureSkipVerify: true, MinVersion: k.version, MaxVersion: k.version, CipherSuites: k.suites,
	}))
}

// socket returns the TCP connection below the peer's TLS, if there is any.
func socket(peer net.Conn) *net.TCPConn {
	if t, ok := peer.(*tls.Conn); ok {
		peer = t.NetConn()
	}
	return peer.(*net.TCPConn)
}

func serverConfig(t testing.TB) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{selfSigned(t)},
		SessionTicketsDisabled: true, // nothing is on its way after the handshake
	}
}

// secure returns a Conn and its peer after a TLS handshake over loopback.
func secure(t testing.TB, version uint16) (c *Conn, peer *tls.Conn) {
	t.Helper()
	k := kind{accept: Accept, version: version}
	c, nc := k.open(t)
	return c, nc.(*tls.Conn)
}

func shake(t testing.TB, c *Conn, peer *tls.Conn) (*Conn, *tls.Conn) {
	t.Helper()
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
