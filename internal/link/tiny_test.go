package link

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	mrand "math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// tinyBuffer is what the sockets are made to hold, in bytes; the kernel doubles
// it, or takes its own least. Every larger write is partial.
const tinyBuffer = 4 << 10

func tiny(t testing.TB) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		if c.SetReadBuffer(tinyBuffer) != nil || c.SetWriteBuffer(tinyBuffer) != nil {
			t.Fatal("cannot set the socket's buffers")
		}
	}
}

// sendMore is send, but seals the next piece while the last is only partly written.
func sendMore(c *Conn, stream []byte, random *mrand.Rand) error {
	for len(stream) > 0 {
		n := min(len(stream), 1+random.IntN(10)*random.IntN(4<<10))
		if err := c.Seal(stream[:n]); err != nil {
			return err
		}
		stream = stream[n:]
		for range random.IntN(4) {
			if done, err := c.Flush(); err != nil || done {
				break
			}
			if err := c.WaitWritable(time.Minute); err != nil {
				return err
			}
		}
	}
	return send(c, nil)
}

// Both ways at once through sockets that hold next to nothing, in pieces of
// random size: the same bytes come out, and both sides get done.
func TestTinySocketBuffers(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		t.Parallel() // it is the kernel's timers that take the time
		c, peer := k.open(t, tiny(t))
		up, down := make([]byte, 48<<10), make([]byte, 48<<10)
		rand.Read(up)
		rand.Read(down)
		var all sync.WaitGroup
		if err := c.Seal(nil); err != nil { // a codec from here on, before two goroutines use it
			t.Fatal(err)
		}
		all.Go(func() {
			if err := sendMore(c, down, mrand.New(mrand.NewPCG(1, 2))); err != nil {
				t.Errorf("send: %v", err)
			}
		})
		all.Go(func() {
			random := mrand.New(mrand.NewPCG(3, 4))
			for rest := up; len(rest) > 0; {
				n := min(len(rest), 1+random.IntN(8<<10))
				if _, err := peer.Write(rest[:n]); err != nil {
					t.Errorf("peer's write: %v", err)
					return
				}
				rest = rest[n:]
			}
		})
		all.Go(func() {
			got := make([]byte, len(down))
			if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, down) {
				t.Errorf("the peer got something else (%v)", err)
			}
		})
		var got []byte
		random := mrand.New(mrand.NewPCG(5, 6))
		err := fillChecked(c, func(b []byte) (int, bool, error) {
			used := len(b)
			if len(got)+used < len(up) {
				used = random.IntN(used + 1)
			}
			if got = append(got, b[:used]...); len(got) == len(up) {
				return used, false, errStop
			}
			return used, false, nil
		})
		all.Wait()
		if !errors.Is(err, errStop) || !bytes.Equal(got, up) {
			t.Errorf("Fill: %v; %d of %d bytes, equal %v", err, len(got), len(up), bytes.Equal(got, up))
		}
	})
}

// A peer that has stopped reading is found out by the wait, not by the flush.
func TestFlushNeverWaits(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		c, _ := k.open(t, tiny(t))
		if err := c.Seal(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		if done, err := c.Flush(); done || err != nil {
			t.Fatalf("Flush: %v, %v", done, err)
		}
		var err error
		for err == nil {
			err = c.WaitWritable(50 * time.Millisecond)
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("WaitWritable: %v", err)
		}
	})
}
