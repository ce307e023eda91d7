package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The parties of the recorded transcripts, which a real relay accepted.
var (
	serverPriv = parsePrivate("privkey:" + strings.Repeat("22", 32))
	clientPriv = parsePrivate("privkey:" + strings.Repeat("11", 32))
	nonce      = [key.NonceSize]byte(bytes.Repeat([]byte{0x33}, key.NonceSize))
)

const (
	serverPubHex  = "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20"
	clientPubHex  = "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13"
	serverKeyHex  = "010000002844455250f09f9491" + serverPubHex
	serverInfoHex = "0300000035333333333333333333333333333333333333333333333333" +
		"37c731e6b681077979c9ca7f8467e3564d3eb8fccc9a8433ce902111e4"
)

func parsePrivate(s string) key.Private {
	k, err := key.ParsePrivate(s)
	if err != nil {
		panic(err)
	}
	return k
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fake is a relay that follows a script. Its methods report failures and end
// the script's goroutine by closing the connection: the rest of the script then
// fails too.
type fake struct {
	net.Conn
	t  testing.TB
	in *bufio.Reader
}

// speak connects to a fake relay that runs script, and hangs up at its end.
func speak(ctx context.Context, t testing.TB, o Options, script func(*fake)) (*Client, error) {
	ours, theirs := net.Pipe()
	return speakOver(ctx, t, ours, theirs, o, script)
}

// speakTLS is speak over TCP: TLS sends alerts while the other side is sending
// too, which a net.Pipe has no room for.
func speakTLS(t testing.TB, o Options, script func(*fake)) (*Client, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return speakOver(context.Background(), t, ours, theirs, o, script)
}

func speakOver(ctx context.Context, t testing.TB, ours, theirs net.Conn, o Options, script func(*fake)) (*Client, error) {
	o.DialContext = func(context.Context, string, string) (net.Conn, error) { return ours, nil }
	if o.Host == "" {
		o.Host = "relay.example"
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer theirs.Close()
		script(&fake{theirs, t, bufio.NewReader(theirs)})
	}()
	t.Cleanup(func() { ours.Close(); <-ended })
	c, err := Dial(ctx, o)
	if c != nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// logged connects in plain mode to a fake that lets everybody in, then follows script.
func logged(t testing.TB, o Options, script func(*fake)) *Client {
	t.Helper()
	o.Plain = true
	c, err := speak(context.Background(), t, o, func(f *fake) {
		f.login()
		script(f)
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// secure puts TLS under the rest of the script.
func (f *fake) secure(cfg *tls.Config) {
	conn := tls.Server(f.Conn, cfg)
	f.Conn, f.in = conn, bufio.NewReader(conn)
}

// login does a relay's part of an ordinary login and returns the request and
// what the client said.
func (f *fake) login() (request string, said derp.ClientParams) {
	request = f.request()
	f.put("HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\n\r\n")
	f.greet(serverPriv.Public())
	return request, f.admit()
}

func (f *fake) request() string {
	var all strings.Builder
	for !strings.HasSuffix(all.String(), "\r\n\r\n") {
		line, err := f.in.ReadString('\n')
		if err != nil {
			f.fail("read the request: %v", err)
			break
		}
		all.WriteString(line)
	}
	return all.String()
}

func (f *fake) greet(k key.Public) { f.put(string(derp.AppendServerKey(nil, k))) }

// admit reads the ClientInfo and answers with the recorded ServerInfo, if the
// client is that of the transcripts.
func (f *fake) admit() derp.ClientParams {
	t, body := f.frame()
	k, sealed, err := derp.ParseClientInfo(body)
	if t != derp.ClientInfo || err != nil {
		f.fail("client logs in with %v %x, %v", t, body, err)
		return derp.ClientParams{}
	}
	s, err := serverPriv.Shared(k)
	if err != nil {
		f.fail("shared key: %v", err)
		return derp.ClientParams{}
	}
	said, err := derp.OpenClientInfo(s, sealed)
	if err != nil {
		f.fail("client info: %v", err)
	}
	f.put(string(derp.AppendFrame(nil, derp.ServerInfo, s.SealNonce(nil, []byte(`{"version":2}`), nonce))))
	return said
}

func (f *fake) frame() (derp.FrameType, []byte) {
	var h [derp.HeaderSize]byte
	if _, err := io.ReadFull(f.in, h[:]); err != nil {
		f.fail("read a frame: %v", err)
		return 0, nil
	}
	t, n, _ := derp.ParseHeader(h[:])
	body := make([]byte, n)
	if _, err := io.ReadFull(f.in, body); err != nil {
		f.fail("read the body of %v: %v", t, err)
	}
	return t, body
}

// want reads exactly these bytes.
func (f *fake) want(hexBytes string) {
	got := make([]byte, len(hexBytes)/2)
	if _, err := io.ReadFull(f.in, got); err != nil || hex.EncodeToString(got) != hexBytes {
		f.fail("got %x, %v; want %s", got, err, hexBytes)
	}
}

func (f *fake) put(b string) {
	if _, err := io.WriteString(f, b); err != nil {
		f.fail("write: %v", err)
	}
}

// stay keeps the connection open and reads until the client hangs up.
func (f *fake) stay() { io.Copy(io.Discard, f.in) }

func (f *fake) fail(format string, args ...any) {
	f.t.Errorf("relay: "+format, args...)
	f.Close()
}

// certificate makes a self-signed certificate for names, and the pin for it.
func certificate(t testing.TB, names ...string) (tls.Certificate, string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv}, pinOf(der)
}

// meta makes a meta certificate that names commonName and a version.
func meta(t testing.TB, commonName string, version int64) []byte {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(version), Subject: pkix.Name{CommonName: commonName}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
