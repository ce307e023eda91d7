package daemon

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/admit"
	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/link"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/relaytest"
)

// size is small in `make test` and as in the issue in `make attack`.
func size(small, whole int) int {
	if os.Getenv("DETOUR_ATTACK") != "" {
		return whole
	}
	return small
}

// held is what the process keeps in memory, in bytes.
func held() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools held at the first one is gone at the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// The largest ClientInfo there is, begun by as many as may be unfinished: most are
// hung up on, and the memory of the rest is bounded.
func TestLargeLoginsAreBounded(t *testing.T) {
	const room = 92 // 16 MiB in parts of 178 KiB
	n := size(512, 4096)
	s := relay.New(relay.Options{Key: key.NewPrivate()})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before := held()
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	ends := make(chan struct{}, n)
	begun := append(derp.AppendHeader(nil, derp.ClientInfo, derp.MaxClientInfo), make([]byte, 12<<10)...)
	for range n {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		raw, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		serving.Go(func() {
			c := link.Accept(raw, nil)
			defer c.Close()
			_ = s.ServeConn(ctx, relay.Conn{Link: c}) // why it ended is counted
			ends <- struct{}{}
		})
		if _, err := client.Write(begun[:1000]); err != nil {
			t.Fatal(err)
		}
		_, _ = client.Write(begun[1000:]) // it may be hung up on already
	}
	for range n - room {
		<-ends
	}
	grown := held() - before
	t.Logf("%d connections began a ClientInfo of %d bytes: %d were hung up on, %d KiB are held", n, derp.MaxClientInfo, n-room, grown>>10)
	if st := s.Stats(); st.LoginNoRoom != uint64(n-room) {
		t.Errorf("%d found no room, want %d", st.LoginNoRoom, n-room)
	}
	if grown > 24<<20 {
		t.Errorf("%d KiB are held", grown>>10)
	}
	cancel()
	serving.Wait()
}

// Strangers log in with a fresh key each and stay: the lobby and the list of pending
// keys keep 1024 of them, in bounded memory, and a member is served all the same.
func TestFloodOfLogins(t *testing.T) {
	n := size(1500, 50_000)
	mine := key.NewPrivate()
	gate := admit.NewGate(admit.Options{Tenants: []admit.Tenant{{Sources: []admit.Source{admit.Keys(mine.Public())}}}, Lobby: true})
	s := relay.New(relay.Options{Key: key.NewPrivate(), Admit: doorkeeper{gate}})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _ = s.Serve(ctx) }) // always nil
	defer func() { cancel(); all.Wait() }()
	before := held()
	for i := range n {
		addr := [16]byte{0x20, 1, 0xd, 0xb8}
		binary.BigEndian.PutUint32(addr[4:], uint32(i/4)) // four from each /64
		conn := login(ctx, t, &all, s, key.NewPrivate(), netip.AddrFrom16(addr))
		all.Go(func() { _, _ = io.Copy(io.Discard, conn) }) // until it is hung up on
	}
	grown := held() - before
	st := s.Stats()
	t.Logf("%d logins of strangers: %d wait, %d lost their place, %d keys are pending, %d KiB are held with the clients' ends",
		n, st.Waiting, st.LobbyEvicted, gate.Stats().Pending, grown>>10)
	if st.Waiting != relay.DefaultLobbySize || st.LobbyEvicted != uint64(n-relay.DefaultLobbySize) || len(gate.Pending()) != 1024 {
		t.Errorf("%d wait, %d were evicted, %d pending", st.Waiting, st.LobbyEvicted, len(gate.Pending()))
	}
	if grown > 64<<20 {
		t.Errorf("%d KiB are held", grown>>10)
	}
	member := login(ctx, t, &all, s, mine, netip.MustParseAddr("192.0.2.1"))
	if st := s.Stats(); st.Connections != 1 {
		t.Errorf("%d members are connected", st.Connections)
	}
	_ = member.Close() // nothing is left to say
}

// login logs in over a pipe.
func login(ctx context.Context, t *testing.T, all *sync.WaitGroup, s *relay.Server, k key.Private, from netip.Addr) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	all.Go(func() {
		l := link.Over(theirs)
		serveCtx, end := context.WithCancel(ctx)
		defer end()
		_ = s.ServeConn(serveCtx, relay.Conn{Link: l, Addr: netip.AddrPortFrom(from, 1)}) // evicted, or at the end
		_ = l.Close()
	})
	p := relaytest.Peer{Conn: ours, T: t, Key: k}
	if err := p.Login(derp.ClientParams{Version: derp.ProtocolVersion}); err != nil {
		t.Fatalf("log in: %v", err)
	}
	if err := ours.SetReadDeadline(time.Time{}); err != nil { // its timer would hold the pipe
		t.Fatal(err)
	}
	return ours
}
