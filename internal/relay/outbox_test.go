package relay

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// outboxModel is an outbox as simple as can be: lists of whole frames.
type outboxModel struct {
	control, news [][]byte
	packets       [classes][][]byte
	pongs         int
	sent          uint64 // numbers the packets
	claimant      uint64 // who was last told to flush
}

func sizeOf(frames [][]byte) (n int) {
	for _, f := range frames {
		n += len(f)
	}
	return n
}

func (m *outboxModel) push(c class, frame []byte) (dropped load) {
	maxPackets, maxBytes := dataPackets, dataBytes
	if c == classDisco {
		maxPackets, maxBytes = discoPackets, discoBytes
	}
	q := m.packets[c]
	for len(q) > 0 && (len(q) == maxPackets || sizeOf(q)+len(frame) > maxBytes) {
		dropped.packets++
		dropped.bytes += uint64(len(q[0]) - derp.HeaderSize - key.Size)
		q = q[1:]
	}
	m.packets[c] = append(q, frame)
	return dropped
}

func (m *outboxModel) empty() bool {
	return len(m.control)+len(m.news)+len(m.packets[classDisco])+len(m.packets[classData]) == 0
}

// TestOutboxModel does at random what peers do to an outbox, and compares it to
// the model: limits by packets and by bytes, the oldest dropped first, order, what
// is reported, and memory.
func TestOutboxModel(t *testing.T) {
	source := key.NewPrivate().Public()
	rapid.Check(t, func(t *rapid.T) {
		var o outbox
		m := new(outboxModel)
		sizes := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(1000, 1500), rapid.IntRange(20<<10, derp.MaxPacket))
		size := rapid.Just(0)
		if rapid.Bool().Draw(t, "one size") {
			size = rapid.Just(sizes.Draw(t, "size"))
		} else {
			size = sizes
		}
		t.Repeat(map[string]func(*rapid.T){
			"packets": func(t *rapid.T) {
				for range rapid.IntRange(1, 200).Draw(t, "how many") {
					pushBoth(t, &o, m, source, size.Draw(t, "bytes"), rapid.Bool().Draw(t, "disco"))
				}
			},
			"control": func(t *rapid.T) {
				frameBoth(t, controlLimit, &m.control, func(frame []byte, _ int) bool { return o.pushControl(frame) })
			},
			"news": func(t *rapid.T) {
				frameBoth(t, rapid.SampledFrom([]int{controlLimit, watcherLimit}).Draw(t, "limit"), &m.news, o.pushNews)
			},
			"pongs": func(t *rapid.T) {
				for range rapid.IntRange(1, 2*pendingPongs).Draw(t, "how many") {
					d := derp.PingData{byte(m.pongs)}
					if o.pushPong(d) != (m.pongs < pendingPongs) {
						t.Fatalf("pong %d", m.pongs)
					}
					if m.pongs < pendingPongs {
						m.pongs++
						m.control = append(m.control, derp.AppendPong(nil, d))
					}
				}
			},
			"flush": func(t *rapid.T) { takeBoth(t, &o, m) },
			"":      func(t *rapid.T) { checkBoth(t, &o, m) },
		})
		lost := o.shut()
		for c := range classes {
			if lost[c].packets != uint64(len(m.packets[c])) {
				t.Fatalf("shut lost %d packets, want %d", lost[c].packets, len(m.packets[c]))
			}
		}
		if r := o.push(1, source, nil, classData); !r.closed || o.pushControl(nil) || o.pushNews(nil, 1) || o.pushPong(derp.PingData{}) || o.begin() {
			t.Fatal("a closed outbox takes something")
		}
	})
}

func pushBoth(t *rapid.T, o *outbox, m *outboxModel, from key.Public, size int, disco bool) {
	c := classData
	if disco {
		c = classDisco
	}
	packet := binary.BigEndian.AppendUint64(nil, m.sent)
	m.sent++
	packet = append(packet, make([]byte, max(0, size-len(packet)))...)
	by := 1 + m.sent/5%3
	flush := m.claimant != by
	m.claimant = by
	want := m.push(c, derp.AppendRecvPacket(nil, from, packet))
	if r := o.push(by, from, packet, c); r.closed || r.dropped != want || r.flush != flush {
		t.Fatalf("%v packet of %d bytes: %+v, want dropped %+v, flush %v", c, len(packet), r, want, flush)
	}
}

func frameBoth(t *rapid.T, limit int, queue *[][]byte, push func(frame []byte, limit int) bool) {
	frame := derp.AppendFrame(nil, derp.Health, make([]byte, rapid.IntRange(0, 30<<10).Draw(t, "bytes")))
	fits := sizeOf(*queue)+len(frame) <= limit
	if push(frame, limit) != fits {
		t.Fatalf("a frame of %d bytes was taken: %v", len(frame), !fits)
	}
	if fits {
		*queue = append(*queue, frame)
	}
}

// takeBoth is a whole flush: everything leaves, in the order of the classes.
func takeBoth(t *rapid.T, o *outbox, m *outboxModel) {
	if o.begin() == m.empty() {
		t.Fatalf("begin with an empty outbox %v", m.empty())
	}
	if m.empty() {
		return
	}
	b, ok := o.next()
	if !ok {
		t.Fatal("next has nothing")
	}
	for i, want := range [][][]byte{m.control, m.packets[classDisco], m.packets[classData], m.news} {
		var got []byte
		if b.frames[i] != nil {
			got = b.frames[i].b[b.heads[i]:]
			defer putBuffer(b.frames[i])
		}
		if !bytes.Equal(got, bytes.Join(want, nil)) {
			t.Fatalf("group %d: %d bytes that are not the %d expected", i, len(got), sizeOf(want))
		}
	}
	for c := range classes {
		if int(b.loads[c].packets) != len(m.packets[c]) {
			t.Fatalf("%v: load %+v for %d packets", c, b.loads[c], len(m.packets[c]))
		}
	}
	if o.begin() {
		t.Fatal("a second flusher")
	}
	if _, ok := o.next(); ok {
		t.Fatal("something is left")
	}
	*m = outboxModel{sent: m.sent}
}

// A full queue drops a packet for each new one. That must not move the queue each
// time: it is 256 KiB, and moved under the receiver's lock.
func TestFullQueueIsNotMoved(t *testing.T) {
	source := key.NewPrivate().Public()
	for _, size := range []int{91, 400, 475, 1400, 9000, derp.MaxPacket} {
		var o outbox
		packet := make([]byte, size)
		const pushes = 5000
		moved, wrote := 0, 0
		for range pushes {
			q := &o.packets[classData]
			buf, head := q.buf, q.head
			o.push(1, source, packet, classData)
			if wrote += size; q.buf != buf || q.head < head {
				moved += q.size()
			}
		}
		if moved > 2*wrote+2*dataBytes {
			t.Errorf("packets of %d bytes: %d bytes moved for %d pushed", size, moved, wrote)
		}
		o.shut()
	}
}

// Two peers send to a third, and the first is kept busy by a fourth: the second's
// packet does not wait for that.
func TestFlushDoesNotWaitForOthersWork(t *testing.T) {
	s := New(Options{Key: key.NewPrivate()})
	join := func(l Link) *peer {
		p := s.newPeer(Conn{Link: l}, key.NewPrivate().Public(), derp.ClientParams{}, false)
		s.admitPeer(p)
		return p
	}
	busy, receiver := &broken{}, new(sink)
	first, second, fourth, third := join(new(sink)), join(new(sink)), join(busy), join(receiver)
	before := receiver.frames
	busy.meanwhile = func() {
		busy.meanwhile = nil
		second.turn(derp.AppendSendPacket(nil, third.key, []byte("from the second")))
		if receiver.frames != before+2 {
			t.Errorf("%d packets have left, want both", receiver.frames-before)
		}
	}
	batch := derp.AppendSendPacket(nil, fourth.key, []byte("to the fourth"))
	first.turn(derp.AppendSendPacket(batch, third.key, []byte("from the first")))
	if busy.meanwhile != nil || receiver.frames != before+2 {
		t.Errorf("%d packets left in the end, want 2", receiver.frames-before)
	}
}

// checkBoth compares what waits, and that memory is what the constants promise.
func checkBoth(t *rapid.T, o *outbox, m *outboxModel) {
	limits := [classes]int{dataBytes, dataBytes}
	limits[classDisco] = discoBytes
	for c := range classes {
		q := &o.packets[c]
		if int(q.load.packets) != len(m.packets[c]) || q.size() != sizeOf(m.packets[c]) {
			t.Fatalf("%v: %d packets in %d bytes, want %d in %d", c, q.load.packets, q.size(), len(m.packets[c]), sizeOf(m.packets[c]))
		}
		if q.buf != nil && cap(q.buf.b) > 2*limits[c] { // a pooled buffer may come from a larger queue
			t.Fatalf("%v: %d bytes of memory for at most %d", c, cap(q.buf.b), limits[c])
		}
	}
	if o.control.size() != sizeOf(m.control) || o.news.size() != sizeOf(m.news) {
		t.Fatal("control or news differ in size")
	}
}

// busy is a Link for which there is always more, sent by others meanwhile.
type busy struct {
	sink
	more  func()
	times int
}

func (b *busy) Flush() (bool, error) {
	if b.times++; b.times < 1000 {
		b.more()
	}
	return true, nil
}

// TestFlusherIsNotKept: who happens to flush for a peer to which many others send
// goes back to its own work, and a goroutine does the rest.
func TestFlusherIsNotKept(t *testing.T) {
	s := New(Options{Key: key.NewPrivate()})
	l := new(busy)
	p := s.newPeer(Conn{Link: l}, key.NewPrivate().Public(), derp.ClientParams{}, false)
	l.more = func() { p.out.push(p.id, p.key, []byte("one more"), classData) }
	p.out.push(p.id, p.key, []byte("the first"), classData)
	if !p.out.begin() {
		t.Fatal("nothing to flush")
	}
	if p.pump(false) || l.times > flushRounds {
		t.Errorf("the flusher was kept for %d rounds", l.times)
	}
	if !p.pump(true) {
		t.Error("the goroutine did not end it")
	}
	if sent := s.Stats().Sent["other"].Packets; sent != 1000 {
		t.Errorf("%d packets sent, want 1000", sent)
	}
}

// TestRoutesKeepNobodyAlive: what a peer remembers of where it sent last holds no
// other peer in memory.
func TestRoutesKeepNobodyAlive(t *testing.T) {
	s := New(Options{Key: key.NewPrivate()})
	join := func() *peer {
		p := s.newPeer(Conn{Link: new(sink)}, key.NewPrivate().Public(), derp.ClientParams{}, false)
		s.admitPeer(p)
		return p
	}
	src := join()
	freed := make(chan struct{})
	func() {
		dst := join()
		if _, _, err := src.turn(derp.AppendSendPacket(nil, dst.key, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		runtime.AddCleanup(dst, func(struct{}) { close(freed) }, struct{}{})
		s.remove(dst)
	}()
	for range 100 {
		runtime.GC()
		select {
		case <-freed:
			runtime.KeepAlive(src)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("a peer that has left is kept by one that had sent to it")
}
