package relay

import (
	"testing"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// broken is a Link that panics where it is told to.
type broken struct {
	sink
	in string
}

func (b *broken) Flush() (bool, error) {
	if b.in == "flush" {
		panic("a bug in flush")
	}
	return true, nil
}

// TestPanicWhileSending lets sending to one peer fail by a bug: its sender goes
// on, and the peer can be removed without anyone waiting for its flusher.
func TestPanicWhileSending(t *testing.T) {
	s := New(Options{Key: key.NewPrivate()})
	join := func(l Link) *peer {
		p := s.newPeer(Conn{Link: l}, key.NewPrivate().Public(), derp.ClientParams{}, false)
		s.admitPeer(p)
		return p
	}
	bad := &broken{}
	src, dst := join(new(sink)), join(bad)
	bad.in = "flush"
	batch := derp.AppendSendPacket(nil, dst.key, []byte("x"))
	if used, _, err := src.turn(batch); used != len(batch) || err != nil {
		t.Errorf("the sender used %d bytes, %v", used, err)
	}
	if err := dst.why(nil); err == nil {
		t.Error("the peer was not ended")
	}
	s.remove(dst)
	s.remove(src)
	if st := s.Stats(); st.Connections != 0 || st.Peers != 0 {
		t.Errorf("stats %+v", st)
	}
}
