package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// sink is a connection that takes everything and remembers each write.
type sink struct {
	net.Conn
	writes [][]byte
}

func (s *sink) Write(p []byte) (int, error) {
	s.writes = append(s.writes, bytes.Clone(p))
	return len(p), nil
}

func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// However much is sealed, and whenever it is written, it leaves in order and in
// writes of one TLS record at most, and Flush knows when nothing is left.
func TestSealedBytesLeaveInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &sink{}
		c := Over(s)
		var want []byte
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			n := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 40<<10)).Draw(t, "sealed")
			frames := pattern(n)
			want = append(want, frames...)
			if err := c.Seal(frames); err != nil {
				t.Fatal(err)
			}
			clear(frames) // Seal has taken a copy
			for range rapid.IntRange(0, 4).Draw(t, "waits") {
				wait(t, c)
			}
			if done, err := c.Flush(); err != nil || done != (len(bytes.Join(s.writes, nil)) == len(want)) {
				t.Fatalf("Flush: %v, %v with %d of %d bytes written", done, err, len(bytes.Join(s.writes, nil)), len(want))
			}
		}
		for done, _ := c.Flush(); !done; done, _ = c.Flush() {
			wait(t, c)
		}
		if !bytes.Equal(bytes.Join(s.writes, nil), want) {
			t.Fatal("what was written is not what was sealed")
		}
		for _, w := range s.writes {
			if len(w) > writeChunk {
				t.Fatalf("a write of %d bytes", len(w))
			}
		}
	})
}

func wait(t rapid.TB, c *Conn) {
	t.Helper()
	if done, _ := c.Flush(); done {
		return
	}
	if err := c.WaitWritable(time.Second); err != nil {
		t.Fatal(err)
	}
}

func TestNothingSealedIsNothingToFlush(t *testing.T) {
	c := Over(&sink{})
	if done, err := c.Flush(); !done || err != nil {
		t.Errorf("Flush: %v, %v", done, err)
	}
}

// The way of one small frame, as of most, costs no memory.
func TestSealAndFlushDoNotAllocate(t *testing.T) {
	c := Over(discard{})
	frame := pattern(1500)
	allocs := testing.AllocsPerRun(1000, func() {
		if c.Seal(frame) != nil || c.WaitWritable(time.Second) != nil {
			t.Fatal("cannot write")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error)      { return len(p), nil }
func (discard) SetWriteDeadline(time.Time) error { return nil }

// A peer that takes a chunk in just less than the timeout is slow, and not dead.
func TestSlowPeerIsNotTimedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t)
		want := pattern(4*writeChunk + 1)
		if err := c.Seal(want); err != nil {
			t.Fatal(err)
		}
		const timeout = 2 * time.Second
		got := make(chan []byte)
		go func() {
			var all []byte
			chunk := make([]byte, writeChunk)
			for len(all) < len(want) {
				time.Sleep(timeout - time.Millisecond)
				n, err := peer.Read(chunk)
				if err != nil {
					break
				}
				all = append(all, chunk[:n]...)
			}
			got <- all
		}()
		for done, _ := c.Flush(); !done; done, _ = c.Flush() {
			if err := c.WaitWritable(timeout); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(<-got, want) {
			t.Error("the peer got something else")
		}
	})
}

func TestDeadPeerIsTimedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pipe(t)
		if err := c.Seal([]byte("anybody there?")); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		err := c.WaitWritable(2 * time.Second)
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != 2*time.Second {
			t.Errorf("got %v after %v", err, took)
		}
		if done, err := c.Flush(); done || err != nil {
			t.Errorf("Flush says %v, %v, and nothing was taken", done, err)
		}
	})
}

// Each wait has its own time: what an earlier one left does not count.
func TestTimeoutStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t)
		go io.Copy(io.Discard, peer)
		for range 3 {
			if err := c.Seal([]byte("frame")); err != nil {
				t.Fatal(err)
			}
			if err := c.WaitWritable(time.Second); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		peer.Close()
	})
}

func TestNoTimeoutWaitsForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t)
		if err := c.Seal([]byte("x")); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(24 * time.Hour)
			peer.Read(make([]byte, 1))
		}()
		if err := c.WaitWritable(0); err != nil {
			t.Error(err)
		}
	})
}

// A peer that once got much idles with a small write buffer, or none: the tail
// of a large one would keep all of it alive.
func TestALargeWriteBufferIsNotKept(t *testing.T) {
	c := Over(&sink{})
	for _, n := range []int{100, writeChunk + 100, 10*writeChunk + idleBuffer} {
		if err := c.Seal(pattern(n)); err != nil {
			t.Fatal(err)
		}
		for done, _ := c.Flush(); !done; done, _ = c.Flush() {
			wait(t, c)
		}
		if n > idleBuffer && c.codec.(*portable).sealed != nil {
			t.Errorf("after %d bytes, a write buffer of %d is kept", n, cap(c.codec.(*portable).sealed))
		}
	}
}

// The deadline of a wait with a timeout, as of a login, is not left to one without.
func TestNoTimeoutAfterATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t)
		go io.Copy(io.Discard, peer)
		for _, timeout := range []time.Duration{10 * time.Second, 0} {
			if err := c.Seal([]byte("frame")); err != nil {
				t.Fatal(err)
			}
			if err := c.WaitWritable(timeout); err != nil {
				t.Fatalf("timeout %v: %v", timeout, err)
			}
			time.Sleep(time.Minute)
		}
		peer.Close()
	})
}
