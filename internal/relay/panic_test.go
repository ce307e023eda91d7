package relay

import (
	"testing"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// broken is a Link that panics where it is told to.
type broken struct {
	sink
	in        string
	meanwhile func() // if set, called while it flushes
}

func (b *broken) Seal(frames []byte) error {
	if b.in == "seal" {
		panic("a bug in seal")
	}
	return b.sink.Seal(frames)
}

func (b *broken) Flush() (bool, error) {
	if b.in == "flush" {
		panic("a bug in flush")
	}
	if b.meanwhile != nil {
		b.meanwhile()
	}
	return true, nil
}

// TestPanicWhileSending lets sending to one peer fail by a bug: its sender goes
// on, the peer can be removed without anyone waiting for its flusher, and the
// packet is accounted for.
func TestPanicWhileSending(t *testing.T) {
	for _, in := range []string{"flush", "seal"} {
		s := New(Options{Key: key.NewPrivate()})
		join := func(l Link) *peer {
			p := s.newPeer(Conn{Link: l}, key.NewPrivate().Public(), derp.ClientParams{}, false)
			s.admitPeer(p)
			return p
		}
		bad := &broken{}
		src, dst := join(new(sink)), join(bad)
		bad.in = in
		batch := derp.AppendSendPacket(nil, dst.key, []byte("x"))
		if used, _, err := src.turn(batch); used != len(batch) || err != nil {
			t.Errorf("%s: the sender used %d bytes, %v", in, used, err)
		}
		if err := dst.why(nil); err == nil {
			t.Errorf("%s: the peer was not ended", in)
		}
		s.remove(dst)
		s.remove(src)
		st := s.Stats()
		lost := st.Dropped["gone_disconnected"]["other"].Packets + st.Dropped["write_error"]["other"].Packets
		if st.Connections != 0 || st.Peers != 0 || lost != 1 || st.Sent["other"].Packets != 0 {
			t.Errorf("%s: stats %+v", in, st)
		}
	}
}
