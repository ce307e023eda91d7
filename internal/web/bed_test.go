package web

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
)

// net/http lingers for half a second after it has hung up on a client that may
// still be sending.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const serverHex = "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20"

// switching is the 101 response as derper 1.102 was seen to send it.
const switching = "HTTP/1.1 101 Switching Protocols\r\n" +
	"Upgrade: DERP\r\n" +
	"Connection: Upgrade\r\n" +
	"Derp-Version: 2\r\n" +
	"Derp-Public-Key: " + serverHex + "\r\n" +
	"\r\n"

// greeting is the ServerKey frame for serverHex.
const greeting = "\x01\x00\x00\x00\x28DERP\xf0\x9f\x94\x91" +
	"\x0f\xaa\x68\x4e\xd2\x88\x67\xb9\x7f\x4a\x6a\x2d\xee\x5d\xf8\xce" +
	"\x97\x4e\x76\xb7\x01\x8e\x3f\x22\xa1\xc4\xcf\x26\x78\x57\x0f\x20"

var _ Relay = (*relay.Server)(nil)

// echoRelay greets and then sends back what it reads. A line "end" ends the
// service; a line "in" is the login.
type echoRelay struct {
	conns chan relay.Conn // of each service
	ended chan error      // each service's end
}

func newEchoRelay() *echoRelay {
	return &echoRelay{conns: make(chan relay.Conn, 10), ended: make(chan error, 10)}
}

func (e *echoRelay) PublicKey() key.Public {
	k, err := key.ParsePublicHex(serverHex)
	if err != nil {
		panic(err)
	}
	return k
}

func (e *echoRelay) ServeConn(ctx context.Context, c relay.Conn) error {
	e.conns <- c
	stop := context.AfterFunc(ctx, c.Link.Doom)
	defer stop()
	err := e.serve(c)
	e.ended <- err
	return err
}

func (e *echoRelay) serve(c relay.Conn) error {
	if err := send(c.Link, derp.AppendServerKey(nil, e.PublicKey())); err != nil {
		return err
	}
	return c.Link.Fill(func(batch []byte) (int, bool, error) {
		if strings.HasSuffix(string(batch), "in\n") && c.LoggedIn != nil {
			c.LoggedIn(true)
		}
		err := send(c.Link, batch)
		return len(batch), strings.HasSuffix(string(batch), "end\n"), err
	})
}

func send(l relay.Link, b []byte) error {
	if err := l.Seal(b); err != nil {
		return err
	}
	for {
		done, err := l.Flush()
		if done || err != nil {
			return err
		}
		if err := l.WaitWritable(time.Minute); err != nil {
			return err
		}
	}
}

// bed is a Server that runs until the test ends.
type bed struct {
	t      *testing.T
	server *Server
	relay  *echoRelay
	ctx    context.Context
	stop   func() // ends it and waits for all of it; more than once is fine
	conns  sync.WaitGroup

	admitted atomic.Bool // what a connection said last when it was ready
}

func newBed(t *testing.T, o Options) *bed {
	b := &bed{t: t, relay: newEchoRelay()}
	o.Relay = b.relay
	b.server = New(o)
	ctx, cancel := context.WithCancel(t.Context())
	b.ctx = ctx
	served := make(chan error, 1)
	go func() { served <- b.server.Serve(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		b.conns.Wait()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(b.stop)
	return b
}

// serve gives a connection to the server. ready is closed when the server says so.
func (b *bed) serve(c net.Conn) (ready chan struct{}) {
	ready = make(chan struct{})
	b.conns.Go(func() { b.server.ServeConn(b.ctx, c, b.readyOnce(ready)) })
	return ready
}

// pipe returns the client's end of a connection on which each read sees one write.
func (b *bed) pipe() net.Conn {
	client, server := net.Pipe()
	b.t.Cleanup(func() { client.Close() })
	b.serve(server)
	return client
}

// tcp returns the client's end of a connection over loopback.
func (b *bed) tcp() net.Conn {
	client, server := tcpPair(b.t)
	b.serve(server)
	return client
}

func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if err := client.SetDeadline(time.Now().Add(time.Minute)); err != nil { // a failing test must end
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func write1(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatalf("write: %v", err)
	}
}

// readOnce returns what one read gets.
func readOnce(t *testing.T, c net.Conn) string {
	t.Helper()
	buf := make([]byte, 8<<10)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(buf[:n])
}

// expect reads exactly want.
func expect(t *testing.T, r interface{ Read([]byte) (int, error) }, want string) {
	t.Helper()
	got := make([]byte, 0, len(want))
	for len(got) < len(want) {
		n, err := r.Read(got[len(got):cap(got)])
		got = got[:len(got)+n]
		if err != nil {
			t.Fatalf("read %q, then %v; want %q", got, err, want)
		}
	}
	if string(got) != want {
		t.Fatalf("read %q, want %q", got, want)
	}
}

// ask sends a request as it stands and returns the response.
func (b *bed) ask(request string) *http.Response {
	b.t.Helper()
	c := b.tcp()
	go func() { _, _ = c.Write([]byte(request)) }() // may fail: the server may answer before its end
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		b.t.Fatalf("%.60q: %v", request, err)
	}
	b.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// serverTLS returns a configuration with a certificate for relay.test, and the
// pool that trusts it.
func serverTLS(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"relay.test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: private}},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}, pool
}

// readyOnce closes ready when a connection is bounded otherwise. It may be told twice,
// and notes in admitted what it was told last.
func (b *bed) readyOnce(ready chan struct{}) func(admitted bool) {
	var once sync.Once
	return func(admitted bool) {
		b.admitted.Store(admitted)
		once.Do(func() { close(ready) })
	}
}
