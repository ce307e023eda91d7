package admit

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/detour-relay/detour/internal/key"
)

// However many keys strangers make up, what is remembered of them is bounded.
func TestFloodOfKeys(t *testing.T) {
	n := 50_000
	if os.Getenv("DETOUR_ATTACK") != "" {
		n = 1_000_000
	}
	g := NewGate(Options{Tenants: one(Keys()), Lobby: true, Logger: slog.New(slog.DiscardHandler)})
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range n {
		var k key.Public
		k[0] = 1
		binary.BigEndian.PutUint64(k[8:], uint64(i))
		addr := [16]byte{0x20, 1, 0xd, 0xb8}
		binary.BigEndian.PutUint32(addr[4:], uint32(i/3)) // three keys from each /64
		if d := g.Admit(t.Context(), k, netip.AddrFrom16(addr)); d.Admitted {
			t.Fatal("a stranger is admitted")
		}
	}
	grown := heap() - before
	t.Logf("%d keys: %d are remembered, %d KiB", n, g.pending.len(), grown>>10)
	if g.pending.len() != maxPending || len(g.minute.keys) > maxLines+maxUnsaid {
		t.Errorf("%d pending, %d in this minute", g.pending.len(), len(g.minute.keys))
	}
	if grown > 4<<20 {
		t.Errorf("they take %d KiB", grown>>10)
	}
	runtime.KeepAlive(g)
}
