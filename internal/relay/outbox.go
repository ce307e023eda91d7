package relay

import (
	"sync"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// What an outbox holds at most. A packet always fits into an empty queue. Each
// queue's memory is at most twice its bytes, since it is compacted only when it
// would have to grow.
const (
	dataPackets  = 512
	dataBytes    = 256 << 10
	discoPackets = 64
	discoBytes   = 128 << 10
	controlLimit = 64 << 10 // bytes of control frames, and of news for an ordinary peer
	watcherLimit = 8 << 20  // bytes of news for a sibling relay, which hears of every peer
	pendingPongs = 32
)

// class sorts packets: they keep their order within a class, and disco packets
// go before data.
type class uint8

const (
	classDisco class = iota
	classData
	classes // how many there are
)

func classOf(packet []byte) class {
	if derp.IsDisco(packet) {
		return classDisco
	}
	return classData
}

// String returns the class as it stands in statistics.
func (c class) String() string {
	if c == classDisco {
		return "disco"
	}
	return "other"
}

// load counts packets and their bytes, keys and headers left out.
type load struct{ packets, bytes uint64 }

// queue is whole frames, one behind the other. Guarded by its outbox.
type queue struct {
	buf  *buffer // nil when empty
	head int     // where the oldest frame begins
	load load
}

// outbox is what waits to be sent to one peer. Anyone appends; one flusher at a
// time takes everything at once and owns what it took.
type outbox struct {
	mu sync.Mutex

	// Guarded by mu.
	control  queue // answers: they go first
	packets  [classes]queue
	news     queue          // who came and went: it goes last, so that a peer's packets come before its end
	pongs    int            // in control
	flushing bool           // a flusher is at work, and will look again
	claimant uint64         // the last peer that was told to flush what waits now; 0: none
	closed   bool           // nothing is taken any more
	flusher  sync.WaitGroup // counts flushing; Add under mu while not closed
}

// size returns the bytes in q.
func (q *queue) size() int {
	if q.buf == nil {
		return 0
	}
	return len(q.buf.b) - q.head
}

// room returns q's buffer with space for n more bytes at its end. Frames move to
// the front, or to a larger buffer, only when that leaves half of it free: a
// queue that is full and loses a packet for each new one must not be copied for
// each. So the buffer is at most twice the queue, and each byte moves about once.
func (q *queue) room(n int) *buffer {
	if q.buf == nil {
		q.buf, q.head = getBuffer(n), 0
	}
	b := q.buf
	switch {
	case len(b.b)+n <= cap(b.b):
	case q.head >= cap(b.b)/2 && q.size()+n <= cap(b.b):
		b.b = b.b[:copy(b.b, b.b[q.head:])]
		q.head = 0
	default:
		q.buf = getBuffer(max(q.size()+n, cap(b.b)+1))
		q.buf.b = append(q.buf.b, b.b[q.head:]...)
		q.head = 0
		putBuffer(b)
	}
	return q.buf
}

// push appends a RecvPacket frame, making room by dropping the oldest. It
// returns what was dropped.
func (q *queue) push(from key.Public, packet []byte, maxPackets, maxBytes int) (dropped load) {
	n := derp.HeaderSize + key.Size + len(packet)
	for q.load.packets > 0 && (int(q.load.packets) >= maxPackets || q.size()+n > maxBytes) {
		old := q.pop()
		dropped.packets++
		dropped.bytes += uint64(old)
	}
	b := q.room(n)
	b.b = derp.AppendRecvPacket(b.b, from, packet)
	q.load.packets++
	q.load.bytes += uint64(len(packet))
	return dropped
}

// pop removes the oldest packet and returns its bytes.
func (q *queue) pop() int {
	_, n, _ := derp.ParseHeader(q.buf.b[q.head:])
	q.head += derp.HeaderSize + int(n)
	packet := int(n) - key.Size
	q.load.packets--
	q.load.bytes -= uint64(packet)
	return packet
}

// take empties q into b.
func (q *queue) take() (b *buffer, head int, l load) {
	b, head, l = q.buf, q.head, q.load
	*q = queue{}
	return b, head, l
}

// pushed tells what became of a packet.
type pushed struct {
	dropped load // the oldest packets of its class, which made room
	closed  bool // the peer is gone: the packet was not taken
	flush   bool // the caller must flush this outbox
}

// push queues a packet that the peer with the id by has sent.
func (o *outbox) push(by uint64, from key.Public, packet []byte, c class) (r pushed) {
	maxPackets, maxBytes := dataPackets, dataBytes
	if c == classDisco {
		maxPackets, maxBytes = discoPackets, discoBytes
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return pushed{closed: true}
	}
	// The first to come is to flush at the end of its batch. So is the next, if it
	// comes before: it need not wait for what else the first has to do.
	if r.flush = !o.flushing && o.claimant != by; r.flush {
		o.claimant = by
	}
	r.dropped = o.packets[c].push(from, packet, maxPackets, maxBytes)
	return r
}

// pushControl queues an answer or the like, and reports whether it was taken: it
// is not when the peer is gone or too much waits already.
func (o *outbox) pushControl(frame []byte) bool {
	return o.pushFrame(&o.control, frame, controlLimit)
}

// pushNews queues a frame about another peer, and reports whether it was taken:
// it is not when the peer is gone or limit bytes of news wait already.
func (o *outbox) pushNews(frame []byte, limit int) bool {
	return o.pushFrame(&o.news, frame, limit)
}

func (o *outbox) pushFrame(q *queue, frame []byte, limit int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || q.size()+len(frame) > limit {
		return false
	}
	b := q.room(len(frame))
	b.b = append(b.b, frame...)
	return true
}

// pushPong queues the answer to a Ping, unless too many wait already.
func (o *outbox) pushPong(d derp.PingData) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.pongs >= pendingPongs {
		return false
	}
	b := o.control.room(derp.HeaderSize + len(d))
	b.b = derp.AppendPong(b.b, d)
	o.pongs++
	return true
}

// empty reports whether nothing waits. Called with mu held.
func (o *outbox) empty() bool {
	return o.control.buf == nil && o.packets[classDisco].buf == nil && o.packets[classData].buf == nil && o.news.buf == nil
}

// begin makes the caller the flusher. It reports false when there is one
// already, which will see all that waits now, or there is nothing to do.
func (o *outbox) begin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.flushing || o.closed || o.empty() {
		return false
	}
	o.flushing, o.claimant = true, 0
	o.flusher.Add(1)
	return true
}

// batch is what a flusher took: frames in the order in which they go.
type batch struct {
	frames [2 + classes]*buffer
	heads  [2 + classes]int
	loads  [classes]load
}

// next hands the flusher all that waits. When nothing does, or the peer is gone,
// it reports false and the caller is the flusher no more.
func (o *outbox) next() (b batch, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.empty() {
		o.flushing = false
		o.flusher.Done()
		return batch{}, false
	}
	b.frames[0], b.heads[0], _ = o.control.take()
	for c := range classes {
		b.frames[1+c], b.heads[1+c], b.loads[c] = o.packets[c].take()
	}
	b.frames[1+classes], b.heads[1+classes], _ = o.news.take()
	o.pongs = 0
	return b, true
}

// quit ends flushing after an error.
func (o *outbox) quit() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushing = false
	o.flusher.Done()
}

// shut takes nothing any more and returns what never left.
func (o *outbox) shut() (lost [classes]load) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.control, o.news = queue{}, queue{}
	for c := range classes {
		_, _, l := o.packets[c].take()
		lost[c].packets += l.packets
		lost[c].bytes += l.bytes
	}
	return lost
}
