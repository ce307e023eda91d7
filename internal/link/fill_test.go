package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var errStop = errors.New("that will do")

// However the stream is cut into reads, whatever a turn uses, wherever it stops,
// and whoever reads or puts back in between, the bytes come once and in order.
func TestFillKeepsTheStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stream := pattern(rapid.IntRange(0, 40<<10).Draw(t, "length"))
		conn := &scripted{}
		for rest := stream; len(rest) > 0; {
			n := rapid.OneOf(rapid.IntRange(0, 20), rapid.IntRange(0, 12<<10)).Draw(t, "read")
			n = min(n, len(rest))
			conn.reads = append(conn.reads, rest[:n])
			rest = rest[n:]
		}
		if rapid.Bool().Draw(t, "end comes with the last read") {
			conn.withLast = io.EOF
		}
		c := Over(conn)
		m := &model{t: t, stream: stream}
		for {
			err := c.Fill(m.turn)
			if err != nil {
				m.checkEnd(err)
				return
			}
			m.between(c)
		}
	})
}

// model knows what a Conn must hand out next.
type model struct {
	t      *rapid.T
	stream []byte
	used   int // of stream
	left   int // handed out by the last turn and not used
}

func (m *model) turn(batch []byte) (used int, stop bool, err error) {
	if !bytes.HasPrefix(m.stream[m.used:], batch) {
		m.t.Fatalf("the batch at byte %d of the stream differs from it", m.used)
	}
	if len(batch) < m.left || len(batch) == 0 {
		m.t.Fatalf("a batch of %d bytes after %d were left over", len(batch), m.left)
	}
	switch rapid.IntRange(0, 3).Draw(m.t, "use") {
	case 0:
	case 1:
		used = len(batch)
	default:
		used = rapid.IntRange(0, len(batch)).Draw(m.t, "used")
	}
	m.used += used
	m.left = len(batch) - used
	return used, rapid.IntRange(0, 5).Draw(m.t, "stop") == 0, nil
}

// between is what may happen after a stop: the HTTP side reads, and puts back.
func (m *model) between(c *Conn) {
	if rapid.Bool().Draw(m.t, "read in between") {
		b := make([]byte, rapid.IntRange(1, 100).Draw(m.t, "buffer"))
		n, err := c.Read(b)
		if !bytes.HasPrefix(m.stream[m.used:], b[:n]) {
			m.t.Fatalf("the read at byte %d of the stream differs from it", m.used)
		}
		if err != nil && m.used+n < len(m.stream) {
			m.t.Fatalf("read: %v after %d of %d bytes", err, m.used+n, len(m.stream))
		}
		m.used += n
	}
	if rapid.Bool().Draw(m.t, "put back") {
		n := rapid.IntRange(0, min(m.used, 5000)).Draw(m.t, "bytes")
		c.Unread(m.stream[m.used-n : m.used])
		m.used -= n
	}
	m.left = 0
}

func (m *model) checkEnd(err error) {
	if m.used+m.left != len(m.stream) {
		m.t.Fatalf("%v after %d of %d bytes", err, m.used+m.left, len(m.stream))
	}
	want := io.EOF
	if m.left > 0 {
		want = io.ErrUnexpectedEOF
	}
	if !errors.Is(err, want) {
		m.t.Fatalf("got %v at the end, with %d bytes left over", err, m.left)
	}
}

func TestFillReturnsTheTurnsError(t *testing.T) {
	c := Over(&scripted{reads: [][]byte{[]byte("ab")}})
	if err := c.Fill(func([]byte) (int, bool, error) { return 1, true, errStop }); !errors.Is(err, errStop) {
		t.Errorf("got %v", err)
	}
}

func TestFillReturnsTheConnectionsError(t *testing.T) {
	for _, left := range []int{0, 1} {
		c := Over(&scripted{reads: [][]byte{[]byte("ab")}, withLast: net.ErrClosed})
		err := c.Fill(func(b []byte) (int, bool, error) { return len(b) - left, false, nil })
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("with %d bytes left over: %v", left, err)
		}
	}
}

// An end that comes together with the last bytes is not forgotten by a stop.
func TestFillAfterStopSeesTheEnd(t *testing.T) {
	c := Over(&scripted{reads: [][]byte{[]byte("ab")}, withLast: io.EOF})
	stop := func(b []byte) (int, bool, error) { return 1, true, nil }
	for i := range 2 {
		if err := c.Fill(stop); err != nil {
			t.Fatalf("turn %d: %v", i, err)
		}
	}
	if err := c.Fill(stop); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestFillGrowsToMaxHeld(t *testing.T) {
	stream := pattern(MaxHeld + 1)
	c := Over(&scripted{reads: [][]byte{stream}})
	calls := 0
	err := c.Fill(func(batch []byte) (int, bool, error) {
		calls++
		if len(batch) < MaxHeld {
			return 0, false, nil
		}
		if !bytes.Equal(batch, stream[:len(batch)]) {
			t.Fatalf("after %d calls, a batch of %d bytes differs from the stream", calls, len(batch))
		}
		return len(batch), false, errStop
	})
	if !errors.Is(err, errStop) {
		t.Fatalf("got %v", err)
	}
	if calls > 10 {
		t.Errorf("%d reads for %d bytes: the buffer grows too slowly", calls, MaxHeld)
	}
}

func TestFillHoldsNoMore(t *testing.T) {
	c := Over(&scripted{reads: [][]byte{pattern(MaxHeld + 1)}})
	most := 0
	err := c.Fill(func(batch []byte) (int, bool, error) {
		most = max(most, len(batch))
		return 0, false, nil
	})
	if !errors.Is(err, ErrHeld) || most != MaxHeld {
		t.Errorf("got %v after %d bytes, want ErrHeld after %d", err, most, MaxHeld)
	}
}

// A peer that once sent a large packet idles with as little as any other.
func TestFillShrinks(t *testing.T) {
	large, small := pattern(100<<10), []byte("small")
	c := Over(&scripted{reads: [][]byte{large, small, small}})
	var capacities []int
	err := c.Fill(func(batch []byte) (int, bool, error) {
		if len(batch) < len(large) && !bytes.Equal(batch, small) {
			return 0, false, nil
		}
		capacities = append(capacities, cap(batch))
		return len(batch), false, nil
	})
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if capacities[0] < len(large) || !slices.Equal(capacities[1:], []int{idleBuffer, idleBuffer}) {
		t.Errorf("buffers of %v bytes", capacities)
	}
}

func TestUnreadComesFirst(t *testing.T) {
	c := Over(&scripted{reads: [][]byte{[]byte(" and the rest")}})
	own := []byte("world")
	c.Unread(own)
	copy(own, "XXXXX") // it is a copy
	c.Unread(nil)
	c.Unread([]byte("hello "))
	b := make([]byte, 4)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "hell" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	var batches []string
	err := c.Fill(func(batch []byte) (int, bool, error) {
		batches = append(batches, string(batch))
		return len(batch), false, nil
	})
	if !errors.Is(err, io.EOF) || !slices.Equal(batches, []string{"o world", " and the rest"}) {
		t.Errorf("got %q, %v", batches, err)
	}
}

// What was put back is more than one buffer: nothing of it is lost.
func TestUnreadMoreThanABuffer(t *testing.T) {
	c := Over(&scripted{})
	want := pattern(3*idleBuffer + 1)
	c.Unread(want)
	var got []byte
	err := c.Fill(func(batch []byte) (int, bool, error) {
		got = append(got, batch...)
		return len(batch), false, nil
	})
	if !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
