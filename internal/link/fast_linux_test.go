package link

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// records cuts a stream into TLS records, whatever is in them. The rest is what
// is not whole; a record whose length is out of bounds ends at its header.
func records(stream []byte) (whole [][]byte, rest []byte) {
	for len(stream) >= recordHeader {
		n := int(stream[3])<<8 | int(stream[4])
		if n > maxRecord {
			n = 0
		}
		if n += recordHeader; len(stream) < n {
			break
		}
		whole = append(whole, stream[:n])
		stream = stream[n:]
	}
	return whole, stream
}

// checkFeeder plays the codec: pieces come from the socket, and after each TLS
// reads what it can, in buffers of the sizes that size returns.
func checkFeeder(t rapid.TB, stream []byte, piece, size func(most int) int) {
	f := &fast{}
	f.feed = &feeder{fast: f, codec: true}
	want, rest := records(stream)
	handed := 0 // bytes of the stream
	read := func() error {
		for {
			b := make([]byte, size(20<<10))
			n, err := f.feed.Read(b)
			if err != nil {
				return err
			}
			if n == 0 || len(want) == 0 || !bytes.HasPrefix(want[0], b[:n]) {
				t.Fatalf("after %d bytes: %d bytes that are not of the next record alone", handed, n)
			}
			handed += n
			if want[0] = want[0][n:]; len(want[0]) == 0 {
				want = want[1:]
			}
		}
	}
	for left := stream; len(left) > 0; {
		n := piece(len(left))
		f.cipher = append(bytes.Clone(f.cipher), left[:n]...)
		left = left[n:]
		if err := read(); !errors.Is(err, errAgain) {
			t.Fatalf("with more to come: %v", err)
		}
		if whole, _ := records(f.cipher); len(whole) > 0 {
			t.Fatal("a whole record was kept back")
		}
	}
	f.eof = true
	wantErr := io.EOF
	if len(rest) > 0 {
		wantErr = io.ErrUnexpectedEOF
	}
	if err := read(); !errors.Is(err, wantErr) || handed != len(stream)-len(rest) {
		t.Fatalf("at the end: %v after %d bytes, want %v after %d", err, handed, wantErr, len(stream)-len(rest))
	}
}

func TestFeederHandsOutWholeRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		for range rapid.IntRange(0, 10).Draw(t, "records") {
			n := rapid.OneOf(rapid.IntRange(0, 30), rapid.IntRange(0, maxRecord), rapid.IntRange(maxRecord+1, 0xffff)).Draw(t, "length")
			stream = append(stream, 23, 3, 3, byte(n>>8), byte(n))
			if n <= maxRecord {
				stream = append(stream, pattern(n)...)
			}
		}
		stream = stream[:len(stream)-rapid.IntRange(0, min(len(stream), 10)).Draw(t, "cut off")]
		checkFeeder(t, stream,
			func(most int) int { return min(most, rapid.IntRange(1, 30<<10).Draw(t, "piece")) },
			func(most int) int {
				return rapid.OneOf(rapid.IntRange(1, 600), rapid.IntRange(1, most)).Draw(t, "buffer")
			})
	})
}

func FuzzFeeder(f *testing.F) {
	f.Add([]byte("\x17\x03\x03\x00\x05whole\x15\x03\x03\x00\x02\x01\x00"), uint16(3), uint16(512))
	f.Add([]byte("\x17\x03\x03\xff\xff\x17\x03\x03\x00\x09part"), uint16(100), uint16(5))
	f.Add([]byte("\x17\x03\x03\x00\x00\x16"), uint16(1), uint16(1))
	f.Fuzz(func(t *testing.T, stream []byte, piece, size uint16) {
		checkFeeder(t, stream,
			func(most int) int { return min(most, 1+int(piece)) },
			func(most int) int { return 1 + int(size)%most })
	})
}

// A recorded stream of a real client, cut anywhere, comes out as it went in.
func TestFillTakesAnyFragmentation(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		rapid.Check(t, func(rt *rapid.T) {
			k := kind{accept: Accept, version: version}
			want := pattern(rapid.IntRange(1, 60<<10).Draw(rt, "length"))
			var pieces [][]byte
			c, peer := recordedOf(t, k, func(client *tls.Conn, _ func([]byte)) {
				tap := client.NetConn().(*tapped)
				for rest := want; len(rest) > 0; {
					n := min(len(rest), rapid.IntRange(1, 20<<10).Draw(rt, "write"))
					client.Write(rest[:n])
					rest = rest[n:]
				}
				for rest := tap.held; len(rest) > 0; {
					n := min(len(rest), rapid.IntRange(1, 30<<10).Draw(rt, "piece"))
					pieces = append(pieces, rest[:n])
					rest = rest[n:]
				}
			})
			// Nothing but what fill does with a socket that has n bytes: no socket is needed to know the order.
			f := c.codec.(*fast)
			f.begin()
			var got []byte
			f.turn = func(b []byte) (int, bool, error) {
				used := rapid.IntRange(0, len(b)).Draw(rt, "used")
				got = append(got, b[:used]...)
				return used, false, nil
			}
			for _, p := range pieces {
				f.cipher = append(bytes.Clone(f.cipher), p...)
				if f.digest(); f.result != nil {
					rt.Fatalf("Fill: %v", f.result)
				}
			}
			if got = append(got, f.partial...); f.held != nil {
				got = append(got, f.held.b...)
			}
			if !bytes.Equal(got, want) {
				rt.Fatalf("%d of %d bytes came out, or others", len(got), len(want))
			}
			peer.Close()
			c.Close()
		})
	}
}

func TestFastHoldsNoMore(t *testing.T) {
	for _, version := range []uint16{0, tls.VersionTLS13} {
		k := kind{accept: Accept, version: version}
		c, peer := k.open(t)
		go peer.Write(make([]byte, 2*MaxHeld))
		most := 0
		err := c.Fill(func(b []byte) (int, bool, error) {
			most = max(most, len(b))
			return 0, false, nil
		})
		if !errors.Is(err, ErrHeld) || most != MaxHeld {
			t.Errorf("%v after %d bytes, want ErrHeld after %d", err, most, MaxHeld)
		}
		peer.Close()
	}
}

// A connection at rest holds none of the borrowed buffers.
func TestFastHoldsNothingAtRest(t *testing.T) {
	c, peer := secure(t, tls.VersionTLS13)
	if _, err := peer.Write(pattern(100 << 10)); err != nil {
		t.Fatal(err)
	}
	got := 0
	if err := c.Fill(func(b []byte) (int, bool, error) {
		got += len(b)
		return len(b), got == 100<<10, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := send(c, pattern(1000)); err != nil {
		t.Fatal(err)
	}
	f := c.codec.(*fast)
	if cap(f.cipher) > 0 || f.carry != nil || cap(f.partial) > keepPartial || c.unread != nil || f.out.buf != nil {
		t.Errorf("it holds %d + %d + %d bytes, written %v", cap(f.cipher), cap(f.partial), len(c.unread), f.out.buf == nil)
	}
}

// What TLS says by itself is bounded, and does not count what waits of ours: a
// peer that is slow to read may still ask for a few things.
func TestEchoIsBounded(t *testing.T) {
	c, _ := secure(t, tls.VersionTLS13)
	if err := c.Seal(make([]byte, 4*maxEcho)); err != nil {
		t.Fatal(err)
	}
	f := c.codec.(*fast)
	answer := make([]byte, 27) // a KeyUpdate as a record
	added := 0
	for ; added <= 2*maxEcho; added += len(answer) {
		if _, err := f.feed.Write(answer); err != nil {
			if !errors.Is(err, errEcho) {
				t.Fatal(err)
			}
			break
		}
	}
	if added < maxEcho-len(answer) || added > maxEcho {
		t.Errorf("%d bytes of answers are taken beside ours, want about %d", added, maxEcho)
	}
}

// The way of a batch of 16 packets over loopback, read and answered, allocates
// next to nothing. What there is counts for both sides: crypto/tls makes one
// allocation for each record that it reads, unless it is compiled with a profile.
func TestFastPathDoesNotAllocate(t *testing.T) {
	for name, writes := range map[string]int{"one write": 1, "a record each": 16} {
		t.Run(name, func(t *testing.T) {
			const packets, size = 16, 1437
			c, peer := secure(t, tls.VersionTLS13)
			out, back := make([]byte, packets*size/writes), make([]byte, packets*size)
			var served sync.WaitGroup
			served.Go(func() {
				c.Fill(func(b []byte) (int, bool, error) {
					n := len(b) / size * size
					return n, false, send(c, b[:n])
				})
			})
			round := func() {
				for range writes {
					if _, err := peer.Write(out); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := io.ReadFull(peer, back); err != nil {
					t.Fatal(err)
				}
			}
			for range 200 { // crypto/tls grows its records up to their full size
				round()
			}
			perPacket := testing.AllocsPerRun(500, round) / packets
			t.Logf("%.3f allocations per packet, both sides", perPacket)
			limit := 0.5
			if writes > 1 {
				limit = 3
			}
			if perPacket >= limit && !raceEnabled {
				t.Errorf("%v allocations per packet, want less than %v", perPacket, limit)
			}
			c.Doom()
			served.Wait()
		})
	}
}

// moreForms has the fast form as it is on kernels where a socket cannot be made to
// report again.
func moreForms() map[string]func(net.Conn, *tls.Config) *Conn {
	return map[string]func(net.Conn, *tls.Config) *Conn{"no rearm": func(raw net.Conn, cfg *tls.Config) *Conn {
		c := Accept(raw, cfg)
		c.codec.(*fast).rearm = func(int) bool { return false }
		return c
	}}
}

// A reset that came before, after data that fills the read buffer exactly, gives
// no event, whatever the reader asks of the socket; only Check finds it.
func TestResetAfterAFullRead(t *testing.T) {
	for _, reads := range []int{1, 2} {
		k := kind{accept: Accept}
		c, peer := k.open(t, func(s *net.TCPConn) {
			if err := errors.Join(s.SetReadBuffer(1<<20), s.SetWriteBuffer(1<<20)); err != nil {
				t.Fatal(err)
			}
		})
		if _, err := peer.Write(make([]byte, reads*readSize)); err != nil {
			t.Fatal(err)
		}
		idle := time.NewTicker(time.Millisecond) // to wait for it lets Go's poller take the events
		defer idle.Stop()
		for range 10_000 {
			if <-idle.C; c.codec.(*fast).readableBytes() == reads*readSize {
				break
			}
		}
		if err := errors.Join(peer.(*net.TCPConn).SetLinger(0), peer.Close()); err != nil {
			t.Fatal(err)
		}
		c.codec.(*fast).awaitHangup(t)
		for range 20 {
			<-idle.C
		}
		got := 0
		err := fillChecked(c, func(b []byte) (int, bool, error) {
			got += len(b)
			return len(b), false, nil
		})
		if got != reads*readSize || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			t.Errorf("%d reads: %d bytes, %v", reads, got, err)
		}
	}
}

func (f *fast) readableBytes() (n int) {
	_ = f.sock.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n
}

func (f *fast) awaitHangup(t *testing.T) {
	t.Helper()
	_ = f.sock.Control(func(fd uintptr) {
		polled := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(polled[:], 10_000); n != 1 || err != nil {
			t.Errorf("the reset does not come: %d, %v", n, err)
		}
	})
}

// A large frame that comes a byte at a time is neither copied nor thrown away for
// each: strangers may send one before they are known.
func TestDribbleMakesNoGarbage(t *testing.T) {
	const have, more = 60 << 10, 500
	c, peer := secure(t, tls.VersionTLS13)
	next := make(chan struct{}, 1)
	go func() {
		peer.Write(make([]byte, have))
		for range next {
			peer.Write([]byte{1})
		}
	}()
	var before, after runtime.MemStats
	if err := c.Fill(func(b []byte) (int, bool, error) {
		switch len(b) {
		case have:
			runtime.ReadMemStats(&before)
		case have + more:
			close(next)
			return len(b), true, nil
		}
		if len(b) >= have {
			next <- struct{}{}
		}
		return 0, false, nil
	}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / more; each > 1<<10 && !raceEnabled {
		t.Errorf("%d bytes of garbage for each byte that came", each)
	}
	if f := c.codec.(*fast); f.held != nil {
		t.Error("the buffer is still held")
	}
}

// Whatever is left when a turn stops, ciphertext and plaintext, comes at the next
// Fill, once and in order.
func TestStopAndRefill(t *testing.T) {
	for _, version := range []uint16{0, tls.VersionTLS12, tls.VersionTLS13} {
		for seed := range uint64(8) {
			k := kind{accept: Accept, version: version}
			c, peer := k.open(t)
			want := pattern(400 << 10)
			go func() {
				random := rand.New(rand.NewPCG(seed, 1))
				for rest := want; len(rest) > 0; {
					n := min(len(rest), 1+random.IntN(1+random.IntN(30<<10)))
					peer.Write(rest[:n])
					rest = rest[n:]
				}
			}()
			random := rand.New(rand.NewPCG(seed, 2))
			for got := 0; got < len(want); {
				if err := fillChecked(c, func(b []byte) (int, bool, error) {
					if !bytes.HasPrefix(want[got:], b) {
						return 0, false, fmt.Errorf("at byte %d comes something else", got)
					}
					used := len(b)
					if used < 70<<10 && got+used < len(want) && random.IntN(2) == 0 {
						used = random.IntN(used + 1)
					}
					got += used
					return used, got == len(want) || random.IntN(3) == 0, nil
				}); err != nil {
					t.Fatalf("TLS %x, seed %d: %v", version, seed, err)
				}
			}
			peer.Close()
			c.Close()
		}
	}
}

// Nearly every read of a busy connection ends within a record, whose start is
// kept until the rest comes. That makes no garbage: it would be 8 KiB a read.
func TestCutRecordsMakeNoGarbage(t *testing.T) {
	const size = 32 << 20
	c, peer := secure(t, tls.VersionTLS13)
	go peer.Write(make([]byte, size))
	got := 0
	take := func(until int) {
		if err := c.Fill(func(b []byte) (int, bool, error) {
			got += len(b)
			return len(b), got >= until, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	take(size / 4) // the pools and crypto/tls's buffers have their sizes
	runtime.ReadMemStats(&before)
	take(size)
	runtime.ReadMemStats(&after)
	if made := after.TotalAlloc - before.TotalAlloc; made > size/32 && !raceEnabled {
		t.Errorf("%d bytes of garbage for %d bytes read", made, size)
	}
}

// An answer that TLS has written while it read leaves without anybody flushing.
func TestEchoLeavesByItself(t *testing.T) {
	c, peer := secure(t, tls.VersionTLS12)
	f := c.codec.(*fast)
	f.begin()
	if _, err := f.feed.Write([]byte("an answer")); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := c.Fill(func(b []byte) (int, bool, error) { return len(b), true, nil }); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("an answer"))
	socket(net.Conn(peer)).SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(peer.NetConn(), got); err != nil || string(got) != "an answer" {
		t.Errorf("the peer got %q, %v", got, err)
	}
}

// A ClientHello that does not end is not kept for long.
func TestEndlessHello(t *testing.T) {
	cfg := serverConfig(t)
	ours, peer := tcp(t)
	c := Accept(ours, cfg)
	done := make(chan error, 1)
	go func() { done <- c.Handshake(t.Context()) }()
	hello := []byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff} // a record of 16 KiB, a ClientHello of 64 KiB
	record := append(hello, make([]byte, 0x4000-4)...)
	for range 2 {
		if _, err := peer.Write(record); err != nil {
			break // it has hung up
		}
		record = append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 0x4000)...)
	}
	if err := <-done; !errors.Is(err, errHello) {
		t.Errorf("ended with %v", err)
	}
}
