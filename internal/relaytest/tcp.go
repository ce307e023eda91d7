package relaytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/link"
	"github.com/detour-relay/detour/internal/relay"
)

// handshakeLimit is how long a TLS handshake over loopback may take.
const handshakeLimit = 30 * time.Second

// Form is how a Front makes links of sockets: link.Accept or link.AcceptPortable.
type Form func(raw net.Conn, cfg *tls.Config) *link.Conn

// Front serves a relay over TLS on loopback. It needs the real clock.
type Front struct {
	server  *relay.Server
	form    Form
	tls     *tls.Config
	ctx     context.Context
	serving sync.WaitGroup

	// Sockets, if set, sees both ends of each connection before anything else.
	// It must be set before the first Connect.
	Sockets func(*net.TCPConn)

	mu       sync.Mutex
	listener net.Listener // Guarded by mu: one connection at a time, so that both ends are known.
}

// Listen makes a Front. When the test ends, connections are ended and waited for.
func Listen(t testing.TB, s *relay.Server, form Form) *Front {
	t.Helper()
	cert, err := selfSigned()
	if err != nil {
		t.Fatalf("make a certificate: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &Front{
		server: s, form: form, ctx: ctx, listener: l,
		tls: &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true},
	}
	serve := make(chan struct{})
	go func() { defer close(serve); _ = s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		l.Close()
		f.serving.Wait()
		<-serve
	})
	return f
}

// Connect connects and logs in. Of options, only those for the login count. It
// may be called by any goroutine; the caller closes the Peer.
func (f *Front) Connect(options ...Option) (*Peer, error) {
	d := dialing{key: key.NewPrivate(), params: derp.ClientParams{Version: derp.ProtocolVersion, CanAckPings: true}}
	for _, o := range options {
		o(&d)
	}
	ours, theirs, err := f.sockets()
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	f.serving.Go(func() { done <- f.serve(theirs, d.conn) })
	conn := tls.Client(ours, &tls.Config{
		InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}, DynamicRecordSizingDisabled: true,
	})
	p := &Peer{Conn: conn, Key: d.key, Done: done, params: d.params}
	if err := p.Login(d.params); err != nil {
		ours.Close()
		return nil, fmt.Errorf("log in: %w", err)
	}
	return p, nil
}

// sockets returns both ends of a new connection.
func (f *Front) sockets() (ours, theirs net.Conn, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ours, err = net.Dial("tcp", f.listener.Addr().String()); err != nil {
		return nil, nil, err
	}
	if theirs, err = f.listener.Accept(); err != nil {
		ours.Close()
		return nil, nil, err
	}
	if f.Sockets != nil {
		f.Sockets(ours.(*net.TCPConn))
		f.Sockets(theirs.(*net.TCPConn))
	}
	return ours, theirs, nil
}

// serve is what the front door does for one connection.
func (f *Front) serve(raw net.Conn, c relay.Conn) error {
	l := f.form(raw, f.tls)
	defer l.Close()
	ctx, cancel := context.WithTimeout(f.ctx, handshakeLimit)
	defer cancel()
	var err error
	relay.Apart(func() { err = l.Handshake(ctx) })
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	c.Link = l
	return f.server.ServeConn(f.ctx, c)
}

// Reset ends a Peer of a Front without a goodbye: what is on its way is lost.
func (p *Peer) Reset() error {
	t, ok := p.Conn.(*tls.Conn)
	if !ok {
		return errors.New("not a connection over TCP")
	}
	raw, ok := t.NetConn().(*net.TCPConn)
	if !ok {
		return errors.New("not a connection over TCP")
	}
	if err := raw.SetLinger(0); err != nil {
		return err
	}
	return raw.Close()
}

func selfSigned() (tls.Certificate, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, err
}
