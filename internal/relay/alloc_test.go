package relay

import (
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// sink is a Link whose peer takes everything at once and sends nothing.
type sink struct{ frames, bytes int }

func (*sink) Fill(func([]byte) (int, bool, error)) error { return nil }
func (s *sink) Seal(b []byte) error {
	for len(b) > 0 {
		_, n, _ := derp.ParseHeader(b)
		s.frames++
		s.bytes += int(n)
		b = b[derp.HeaderSize+int(n):]
	}
	return nil
}
func (*sink) Flush() (bool, error)             { return true, nil }
func (*sink) WaitWritable(time.Duration) error { return nil }
func (*sink) Check()                           {}
func (*sink) Doom()                            {}

// TestForwardingAllocatesNothing sends batches to several peers in turn, which
// is the whole path of a packet but for the socket.
func TestForwardingAllocatesNothing(t *testing.T) {
	s := New(Options{Key: key.NewPrivate()})
	join := func() (*peer, *sink) {
		l := new(sink)
		p := s.newPeer(Conn{Link: l}, key.NewPrivate().Public(), derp.ClientParams{}, false)
		s.admitPeer(p)
		return p, l
	}
	src, _ := join()
	var batch []byte
	var sinks []*sink
	const packets, peers = 16, 4
	for range peers {
		dst, l := join()
		sinks = append(sinks, l)
		for range packets / peers {
			batch = derp.AppendSendPacket(batch, dst.key, make([]byte, 1400))
		}
	}
	var runs int
	allocs := testing.AllocsPerRun(1000, func() {
		runs++
		if used, _, err := src.turn(batch); used != len(batch) || err != nil {
			t.Fatalf("used %d of %d bytes, %v", used, len(batch), err)
		}
	})
	if allocs != 0 && !raceEnabled {
		t.Errorf("%v allocations for a batch of %d packets", allocs, packets)
	}
	for i, l := range sinks {
		if want := runs * packets / peers; l.frames != want {
			t.Errorf("peer %d got %d packets, want %d", i, l.frames, want)
		}
	}
	if got := s.Stats().Sent["other"].Packets; got != uint64(runs*packets) {
		t.Errorf("%d packets counted as sent, want %d", got, runs*packets)
	}
}
