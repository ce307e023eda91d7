package interop

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	tskey "tailscale.com/types/key"
	"tailscale.com/types/logger"

	"github.com/detour-relay/detour/internal/client"
	ourderp "github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// speaker is a DERP client, Tailscale's or ours.
type speaker interface {
	send(to key.Public, packet []byte) error
	forward(from, to key.Public, packet []byte) error
	ping(ourderp.PingData) error
	home(bool) error
	closePeer(key.Public) error
	next() (event, error) // waits for it
	local() netip.AddrPort
	close()
}

// event is something that a relay says, whichever client has heard it.
type event struct {
	frame  ourderp.FrameType
	peer   key.Public
	data   string // packet or ping
	reason ourderp.GoneReason
	addr   netip.AddrPort
	flags  ourderp.PresentFlags
}

func (e event) String() string {
	s := e.frame.String()
	if !e.peer.IsZero() {
		s += " " + e.peer.Short()
	}
	if e.frame == ourderp.PeerGone {
		s += " " + e.reason.String()
	}
	if e.frame == ourderp.PeerPresent {
		s += fmt.Sprintf(" %v flags %02x", e.addr, byte(e.flags))
	}
	if e.data != "" {
		s += fmt.Sprintf(" %d bytes %.20q", len(e.data), e.data)
	}
	return s
}

// identity is whom a speaker logs in as. The zero value is a fresh key.
type identity struct {
	key      key.Private
	mesh     string
	watch    bool // ask for presence at once
	prober   bool
	notIdeal bool // the first relay of the region does not answer
}

// dialer connects one kind of speaker to a region.
type dialer func(testing.TB, *tailcfg.DERPRegion, identity) speaker

// deadNode is a relay that nobody can connect to.
func deadNode(t testing.TB) *tailcfg.DERPNode {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return &tailcfg.DERPNode{
		Name: "dead", HostName: ours, IPv4: "127.0.0.1", IPv6: "none",
		DERPPort: l.Addr().(*net.TCPAddr).Port, STUNPort: -1,
	}
}

// official is Tailscale's client.
type official struct {
	c     *derphttp.Client
	ended error // the relay hung up at the login
}

func dialOfficial(t testing.TB, region *tailcfg.DERPRegion, id identity) speaker {
	t.Helper()
	if id.notIdeal {
		r := *region
		r.Nodes = append([]*tailcfg.DERPNode{deadNode(t)}, region.Nodes...)
		region = &r
	}
	c := newOfficial(t, region, id)
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, err := c.Recv()
	if _, ok := m.(derp.ServerInfoMessage); !ok && err == nil {
		t.Fatalf("the relay begins with %T", m)
	}
	return official{c, err}
}

// newOfficial makes a client that is not connected yet.
func newOfficial(t testing.TB, region *tailcfg.DERPRegion, id identity) *derphttp.Client {
	t.Helper()
	c := derphttp.NewRegionClient(theirPrivate(t, id.key), logger.Discard, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
	c.IsProber, c.WatchConnectionChanges = id.prober, id.watch
	if id.mesh != "" {
		k, err := tskey.ParseDERPMesh(id.mesh)
		if err != nil {
			t.Fatal(err)
		}
		c.MeshKey = k
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (o official) send(to key.Public, packet []byte) error { return o.c.Send(theirPublic(to), packet) }

func (o official) forward(from, to key.Public, packet []byte) error {
	return o.c.ForwardPacket(theirPublic(from), theirPublic(to), packet)
}

func (o official) ping(d ourderp.PingData) error { return o.c.SendPing(d) }

func (o official) home(home bool) error {
	o.c.NotePreferred(home)
	return nil
}

func (o official) closePeer(k key.Public) error { return o.c.ClosePeer(theirPublic(k)) }

func (o official) local() netip.AddrPort {
	a, _ := o.c.LocalAddr()
	return a
}

func (o official) close() { o.c.Close() }

func (o official) next() (event, error) {
	for o.ended == nil { // else Recv would connect again
		m, err := o.c.Recv()
		if err != nil {
			return event{}, err
		}
		switch m := m.(type) {
		case derp.ReceivedPacket:
			return event{frame: ourderp.RecvPacket, peer: ourPublic(m.Source), data: string(m.Data)}, nil
		case derp.PeerGoneMessage:
			return event{frame: ourderp.PeerGone, peer: ourPublic(m.Peer), reason: ourderp.GoneReason(m.Reason)}, nil
		case derp.PeerPresentMessage:
			return event{frame: ourderp.PeerPresent, peer: ourPublic(m.Key), addr: m.IPPort, flags: ourderp.PresentFlags(m.Flags)}, nil
		case derp.PongMessage:
			return event{frame: ourderp.Pong, data: string(m[:])}, nil
		case derp.KeepAliveMessage:
		default:
			return event{}, fmt.Errorf("unexpected %T", m)
		}
	}
	return event{}, o.ended
}

// own is our client.
type own struct{ c *client.Client }

func dialOwn(t testing.TB, region *tailcfg.DERPRegion, id identity) speaker {
	t.Helper()
	o := optionsFor(region.Nodes[0])
	o.Key, o.IsProber = id.key, id.prober
	if id.mesh != "" {
		o.MeshKey = mustMesh(t, id.mesh)
	}
	if id.notIdeal {
		o.IdealNode = "dead"
	}
	c := mustDial(t, o)
	if id.watch {
		if err := c.WatchConns(); err != nil {
			t.Fatal(err)
		}
	}
	return own{c}
}

// optionsFor reads a node of a DERP map for our client.
func optionsFor(n *tailcfg.DERPNode) client.Options {
	return client.Options{
		Host: n.HostName, Port: uint16(n.DERPPort), Addr: net.JoinHostPort(n.IPv4, fmt.Sprint(n.DERPPort)),
		CertName: n.CertName, Insecure: n.InsecureForTests,
	}
}

func mustDial(t testing.TB, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (o own) send(to key.Public, packet []byte) error { return o.c.Send(to, packet) }
func (o own) forward(from, to key.Public, packet []byte) error {
	return o.c.Forward(from, to, packet)
}
func (o own) ping(d ourderp.PingData) error { return o.c.SendRaw(ourderp.AppendPing(nil, d)) }
func (o own) home(home bool) error          { return o.c.NotePreferred(home) }
func (o own) closePeer(k key.Public) error  { return o.c.ClosePeer(k) }
func (o own) local() netip.AddrPort         { return netip.MustParseAddrPort(o.c.LocalAddr().String()) }
func (o own) close()                        { o.c.Close() }

func (o own) next() (event, error) {
	for {
		m, err := o.c.Recv()
		if err != nil {
			return event{}, err
		}
		switch m := m.(type) {
		case client.Packet:
			return event{frame: ourderp.RecvPacket, peer: m.From, data: string(m.Data)}, nil
		case client.PeerGone:
			return event{frame: ourderp.PeerGone, peer: m.Peer, reason: m.Reason}, nil
		case client.PeerPresent:
			return event{frame: ourderp.PeerPresent, peer: m.Key, addr: m.Addr, flags: m.Flags}, nil
		case client.Pong:
			return event{frame: ourderp.Pong, data: string(m.Data[:])}, nil
		case client.KeepAlive:
		default:
			return event{}, fmt.Errorf("unexpected %T", m)
		}
	}
}

// peer is a speaker whose events wait in a channel.
type peer struct {
	speaker
	t      testing.TB
	key    key.Public
	events <-chan event // closed when the connection has ended
}

// connect logs in and starts to hear what the relay says.
func connect(t testing.TB, dial dialer, region *tailcfg.DERPRegion, id identity) *peer {
	t.Helper()
	if id.key.IsZero() {
		id.key = key.NewPrivate()
	}
	s := dial(t, region, id)
	events := make(chan event, 1000)
	go func() {
		defer close(events)
		for {
			e, err := s.next()
			if err != nil {
				t.Logf("%v: %v", id.key.Public().Short(), err)
				return
			}
			events <- e
		}
	}()
	t.Cleanup(func() {
		s.close()
		for range events { // until the goroutine has ended
		}
	})
	return &peer{s, t, id.key.Public(), events}
}

// event waits for the next one. ok is false at the end of the connection.
func (p *peer) event() (e event, ok bool) {
	p.t.Helper()
	select {
	case e, ok = <-p.events:
		return e, ok
	case <-time.After(patience):
		p.t.Fatal("nothing came")
		return event{}, false
	}
}

func (p *peer) want(want event) {
	p.t.Helper()
	if got, ok := p.event(); !ok || got != want {
		p.t.Fatalf("got %v (connected: %v), want %v", got, ok, want)
	}
}

func (p *peer) wantPacket(from key.Public, packet string) {
	p.t.Helper()
	p.want(event{frame: ourderp.RecvPacket, peer: from, data: packet})
}

func (p *peer) wantGone(k key.Public, r ourderp.GoneReason) {
	p.t.Helper()
	p.want(event{frame: ourderp.PeerGone, peer: k, reason: r})
}

func (p *peer) wantEnd() {
	p.t.Helper()
	if e, ok := p.event(); ok {
		p.t.Fatalf("got %v, want the end of the connection", e)
	}
}

// do fails the test when a speaker could not write.
func (p *peer) do(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// sync waits until the relay has handled all that p has written. Nothing else
// may come meanwhile.
func (p *peer) sync() {
	p.t.Helper()
	d := ourderp.PingData([]byte("sync-now"))
	p.do(p.ping(d))
	p.want(event{frame: ourderp.Pong, data: string(d[:])})
}

func disco(text string) []byte {
	return []byte("TS\xf0\x9f\x92\xac" + text + strings.Repeat("\x00", 62))
}

func theirPublic(k key.Public) (out tskey.NodePublic) {
	if err := out.UnmarshalText([]byte(k.String())); err != nil {
		panic(err)
	}
	return out
}

func ourPublic(k tskey.NodePublic) key.Public {
	out, err := key.ParsePublic(k.String())
	if err != nil {
		panic(err)
	}
	return out
}

// theirPrivate is k in Tailscale's type; a fresh key for zero.
func theirPrivate(t testing.TB, k key.Private) (out tskey.NodePrivate) {
	t.Helper()
	if k.IsZero() {
		return tskey.NewNode()
	}
	if err := out.UnmarshalText([]byte(k.Reveal())); err != nil {
		t.Fatal(err)
	}
	return out
}
