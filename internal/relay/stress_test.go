package relay_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/relaytest"
)

func open(o ...func(*relay.Options)) *relay.Server {
	options := relay.Options{Key: key.NewPrivate(), Admit: relaytest.Open{}, WriteTimeout: 2 * time.Second}
	for _, f := range o {
		f(&options)
	}
	return relay.New(options)
}

// storm is one run of TestStress.
type storm struct {
	t     *testing.T
	front *relaytest.Front
	keys  []key.Private // few, so that clients share them
	until time.Time

	conns    atomic.Uint64 // numbers connections; the source of a packet
	owners   sync.Map      // connection number to key.Public
	sent, ok atomic.Uint64 // packets that clients wrote, and that came
}

const numbers = 8 + 8 + key.Size // connection, sequence, destination: the head of each payload

// payload makes a packet, which carries all that is needed to check it: its
// length and content follow from its numbers.
func payload(b []byte, conn, seq uint64, to key.Public, disco bool) []byte {
	if disco {
		b = append(b, relaytest.Disco("")...)
	}
	b = binary.BigEndian.AppendUint64(b, conn)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = append(b, to[:]...)
	for i := range (conn*31 + seq*17) % 2000 {
		b = append(b, byte(i*seq))
	}
	return b
}

// receive checks every packet of one connection until it ends. Of each source
// and class the numbers only grow.
func (s *storm) receive(p *relaytest.Peer, stall time.Time) {
	type flow struct {
		conn  uint64
		disco bool
	}
	last := make(map[flow]uint64)
	disco := len(relaytest.Disco(""))
	for {
		if !stall.IsZero() {
			<-time.After(time.Until(stall))
			stall = time.Time{}
		}
		typ, body, err := p.ReadFrame()
		if err != nil {
			return
		}
		if typ != derp.RecvPacket {
			continue
		}
		from, packet := derp.ParsePacket(body)
		f := flow{disco: derp.IsDisco(packet)}
		head := packet
		if f.disco {
			head = packet[disco:]
		}
		if len(head) < numbers {
			s.t.Errorf("a packet of %d bytes", len(packet))
			return
		}
		f.conn = binary.BigEndian.Uint64(head)
		seq := binary.BigEndian.Uint64(head[8:])
		owner, _ := s.owners.Load(f.conn)
		switch {
		case !bytes.Equal(packet, payload(nil, f.conn, seq, p.Key.Public(), f.disco)):
			s.t.Errorf("packet %d of connection %d: content or destination differ", seq, f.conn)
		case owner != from:
			s.t.Errorf("packet %d of connection %d came from another source", seq, f.conn)
		case seq <= last[f]:
			s.t.Errorf("packet %d of connection %d (disco %v) came after %d", seq, f.conn, f.disco, last[f])
		}
		last[f] = seq
		s.ok.Add(1)
	}
}

// live is one connection: it sends to random keys, then leaves in some way.
func (s *storm) live(random *rand.Rand) {
	p, err := s.front.Connect(relaytest.As(s.keys[random.IntN(len(s.keys))]))
	if err != nil {
		s.t.Errorf("connect: %v", err)
		return
	}
	conn := s.conns.Add(1)
	s.owners.Store(conn, p.Key.Public())
	var reader sync.WaitGroup
	var stall time.Time
	if random.IntN(4) == 0 {
		stall = time.Now().Add(time.Duration(random.IntN(300)) * time.Millisecond)
	}
	reader.Go(func() { s.receive(p, stall) })
	var frames []byte
	seq := uint64(0)
	for range random.IntN(400) {
		if time.Now().After(s.until) {
			break
		}
		to := s.keys[random.IntN(len(s.keys))].Public()
		frames = frames[:0]
		n := random.IntN(40)
		for range n {
			seq++
			if random.IntN(10) == 0 {
				to = s.keys[random.IntN(len(s.keys))].Public()
			}
			frames = derp.AppendSendPacket(frames, to, payload(nil, conn, seq, to, random.IntN(5) == 0))
		}
		if p.SetWriteDeadline(time.Now().Add(20*time.Second)) != nil {
			break
		}
		if _, err := p.Write(frames); err != nil {
			break // the relay cuts off who stalls
		}
		s.sent.Add(uint64(n))
	}
	if random.IntN(3) == 0 {
		err = p.Reset()
	} else {
		err = p.Close()
	}
	if err != nil && stall.IsZero() {
		s.t.Logf("close: %v", err)
	}
	reader.Wait()
	<-p.Done
}

// TestStress lets 30 clients that share 20 keys come and go, stall and reset. It
// runs for 2 s for each form, or as long as DETOUR_STRESS says ("10m").
func TestStress(t *testing.T) {
	length := 2 * time.Second
	if v := os.Getenv("DETOUR_STRESS"); v != "" {
		var err error
		if length, err = time.ParseDuration(v); err != nil {
			t.Fatalf("DETOUR_STRESS: %v", err)
		}
	}
	relaytest.EachForm(t, func(t *testing.T, form relaytest.Form) { stress(t, form, length, nil) })
	// With hardly any room in the kernel every write is a partial one.
	t.Run("tiny socket buffers", func(t *testing.T) {
		stress(t, relaytest.DefaultForm(), length, func(c *net.TCPConn) {
			if err := errors.Join(c.SetReadBuffer(4<<10), c.SetWriteBuffer(4<<10)); err != nil {
				t.Error(err)
			}
		})
	})
}

func stress(t *testing.T, form relaytest.Form, length time.Duration, sockets func(*net.TCPConn)) {
	server := open()
	s := &storm{t: t, front: relaytest.Listen(t, server, form), until: time.Now().Add(length)}
	s.front.Sockets = sockets
	for range 20 {
		s.keys = append(s.keys, key.NewPrivate())
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var clients sync.WaitGroup
	for i := range 30 {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		clients.Go(func() {
			for time.Now().Before(s.until) && !t.Failed() {
				s.live(random)
			}
		})
	}
	clients.Wait()
	st := server.Stats()
	received, out, dropped := totals(st)
	t.Logf("%d connections; clients sent %d packets, %d came in, %d went out, %d came; dropped %+v",
		s.conns.Load(), s.sent.Load(), received, out, s.ok.Load(), st.Dropped)
	if received != out+dropped {
		t.Errorf("%d packets came in, %d went out and %d were dropped: %d are not accounted for",
			received, out, dropped, int64(received-out-dropped))
	}
	if s.ok.Load() > out || s.ok.Load() == 0 || st.Connections != 0 || st.Peers != 0 {
		t.Errorf("%d packets arrived of %d; %d connections and %d keys are left", s.ok.Load(), out, st.Connections, st.Peers)
	}
}

func totals(st relay.Stats) (received, sent, dropped uint64) {
	for class, r := range st.Received {
		received += r.Packets
		sent += st.Sent[class].Packets
		for _, d := range st.Dropped {
			dropped += d[class].Packets
		}
	}
	return received, sent, dropped
}

// slowReaderBound is the memory of one peer that does not read, in bytes: each
// queue twice its limit (data 256 KB, disco 128, control 64, news 64), and one
// taken batch of the same, sealed, in a buffer that append may have doubled.
const slowReaderBound = 2*(256+128+64+64)<<10 + 2*(256+128+64+64)<<10

// TestSlowReaderIsBounded lets 20 senders send to a peer that reads nothing, and
// an unrelated pair talk meanwhile.
func TestSlowReaderIsBounded(t *testing.T) {
	relaytest.EachForm(t, func(t *testing.T, form relaytest.Form) {
		server := open(func(o *relay.Options) { o.WriteTimeout = 0 })
		front := relaytest.Listen(t, server, form)
		connect := func() *relaytest.Peer {
			p, err := front.Connect()
			if err != nil {
				t.Fatal(err)
			}
			p.T = t
			t.Cleanup(func() { p.Reset(); <-p.Done })
			return p
		}
		slow, a, b := connect(), connect(), connect()
		var sources []*relaytest.Peer
		for range 20 {
			sources = append(sources, connect())
		}
		before := heap()
		frames := []byte(nil)
		for range 16 {
			frames = derp.AppendSendPacket(frames, slow.Key.Public(), make([]byte, 1400))
		}
		const batches = 60
		var senders sync.WaitGroup
		for _, p := range sources {
			senders.Go(func() {
				for range batches {
					if _, err := p.Write(frames); err != nil {
						t.Errorf("write: %v", err)
						return
					}
				}
			})
		}
		for i := range 500 {
			text := fmt.Sprint("unrelated ", i)
			a.Send(b, text)
			b.WantPacket(a, text)
		}
		senders.Wait()
		for _, p := range sources {
			p.Sync()
		}
		grown := int64(heap()) - int64(before)
		t.Logf("memory grew by %d KB of at most %d; %+v", grown>>10, slowReaderBound>>10, server.Stats().Dropped["queue_head"])
		if grown > slowReaderBound {
			t.Errorf("memory grew by %d bytes, the bound is %d", grown, slowReaderBound)
		}
		if drops := server.Stats().Dropped["queue_head"]["other"].Packets; drops == 0 {
			t.Error("nothing was dropped: this was no slow reader")
		}
	})
}

// heap returns the bytes in use, pools emptied.
func heap() uint64 {
	for range 3 { // a pool survives one collection
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestMutualWriteErrors: two peers send to each other as fast as they can, read
// nothing, and are reset together. Both connections end.
func TestMutualWriteErrors(t *testing.T) {
	relaytest.EachForm(t, func(t *testing.T, form relaytest.Form) {
		server := open()
		front := relaytest.Listen(t, server, form)
		for range 5 {
			var pair [2]*relaytest.Peer
			for i := range pair {
				var err error
				if pair[i], err = front.Connect(); err != nil {
					t.Fatal(err)
				}
			}
			var both sync.WaitGroup
			for i, p := range pair {
				both.Go(func() {
					frame := derp.AppendSendPacket(nil, pair[1-i].Key.Public(), make([]byte, 60000))
					for range 100 {
						if _, err := p.Write(frame); err != nil {
							break
						}
					}
					p.Reset()
				})
			}
			both.Wait()
			for _, p := range pair {
				select {
				case <-p.Done:
				case <-time.After(20 * time.Second):
					t.Fatal("a connection lingers")
				}
			}
		}
		if received, sent, dropped := totals(server.Stats()); received != sent+dropped {
			t.Errorf("%d packets came in, %d went out, %d were dropped", received, sent, dropped)
		}
	})
}

// TestWaves compares the heap after a second wave of connections to that after
// the first. A wave has 500 connections, or as many as DETOUR_WAVES says.
func TestWaves(t *testing.T) {
	size := 500
	if v := os.Getenv("DETOUR_WAVES"); v != "" {
		var err error
		if size, err = strconv.Atoi(v); err != nil {
			t.Fatalf("DETOUR_WAVES: %v", err)
		}
	} else if testing.Short() {
		t.Skip("takes a few seconds")
	}
	relaytest.EachForm(t, func(t *testing.T, form relaytest.Form) {
		server := open()
		front := relaytest.Listen(t, server, form)
		after := [2]uint64{}
		for i := range after {
			wave(t, front, size)
			after[i] = heap()
		}
		t.Logf("heap after each wave of %d: %d, %d KB", size, after[0]>>10, after[1]>>10)
		// 50 bytes for each connection, beyond what the heap varies by itself.
		if grown := int(after[1]) - int(after[0]); grown > 64<<10+50*size || float64(after[1]) > 1.1*float64(after[0]) {
			t.Errorf("%d bytes after the first wave, %d after the second", after[0], after[1])
		}
	})
}

// wave connects size times, at most 100 at once. Each peer sends to itself and the
// one before it, and half of them are reset.
func wave(t *testing.T, front *relaytest.Front, size int) {
	const most = 100
	for left := size; left > 0; left -= most {
		var all sync.WaitGroup
		var peers []*relaytest.Peer
		for i := range min(left, most) {
			p, err := front.Connect()
			if err != nil {
				t.Fatal(err)
			}
			peers = append(peers, p)
			to := peers[max(0, i-1)].Key.Public()
			frames := derp.AppendSendPacket(nil, to, make([]byte, 1000))
			frames = derp.AppendSendPacket(frames, p.Key.Public(), make([]byte, 1000))
			if _, err := p.Write(frames); err != nil {
				t.Fatal(err)
			}
			if typ, _, err := p.ReadFrame(); err != nil || typ != derp.RecvPacket {
				t.Fatalf("got %v, %v", typ, err)
			}
		}
		for i, p := range peers {
			all.Go(func() {
				if i%2 == 0 {
					p.Reset()
				} else {
					p.Close()
				}
				<-p.Done
			})
		}
		all.Wait()
	}
}
