package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/tailcfg"
	tskey "tailscale.com/types/key"
	"tailscale.com/types/logger"

	ourderp "github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// relay is what the frames are tried on.
type relay struct {
	region *tailcfg.DERPRegion
	conns  func() int // logged in now
	homes  func() int // of those, that call it home
}

func detourRelay(t testing.TB) relay {
	d := startDetour(t, nil)
	return relay{
		d.region(false),
		func() int { return int(d.Stats().Relay.Connections) },
		func() int { return int(d.Stats().Relay.HomeConnections) },
	}
}

func derperRelay(t testing.TB) relay {
	s, region := startDerper(t)
	return relay{
		region,
		func() int { return derperGauge(t, s, "gauge_current_connections") },
		func() int { return derperGauge(t, s, "gauge_current_home_connections") },
	}
}

// TestFrames tries every frame with both clients on both relays. Tailscale's
// client on derper's server shows that what is expected is the protocol, and not
// what Detour happens to do.
func TestFrames(t *testing.T) {
	for _, r := range []struct {
		name  string
		start func(testing.TB) relay
	}{{"detour", detourRelay}, {"derper", derperRelay}} {
		for _, c := range []struct {
			name string
			dial dialer
		}{{"official", dialOfficial}, {"own", dialOwn}} {
			for _, b := range behaviours {
				t.Run(fmt.Sprintf("%s on %s/%s", c.name, r.name, b.name), func(t *testing.T) {
					b.try(&scene{t, r.start(t), c.dial})
				})
			}
		}
	}
}

var behaviours = []struct {
	name string
	try  func(*scene)
}{
	{"packets", (*scene).packets},
	{"ping", (*scene).pings},
	{"home", (*scene).home},
	{"not here", (*scene).notHere},
	{"disconnected", (*scene).disconnected},
	{"duplicates", (*scene).duplicates},
	{"watch", (*scene).watch},
	{"forward", (*scene).forward},
	{"close peer", (*scene).closePeer},
	{"without the mesh key", (*scene).withoutMesh},
}

// scene is one relay and one kind of client.
type scene struct {
	*testing.T
	relay relay
	dial  dialer
}

func (s *scene) peer(id identity) *peer {
	s.Helper()
	return connect(s.T, s.dial, s.relay.region, id)
}

// eventually waits for what a relay does on its own time.
func (s *scene) eventually(what string, is func() bool) {
	s.Helper()
	end := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-end:
			s.Fatalf("never: %s", what)
		}
	}
}

func (s *scene) packets() {
	a, b := s.peer(identity{}), s.peer(identity{})
	for _, n := range []int{1, 0, 1200, ourderp.MaxPacket} {
		packet := strings.Repeat("p", n)
		a.do(a.send(b.key, []byte(packet)))
		b.wantPacket(a.key, packet)
		b.do(b.send(a.key, []byte(packet)))
		a.wantPacket(b.key, packet)
	}
	a.do(a.send(a.key, []byte("to myself")))
	a.wantPacket(a.key, "to myself")
	a.do(a.send(b.key, disco("x")))
	b.wantPacket(a.key, string(disco("x")))
}

func (s *scene) pings() {
	a := s.peer(identity{})
	for range 3 {
		a.sync()
	}
}

func (s *scene) home() {
	a := s.peer(identity{})
	a.sync()
	if n := s.relay.homes(); n != 0 {
		s.Errorf("%d homes before anybody said so", n)
	}
	for _, home := range []bool{true, false, true} {
		a.do(a.home(home))
		a.sync()
		if n, want := s.relay.homes(), map[bool]int{true: 1}[home]; n != want {
			s.Errorf("%d homes, want %d", n, want)
		}
	}
	a.close()
	s.eventually("no homes", func() bool { return s.relay.homes() == 0 })
}

func (s *scene) notHere() {
	a, nobody := s.peer(identity{}), key.NewPrivate().Public()
	a.do(a.send(nobody, []byte("no disco packet")))
	a.sync()
	a.do(a.send(nobody, disco("x")))
	a.wantGone(nobody, ourderp.GoneNotHere)
}

func (s *scene) disconnected() {
	a, b, c := s.peer(identity{}), s.peer(identity{}), s.peer(identity{})
	a.do(a.send(b.key, []byte("x")))
	b.wantPacket(a.key, "x")
	c.do(c.send(a.key, []byte("y"))) // sending to it alone makes nobody care
	a.wantPacket(c.key, "y")
	a.close()
	b.wantGone(a.key, ourderp.GoneDisconnected)
	c.sync()
}

func (s *scene) duplicates() {
	twice := key.NewPrivate()
	sender, first := s.peer(identity{}), s.peer(identity{key: twice})
	first.sync()
	second := s.peer(identity{key: twice})
	second.sync()
	packet := func(to *peer, text string) {
		s.Helper()
		sender.do(sender.send(first.key, []byte(text)))
		to.wantPacket(sender.key, text)
	}
	packet(second, "to the newest")
	first.sync()
	packet(first, "to the last to speak")
	first.do(first.send(sender.key, []byte("both may send")))
	sender.wantPacket(first.key, "both may send")
	first.close()
	s.eventually("one of two has left", func() bool { return s.relay.conns() == 2 })
	sender.sync() // and was told nothing
	packet(second, "to the one that is left")
	second.close()
	sender.wantGone(first.key, ourderp.GoneDisconnected)
}

func (s *scene) watch() {
	here := s.peer(identity{})
	w := s.peer(identity{mesh: meshHex, watch: true})
	present := func(p *peer, flags ourderp.PresentFlags) event {
		return event{frame: ourderp.PeerPresent, peer: p.key, addr: p.local(), flags: flags}
	}
	var got []event
	for range 2 {
		e, _ := w.event()
		got = append(got, e)
	}
	for _, want := range []event{present(here, ourderp.PresentRegular), present(w, ourderp.PresentMesh)} {
		if !slices.Contains(got, want) {
			s.Errorf("who is here already: %v, want %v among them", got, want)
		}
	}
	for _, c := range []struct {
		id    identity
		flags ourderp.PresentFlags
	}{{identity{}, ourderp.PresentRegular}, {identity{prober: true}, ourderp.PresentProber}, {identity{notIdeal: true}, ourderp.PresentNotIdeal}} {
		p := s.peer(c.id)
		w.want(present(p, c.flags))
		p.close()
		w.wantGone(p.key, ourderp.GoneDisconnected)
	}
}

func (s *scene) forward() {
	sibling, b := s.peer(identity{mesh: meshHex}), s.peer(identity{})
	elsewhere, nobody := key.NewPrivate().Public(), key.NewPrivate().Public()
	for _, n := range []int{0, 5, ourderp.MaxPacket} {
		sibling.do(sibling.forward(elsewhere, b.key, bytes.Repeat([]byte("f"), n)))
		b.wantPacket(elsewhere, strings.Repeat("f", n))
	}
	sibling.do(sibling.forward(elsewhere, nobody, disco("x")))
	sibling.wantGone(nobody, ourderp.GoneNotHere)
}

func (s *scene) closePeer() {
	sibling, b, c := s.peer(identity{mesh: meshHex}), s.peer(identity{}), s.peer(identity{})
	sibling.do(sibling.closePeer(b.key))
	b.wantEnd()
	sibling.do(sibling.closePeer(b.key)) // nobody has it any more
	sibling.sync()
	c.sync()
}

func (s *scene) withoutMesh() {
	bystander := s.peer(identity{})
	wrong := strings.Repeat("ef", 32)
	for _, id := range []identity{{}, {mesh: wrong}} {
		id.watch = true
		s.peer(id).wantEnd()
		id.watch = false
		p := s.peer(id)
		p.do(p.forward(key.NewPrivate().Public(), bystander.key, []byte("x")))
		p.wantEnd()
		p = s.peer(id)
		p.do(p.closePeer(bystander.key))
		p.wantEnd()
	}
	bystander.sync()
}

// TestOfficialReadsOurFrames gives Tailscale's client every frame that a relay
// can send, as we encode it, those among them that no relay sends today.
func TestOfficialReadsOurFrames(t *testing.T) {
	server := key.NewPrivate()
	peer := key.Public{1, 2, 3}
	presence := ourderp.Presence{Key: peer, Flags: ourderp.PresentNotIdeal}
	ping := ourderp.PingData([]byte("12345678"))
	frames := ourderp.AppendHealth(nil, "out of sorts")
	frames = ourderp.AppendHealth(frames, "")
	frames = ourderp.AppendRestarting(frames, 2500*time.Millisecond, 10*time.Second)
	frames = ourderp.AppendKeepAlive(frames)
	frames = ourderp.AppendFrame(frames, 0x99, []byte("from the future"))
	frames = ourderp.AppendPing(frames, ping)
	frames = ourderp.AppendPong(frames, ping)
	frames = ourderp.AppendPeerGone(frames, peer, ourderp.GoneNotHere)
	frames = ourderp.AppendPeerPresent(frames, presence)
	frames = ourderp.AppendRecvPacket(frames, peer, []byte("packet"))
	c := scriptOfficial(t, server, frames)
	for _, want := range []derp.ReceivedMessage{
		derp.ServerInfoMessage{TokenBucketBytesPerSecond: 1000, TokenBucketBytesBurst: 2000},
		derp.HealthMessage{Problem: "out of sorts"},
		derp.HealthMessage{},
		derp.ServerRestartingMessage{ReconnectIn: 2500 * time.Millisecond, TryFor: 10 * time.Second},
		derp.KeepAliveMessage{},
		derp.PingMessage(ping),
		derp.PongMessage(ping),
		derp.PeerGoneMessage{Peer: theirPublic(peer), Reason: derp.PeerGoneReasonNotHere},
		derp.PeerPresentMessage{Key: theirPublic(peer), IPPort: presence.Addr, Flags: derp.PeerPresentNotIdeal},
		derp.ReceivedPacket{Source: theirPublic(peer), Data: []byte("packet")},
	} {
		got, err := c.Recv()
		if p, ok := got.(derp.PeerPresentMessage); ok && p.IPPort.Addr().IsUnspecified() {
			p.IPPort = presence.Addr // how it reads an unknown address is its own business
			got = p
		}
		if err != nil || fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
			t.Errorf("got %#v, %v; want %#v", got, err, want)
		}
	}
	if c.ServerPublicKey() != theirPublic(server.Public()) {
		t.Errorf("the relay is %v to the client", c.ServerPublicKey())
	}
}

// scriptOfficial logs Tailscale's client in to a pipe whose other end then sends
// frames.
func scriptOfficial(t *testing.T, server key.Private, frames []byte) *derp.Client {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- serveScript(theirs, server, frames) }()
	t.Cleanup(func() {
		ours.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	c, err := derp.NewClient(tskey.NewNode(), ours, bufio.NewReadWriter(bufio.NewReader(ours), bufio.NewWriter(ours)), logger.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveScript is a relay's side of a login by our codec, and then frames.
func serveScript(conn net.Conn, server key.Private, frames []byte) error {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write(ourderp.AppendServerKey(nil, server.Public())); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	in := bufio.NewReader(conn)
	header, err := in.Peek(ourderp.HeaderSize)
	if err != nil {
		return fmt.Errorf("read the login: %w", err)
	}
	_, n, _ := ourderp.ParseHeader(header)
	frame := make([]byte, ourderp.HeaderSize+int(n))
	if _, err := io.ReadFull(in, frame); err != nil {
		return fmt.Errorf("read the login: %w", err)
	}
	k, sealed, err := ourderp.ParseClientInfo(frame[ourderp.HeaderSize:])
	if err != nil {
		return err
	}
	shared, err := server.Shared(k)
	if err != nil {
		return err
	}
	if said, err := ourderp.OpenClientInfo(shared, sealed); err != nil || said.Version != ourderp.ProtocolVersion {
		return fmt.Errorf("client says %+v, %w", said, err)
	}
	info := ourderp.ServerParams{Version: ourderp.ProtocolVersion, TokenBucketBytesPerSecond: 1000, TokenBucketBytesBurst: 2000}
	answer, err := ourderp.AppendServerInfo(nil, shared, info)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(answer, frames...))
	return err
}
