package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/relaytest"
)

// start makes a relay that admits everybody and runs it until the test ends.
func start(t *testing.T, change ...func(*relay.Options)) *relay.Server {
	t.Helper()
	o := relay.Options{Key: key.NewPrivate(), Admit: relaytest.Open{}, WriteTimeout: 2 * time.Second}
	for _, f := range change {
		f(&o)
	}
	s := relay.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// run runs a test under a fake clock.
func run(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestPackets(t *testing.T) {
	run(t, "between two peers", func(t *testing.T) {
		s := start(t)
		a, b := relaytest.Dial(t, s), relaytest.Dial(t, s)
		a.Send(b, "hello")
		b.WantPacket(a, "hello")
		b.Send(a, "")
		a.WantPacket(b, "")
		big := strings.Repeat("x", derp.MaxPacket)
		a.Send(b, big)
		b.WantPacket(a, big)
		st := s.Stats()
		if got := st.Received["other"]; got.Packets != 3 || got.Bytes != uint64(5+derp.MaxPacket) {
			t.Errorf("received %+v", got)
		}
		synctest.Wait()
		if got := s.Stats().Sent["other"]; got.Packets != 3 || got.Bytes != uint64(5+derp.MaxPacket) {
			t.Errorf("sent %+v", got)
		}
	})
	run(t, "to oneself", func(t *testing.T) {
		a := relaytest.Dial(t, start(t))
		a.Send(a, "me")
		a.WantPacket(a, "me")
	})
	run(t, "order within a class, disco first", func(t *testing.T) {
		s := start(t)
		a, b := relaytest.Dial(t, s), relaytest.Dial(t, s)
		synctest.Wait() // whoever sent b its ServerInfo would take the batch half pushed
		var frames []byte
		for i := range 20 {
			packet := fmt.Sprint("data ", i)
			if i%2 == 1 {
				packet = relaytest.Disco(fmt.Sprint("disco ", i))
			}
			frames = derp.AppendSendPacket(frames, b.Key.Public(), []byte(packet))
		}
		a.Put(frames)
		synctest.Wait()
		for i := 1; i < 20; i += 2 {
			b.WantPacket(a, relaytest.Disco(fmt.Sprint("disco ", i)))
		}
		for i := 0; i < 20; i += 2 {
			b.WantPacket(a, fmt.Sprint("data ", i))
		}
	})
	run(t, "cut anywhere", func(t *testing.T) {
		s := start(t)
		a, b := relaytest.Dial(t, s), relaytest.Dial(t, s)
		frame := derp.AppendSendPacket(nil, b.Key.Public(), []byte("in two pieces"))
		for i := range len(frame) {
			a.Put(frame[:i])
			a.Put(frame[i:])
			b.WantPacket(a, "in two pieces")
		}
	})
}

func TestUnknownDestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		a := relaytest.Dial(t, s)
		nobody := key.NewPrivate().Public()
		disco := []byte(relaytest.Disco(""))
		a.Put(derp.AppendSendPacket(nil, nobody, []byte("data for nobody")))
		a.Sync() // no answer to data
		for range 6 {
			a.Put(derp.AppendSendPacket(nil, nobody, disco))
		}
		for range 3 {
			a.WantGone(nobody, derp.GoneNotHere)
		}
		a.Sync()
		time.Sleep(1400 * time.Millisecond)
		for range 3 {
			a.Put(derp.AppendSendPacket(nil, nobody, disco))
		}
		a.WantGone(nobody, derp.GoneNotHere)
		a.Sync()
		st := s.Stats()
		if d := st.Dropped["unknown_dest"]; d["disco"].Packets != 9 || d["other"].Packets != 1 || d["other"].Bytes != 15 {
			t.Errorf("drops %+v", d)
		}
	})
}

func TestPeerGone(t *testing.T) {
	run(t, "tells those who heard from the peer", func(t *testing.T) {
		s := start(t)
		a, b, c := relaytest.Dial(t, s), relaytest.Dial(t, s), relaytest.Dial(t, s)
		a.Send(b, "1")
		b.WantPacket(a, "1")
		c.Send(a, "2") // the other direction does not count
		a.WantPacket(c, "2")
		a.Close()
		b.WantGone(a.Key.Public(), derp.GoneDisconnected)
		c.WantNothing(time.Second)
		again := relaytest.Dial(t, s, relaytest.As(a.Key))
		again.Send(b, "3")
		b.WantPacket(again, "3")
		again.Close()
		b.WantGone(a.Key.Public(), derp.GoneDisconnected)
	})
	run(t, "only when the last connection of the key goes", func(t *testing.T) {
		s := start(t)
		a, b := relaytest.Dial(t, s), relaytest.Dial(t, s)
		second := relaytest.Dial(t, s, relaytest.As(a.Key))
		a.Send(b, "1")
		b.WantPacket(a, "1")
		a.Close()
		b.WantNothing(time.Second)
		second.Close()
		b.WantGone(a.Key.Public(), derp.GoneDisconnected)
	})
	run(t, "not to hearers that have left", func(t *testing.T) {
		s := start(t)
		a, b := relaytest.Dial(t, s), relaytest.Dial(t, s)
		a.Send(b, "1")
		b.WantPacket(a, "1")
		b.Close()
		b2 := relaytest.Dial(t, s, relaytest.As(b.Key))
		a.Close()
		b2.WantNothing(time.Second)
	})
}

func TestDuplicateKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		src := relaytest.Dial(t, s)
		one := relaytest.Dial(t, s)
		two := relaytest.Dial(t, s, relaytest.As(one.Key))
		three := relaytest.Dial(t, s, relaytest.As(one.Key))
		src.Send(one, "to the newest")
		three.WantPacket(src, "to the newest")
		one.Sync() // any frame makes it active
		src.Send(one, "to the last speaker")
		one.WantPacket(src, "to the last speaker")
		if st := s.Stats(); st.Connections != 4 || st.Peers != 2 || st.DuplicateKeys != 1 || st.DuplicateConns != 3 || st.DuplicatesTotal != 2 {
			t.Errorf("stats %+v", st)
		}
		one.Close()
		synctest.Wait()
		src.Send(one, "to the one before")
		three.WantPacket(src, "to the one before")
		two.WantNothing(time.Second) // and nobody was cut off
		two.Send(src, "superseded peers may speak")
		src.WantPacket(one, "superseded peers may speak")
	})
}

func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		a := relaytest.Dial(t, s)
		began := time.Now()
		var periods []time.Duration
		for range 3 {
			for range 50 { // traffic changes nothing
				a.Send(a, "busy")
				a.WantPacket(a, "busy")
				time.Sleep(time.Second)
			}
			a.Want(derp.KeepAlive)
			periods = append(periods, time.Since(began))
			began = time.Now()
		}
		for i, d := range periods {
			if d < 59*time.Second || d > 67*time.Second {
				t.Errorf("keepalive %d after %v", i, d)
			}
		}
		if diff := (periods[1] - periods[2]).Abs(); diff > 1100*time.Millisecond {
			t.Errorf("the period of one connection changes: %v", periods)
		}
	})
}

func TestIdlePeerStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		a, b := relaytest.Dial(t, s), relaytest.Dial(t, s)
		go func() {
			for {
				if _, _, err := b.ReadFrame(); err != nil {
					return
				}
			}
		}()
		time.AfterFunc(24*time.Hour, func() { b.Send(a, "still there?") })
		for beats := 0; ; beats++ { // a day in which a says nothing
			typ, body, err := a.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if typ == derp.KeepAlive {
				continue
			}
			if _, p := derp.ParsePacket(body); string(p) != "still there?" || beats < 24*55 {
				t.Fatalf("got %v %q after %d keepalives", typ, p, beats)
			}
			return
		}
	})
}

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := relaytest.Dial(t, start(t))
		body := make([]byte, 1000)
		copy(body, "12345678 and more")
		a.Put(derp.AppendFrame(nil, derp.Ping, body))
		if got := a.Want(derp.Pong); string(got) != "12345678" {
			t.Errorf("pong %q", got)
		}
	})
}

// TestMalformed sends what must end the connection, without an answer and
// without harm to anyone else.
func TestMalformed(t *testing.T) {
	zero := key.NewPrivate().Public()
	for name, frame := range map[string][]byte{
		"packet shorter than a key":  derp.AppendFrame(nil, derp.SendPacket, make([]byte, 31)),
		"packet too long":            derp.AppendHeader(nil, derp.SendPacket, 32+65537),
		"home of no byte":            derp.AppendHeader(nil, derp.NotePreferred, 0),
		"home of two bytes":          derp.AppendFrame(nil, derp.NotePreferred, []byte{1, 2}),
		"ping too short":             derp.AppendFrame(nil, derp.Ping, make([]byte, 7)),
		"ping too long":              derp.AppendFrame(nil, derp.Ping, make([]byte, 1001)),
		"forward without mesh key":   derp.AppendForwardPacket(nil, zero, zero, []byte("x")),
		"forward header alone":       derp.AppendHeader(nil, derp.ForwardPacket, 64),
		"watch without mesh key":     derp.AppendWatchConns(nil),
		"close without mesh key":     derp.AppendClosePeer(nil, zero),
		"unknown frame out of bound": derp.AppendHeader(nil, 0x77, derp.MaxSkip+1),
		"unknown frame of 4 GiB":     {0x77, 0xff, 0xff, 0xff, 0xff},
	} {
		run(t, name, func(t *testing.T) {
			s := start(t)
			a, b, c := relaytest.Dial(t, s), relaytest.Dial(t, s), relaytest.Dial(t, s)
			last := derp.AppendSendPacket(nil, b.Key.Public(), []byte("before"))
			go a.Write(append(last, frame...)) // the relay may hang up before it has read all
			b.WantPacket(a, "before")
			a.WantClosed()
			if err := <-a.Done; err == nil {
				t.Error("ServeConn gave no reason")
			}
			b.WantGone(a.Key.Public(), derp.GoneDisconnected)
			c.Send(b, "still here")
			b.WantPacket(c, "still here")
		})
	}
}

func TestPassedOver(t *testing.T) {
	for name, frame := range map[string][]byte{
		"unknown, empty":     derp.AppendHeader(nil, 0x77, 0),
		"unknown, largest":   derp.AppendFrame(nil, 0x77, make([]byte, derp.MaxSkip)),
		"keepalive":          derp.AppendKeepAlive(nil),
		"pong":               derp.AppendPong(nil, derp.PingData{}),
		"pong of odd length": derp.AppendFrame(nil, derp.Pong, []byte{1}),
		"client info again":  derp.AppendFrame(nil, derp.ClientInfo, make([]byte, 80)),
		"server key":         derp.AppendFrame(nil, derp.ServerKey, []byte("short")),
		"health":             derp.AppendHealth(nil, "I feel ill"),
	} {
		run(t, name, func(t *testing.T) {
			a := relaytest.Dial(t, start(t))
			a.Put(frame)
			a.Sync()
		})
	}
}

func TestNotePreferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		a, b := relaytest.Dial(t, s), relaytest.Dial(t, s)
		for range 2 { // the second changes nothing
			a.Put(derp.AppendNotePreferred(nil, true))
			a.Sync()
		}
		if st := s.Stats(); st.HomeConnections != 1 || st.HomeMovesIn != 0 {
			t.Errorf("at login: %d home, %d moved in", st.HomeConnections, st.HomeMovesIn)
		}
		time.Sleep(6 * time.Second)
		b.Put(derp.AppendFrame(nil, derp.NotePreferred, []byte{7}))
		b.Sync()
		a.Put(derp.AppendNotePreferred(nil, false))
		a.Sync()
		if st := s.Stats(); st.HomeConnections != 1 || st.HomeMovesIn != 1 || st.HomeMovesOut != 1 {
			t.Errorf("later: %d home, %d moved in, %d out", st.HomeConnections, st.HomeMovesIn, st.HomeMovesOut)
		}
		b.Close()
		synctest.Wait()
		if st := s.Stats(); st.HomeConnections != 0 || st.Connections != 1 {
			t.Errorf("after the end: %d home, %d connections", st.HomeConnections, st.Connections)
		}
	})
}

func TestEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := relay.New(relay.Options{Key: key.NewPrivate(), Admit: relaytest.Open{}})
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx) }()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		a := relaytest.Raw(t, s)
		a.Want(derp.ServerKey)
		a.Close()
		if err := <-a.Done; err == nil {
			t.Error("an unfinished login ended without a reason")
		}
	})
}

func TestStatsAreJSON(t *testing.T) {
	b, err := json.Marshal(relay.New(relay.Options{Key: key.NewPrivate()}).Stats())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"queue_head":{"disco":{"packets":0,"bytes":0}`, `"connections":0`, `"received":{"disco"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
}
