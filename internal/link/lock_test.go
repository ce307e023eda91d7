package link

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// within fails the test when f takes so long that it must be a deadlock.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("deadlock: %s", what)
	}
}

// Doom within a turn, of the connection itself, ends Fill.
func TestDoomWithinATurn(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		c, peer := k.open(t)
		io.WriteString(peer, "doom me")
		within(t, "a turn dooms its own connection", func() {
			err := c.Fill(func(b []byte) (int, bool, error) { c.Doom(); return len(b), false, nil })
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("Fill: %v", err)
			}
			c.Close()
		})
	})
}

// A peer that never pauses cannot keep a doomed connection alive.
func TestDoomEndsABusyFill(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		c, peer := k.open(t)
		var writer sync.WaitGroup
		writer.Go(func() {
			b := make([]byte, 128<<10)
			for {
				if _, err := peer.Write(b); err != nil {
					return
				}
			}
		})
		within(t, "a doomed connection reads on", func() {
			turns := 0
			c.Fill(func(b []byte) (int, bool, error) {
				if turns++; turns == 20 {
					c.Doom()
				}
				return len(b), false, nil
			})
			c.Close()
		})
		writer.Wait()
	})
}

// Two readers, each of which dooms the other and writes to it from its turn, as
// the relay's do to peers whose connection has failed.
func TestReadersDoomEachOther(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		for range 10 {
			a, peerA := k.open(t)
			b, peerB := k.open(t)
			for _, c := range []*Conn{a, b} {
				if err := c.Seal(nil); err != nil {
					t.Fatal(err)
				}
			}
			io.WriteString(peerA, "go")
			io.WriteString(peerB, "go")
			within(t, "two readers doom each other", func() {
				var both, begun sync.WaitGroup
				begun.Add(2)
				serve := func(own, other *Conn) {
					defer own.Close()
					var once sync.Once
					own.Fill(func(batch []byte) (int, bool, error) {
						once.Do(begun.Done)
						begun.Wait() // who is doomed before its turn would doom nobody
						other.Seal(batch)
						other.Flush()
						other.Doom()
						return len(batch), false, nil
					})
				}
				both.Go(func() { serve(a, b) })
				both.Go(func() { serve(b, a) })
				both.Wait()
			})
		}
	})
}

// The write fails on both connections at once, each flushed from the other's
// turn: both end, and nobody waits for the other.
func TestMutualWriteErrors(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		a, peerA := k.open(t)
		b, peerB := k.open(t)
		for _, c := range []*Conn{a, b} {
			if err := c.Seal(nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, peer := range []net.Conn{peerA, peerB} {
			io.WriteString(peer, "the last words")
			socket(peer).SetLinger(0)
			socket(peer).Close()
		}
		within(t, "two connections fail while each writes to the other", func() {
			var both sync.WaitGroup
			serve := func(own, other *Conn) {
				fillChecked(own, func(batch []byte) (int, bool, error) {
					for range 3 {
						if err := send(other, make([]byte, 1<<20)); err != nil {
							other.Doom()
						}
					}
					return len(batch), false, nil
				})
			}
			both.Go(func() { serve(a, b) })
			both.Go(func() { serve(b, a) })
			both.Wait()
			a.Close()
			b.Close()
		})
	})
}

// Doom comes from another goroutine's flush while the reader is within a turn,
// waiting for that goroutine.
func TestDoomFromAFlusherWithinATurn(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		c, peer := k.open(t)
		if err := c.Seal(nil); err != nil {
			t.Fatal(err)
		}
		io.WriteString(peer, "go")
		within(t, "a flusher dooms the connection within a turn", func() {
			err := c.Fill(func(b []byte) (int, bool, error) {
				var flusher sync.WaitGroup
				flusher.Go(func() {
					c.Seal(b)
					c.Flush()
					c.Doom()
				})
				flusher.Wait()
				return len(b), false, nil
			})
			if err == nil {
				t.Error("Fill ended without an error")
			}
			c.Close()
		})
	})
}
