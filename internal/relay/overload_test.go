package relay_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/relaytest"
)

// TestSlowReceiver fills a receiver that reads nothing: its sender's other flows
// go on, the oldest packets are lost, and it is cut off after the write timeout.
func TestSlowReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		src, stuck, other := relaytest.Dial(t, s), relaytest.Dial(t, s), relaytest.Dial(t, s)
		const n = 2000
		began := time.Now()
		for i := range n {
			src.Send(stuck, fmt.Sprintf("packet %04d", i))
		}
		src.Send(other, "not delayed")
		other.WantPacket(src, "not delayed")
		if d := time.Since(began); d > 0 {
			t.Errorf("a stuck receiver delayed its sender by %v", d)
		}
		drops := s.Stats().Dropped["queue_head"]["other"].Packets
		if drops < n-1024 || drops >= n {
			t.Errorf("%d of %d packets dropped for room", drops, n)
		}
		if err := <-stuck.Done; err == nil || !strings.Contains(err.Error(), "took no byte for 2s") {
			t.Errorf("stuck receiver ended with %v", err)
		}
		if d := time.Since(began); d < 2*time.Second || d > 3*time.Second {
			t.Errorf("cut off after %v", d)
		}
		st := s.Stats()
		total := st.Sent["other"].Packets + st.Dropped["queue_head"]["other"].Packets +
			st.Dropped["gone_disconnected"]["other"].Packets + st.Dropped["write_error"]["other"].Packets
		if total != n+1 || st.WriteTimeouts != 1 {
			t.Errorf("%d packets accounted for, %d write timeouts; want %d and 1", total, st.WriteTimeouts, n+1)
		}
		src.WantNothing(0) // not even told: only hearers of the gone peer are
	})
}

// TestDropOldest checks which packets a full queue keeps.
func TestDropOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, func(o *relay.Options) { o.WriteTimeout = 0 })
		src, slow := relaytest.Dial(t, s), relaytest.Dial(t, s)
		src.Send(slow, "taken by the flusher")
		synctest.Wait()
		const n = 700
		for i := range n {
			src.Send(slow, fmt.Sprint(i))
		}
		for range 100 {
			src.Send(slow, relaytest.Disco(""))
		}
		src.Sync()
		slow.WantPacket(src, "taken by the flusher")
		for range 64 {
			slow.WantPacket(src, relaytest.Disco(""))
		}
		for i := n - 512; i < n; i++ {
			slow.WantPacket(src, fmt.Sprint(i))
		}
		slow.WantNothing(time.Second)
		d := s.Stats().Dropped["queue_head"]
		if d["other"].Packets != n-512 || d["disco"].Packets != 100-64 {
			t.Errorf("drops %+v", d)
		}
	})
}

// TestSlowLine reads a little now and then, slower than it is sent to, but never
// stops for the whole write timeout: it must stay connected.
func TestSlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		src, slow := relaytest.Dial(t, s), relaytest.Dial(t, s)
		big := strings.Repeat("y", 60000)
		const n = 4
		for range n {
			src.Send(slow, big)
		}
		buf := make([]byte, 12000)
		for read := 0; read < n*len(big); {
			time.Sleep(900 * time.Millisecond)
			n, err := slow.Read(buf)
			if err != nil {
				t.Fatalf("slow line was cut after %d bytes: %v", read, err)
			}
			read += n
		}
		if st := s.Stats(); st.WriteTimeouts != 0 || st.Connections != 2 {
			t.Errorf("%d write timeouts, %d connections", st.WriteTimeouts, st.Connections)
		}
	})
}

// TestStopIsNoWriteTimeout stops a relay while peers do not read: they are not to
// blame for the end of their connections. They are many, as it takes a writer that
// hears of the end before its reader does.
func TestStopIsNoWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := relay.New(relay.Options{Key: key.NewPrivate(), Admit: relaytest.Open{}, WriteTimeout: 2 * time.Second})
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx) }()
		src := relaytest.Dial(t, s)
		var stuck []*relaytest.Peer
		for range 200 {
			p := relaytest.Dial(t, s)
			src.Send(p, "never read")
			stuck = append(stuck, p)
		}
		synctest.Wait()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		for _, p := range stuck {
			if err := <-p.Done; err == nil || strings.Contains(err.Error(), "took no byte") {
				t.Errorf("ended with %v", err)
			}
		}
		if n := s.Stats().WriteTimeouts; n != 0 {
			t.Errorf("%d write timeouts", n)
		}
	})
}
