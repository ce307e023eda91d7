// Package relaytest helps tests to talk to a relay.Server frame by frame: over
// net.Pipe, meant to be used inside testing/synctest, where its deadlines cost
// nothing; or over TLS on loopback, through the real forms of link.
package relaytest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/link"
	"github.com/detour-relay/detour/internal/relay"
)

// patience bounds every wait for a frame.
const patience = 10 * time.Minute

// Open is an Admitter that admits everybody.
type Open struct{}

// Admit says yes.
func (Open) Admit(context.Context, key.Public, netip.Addr) relay.Verdict {
	return relay.Verdict{Admitted: true}
}

// Seated does nothing.
func (Open) Seated(relay.Verdict) {}

// Peer is the client side of one connection to a relay.
type Peer struct {
	net.Conn
	T    testing.TB
	Key  key.Private
	Info derp.ServerParams // what the relay said at the login
	Done <-chan error      // ServeConn's result

	params derp.ClientParams // what Dial says at the login
}

// Option changes how Dial connects and logs in.
type Option func(*dialing)

type dialing struct {
	key    key.Private
	params derp.ClientParams
	conn   relay.Conn
}

// As logs in with a key instead of a fresh one.
func As(k key.Private) Option { return func(d *dialing) { d.key = k } }

// Saying logs in with p.
func Saying(p derp.ClientParams) Option { return func(d *dialing) { d.params = p } }

// From makes the connection come from addr.
func From(addr netip.AddrPort) Option { return func(d *dialing) { d.conn.Addr = addr } }

// LoggedIn has f told of the login, as relay.Conn has it.
func LoggedIn(f func(admitted bool)) Option { return func(d *dialing) { d.conn.LoggedIn = f } }

// NotIdeal marks the connection as one that would rather be elsewhere.
func NotIdeal() Option { return func(d *dialing) { d.conn.NotIdeal = true } }

// Raw connects to s without logging in.
func Raw(t testing.TB, s *relay.Server, options ...Option) *Peer {
	d := dialing{key: key.NewPrivate(), params: derp.ClientParams{Version: derp.ProtocolVersion, CanAckPings: true}}
	for _, o := range options {
		o(&d)
	}
	ours, theirs := net.Pipe()
	l := link.Over(theirs)
	d.conn.Link = l
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		done <- s.ServeConn(ctx, d.conn)
		l.Close()
	}()
	t.Cleanup(func() { ours.Close(); cancel(); <-ended })
	return &Peer{Conn: ours, T: t, Key: d.key, Done: done, params: d.params}
}

// Dial connects to s and logs in. The test fails when it cannot.
func Dial(t testing.TB, s *relay.Server, options ...Option) *Peer {
	t.Helper()
	p := Raw(t, s, options...)
	if err := p.Login(p.params); err != nil {
		t.Fatalf("log in: %v", err)
	}
	return p
}

// Login does what comes first on a raw connection.
func (p *Peer) Login(params derp.ClientParams) error {
	typ, body, err := p.ReadFrame()
	if err != nil {
		return err
	}
	if typ != derp.ServerKey {
		return errors.New("first frame is " + typ.String())
	}
	server, err := derp.ParseServerKey(body)
	if err != nil {
		return err
	}
	shared, err := p.Key.Shared(server)
	if err != nil {
		return err
	}
	hello, err := derp.AppendClientInfo(nil, p.Key.Public(), shared, params)
	if err != nil {
		return err
	}
	if _, err := p.Write(hello); err != nil {
		return err
	}
	if typ, body, err = p.ReadFrame(); err != nil {
		return err
	}
	if typ != derp.ServerInfo {
		return errors.New("frame after the greeting is " + typ.String())
	}
	p.Info, err = derp.OpenServerInfo(shared, body)
	return err
}

// ReadFrame reads one frame.
func (p *Peer) ReadFrame() (derp.FrameType, []byte, error) {
	if err := p.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, nil, err
	}
	var h [derp.HeaderSize]byte
	if _, err := io.ReadFull(p, h[:]); err != nil {
		return 0, nil, err
	}
	t, n, _ := derp.ParseHeader(h[:])
	body := make([]byte, n)
	_, err := io.ReadFull(p, body)
	return t, body, err
}

// Want reads the next frame, which must be a t, and returns its body.
func (p *Peer) Want(t derp.FrameType) []byte {
	p.T.Helper()
	got, body, err := p.ReadFrame()
	if err != nil {
		p.T.Fatalf("want %v: %v", t, err)
	}
	if got != t {
		p.T.Fatalf("want %v, got %v %x", t, got, body)
	}
	return body
}

// WantPacket reads the next frame, which must be this packet from that peer.
func (p *Peer) WantPacket(from *Peer, packet string) {
	p.T.Helper()
	src, got := derp.ParsePacket(p.Want(derp.RecvPacket))
	if src != from.Key.Public() || string(got) != packet {
		p.T.Fatalf("got packet %q from %v, want %q from %v", got, src.Short(), packet, from.Key.Public().Short())
	}
}

// WantGone reads the next frame, which must say that k is gone.
func (p *Peer) WantGone(k key.Public, r derp.GoneReason) {
	p.T.Helper()
	got, reason := derp.ParsePeerGone(p.Want(derp.PeerGone))
	if got != k || reason != r {
		p.T.Fatalf("gone: %v %v, want %v %v", got.Short(), reason, k.Short(), r)
	}
}

// WantNothing checks that nothing arrives for d.
func (p *Peer) WantNothing(d time.Duration) {
	p.T.Helper()
	if err := p.SetReadDeadline(time.Now().Add(d)); err != nil {
		p.T.Fatal(err)
	}
	var b [1]byte
	if n, err := p.Read(b[:]); n > 0 || !isTimeout(err) {
		p.T.Fatalf("want nothing, got %d bytes (%x), %v", n, b, err)
	}
}

// WantClosed checks that the relay hangs up before it sends anything.
func (p *Peer) WantClosed() {
	p.T.Helper()
	if t, body, err := p.ReadFrame(); err == nil || isTimeout(err) {
		p.T.Fatalf("connection is open: %v %x %v", t, body, err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Put writes frames. The test fails when the relay does not take them.
func (p *Peer) Put(frames []byte) {
	p.T.Helper()
	if _, err := p.Write(frames); err != nil {
		p.T.Fatalf("write: %v", err)
	}
}

// Send sends a packet to another peer.
func (p *Peer) Send(to *Peer, packet string) {
	p.T.Helper()
	p.Put(derp.AppendSendPacket(nil, to.Key.Public(), []byte(packet)))
}

// Sync returns when the relay has handled all that was put before: it pings and
// expects the pong as the next frame.
func (p *Peer) Sync() {
	p.T.Helper()
	d := derp.PingData{'s', 'y', 'n', 'c', 1, 2, 3, 4}
	p.Put(derp.AppendPing(nil, d))
	if got := derp.ParsePing(p.Want(derp.Pong)); got != d {
		p.T.Fatalf("pong %x, want %x", got, d)
	}
}

// Disco returns a packet that looks like a disco packet.
func Disco(text string) string {
	return "TS\xf0\x9f\x92\xac" + text + string(make([]byte, 62))
}
