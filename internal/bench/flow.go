package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

const (
	// batchPackets and batchBytes bound what a sender writes in one system call,
	// when it is behind or has room for more.
	batchPackets = 16
	batchBytes   = 128 << 10
	// receiverBuffer and senderBuffer are how much is read in one system call.
	receiverBuffer = 64 << 10
	senderBuffer   = 4 << 10
	// windowPatience is after how long without an arrival a full window is given up:
	// what is in it is lost.
	windowPatience = 200 * time.Millisecond
	// maxBehind is how late a paced sender may be before it skips what it owes, so
	// that a stall is not followed by a burst.
	maxBehind = 100 * time.Millisecond
)

// flow is one pair: packets go from one client to the other, through the relay.
// In a fan-in the other is shared, and to is not set.
type flow struct {
	id       uint32
	name     string // in errors
	load     Load
	from, to *client.Client
	fromWire *wire
	toWire   *wire
	fromKey  key.Public
	epoch    time.Time // what stamps count from
	// measuring is set by the run, for all its flows.
	measuring *atomic.Bool

	// Owned by the sending goroutine.
	next     uint64 // number of the next packet
	pardon   uint64 // all below it are given up by the window
	frames   []byte // a batch of frames to one peer, each frameSize long
	patience *time.Timer
	paced    time.Duration // when the next packet is due, since epoch

	// Written by the sending goroutine.
	sent     atomic.Uint64 // while measuring
	attempts atomic.Uint64 // at all times

	// Written by the receiving goroutine.
	arrived   atomic.Uint64 // intact and for the first time, at all times
	delivered atomic.Uint64 // of those, the ones sent while measuring
	reached   atomic.Uint64 // all below it have come or been overtaken
	progress  chan struct{} // has one element when reached may have moved

	// Owned by the receiving goroutine.
	order                            order
	latency                          histogram
	reordered, duplicated, corrupted uint64
}

// dialFlow connects the two clients of one pair.
func dialFlow(ctx context.Context, t Target, l Load, id uint32) (*flow, error) {
	f := &flow{id: id, name: fmt.Sprintf("pair %d", id+1), load: l, progress: make(chan struct{}, 1)}
	var err error
	if f.to, f.toWire, err = dialWire(ctx, t, receiverBuffer); err != nil {
		return nil, err
	}
	f.toWire.idle = f.publish
	if err := f.dialSender(ctx, t, f.to.PublicKey()); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// dialSender connects the client that sends to a peer.
func (f *flow) dialSender(ctx context.Context, t Target, to key.Public) (err error) {
	if f.from, f.fromWire, err = dialWire(ctx, t, senderBuffer); err != nil {
		return err
	}
	f.fromKey = f.from.PublicKey()
	f.makeFrames(to)
	return nil
}

// dialWire connects a client over a wire.
func dialWire(ctx context.Context, t Target, buffer int) (c *client.Client, w *wire, err error) {
	c, err = dialOver(ctx, t, func(c net.Conn) net.Conn {
		w = newWire(c, buffer)
		return w
	})
	return c, w, err
}

// dialOver connects a client over what wrap makes of its socket.
func dialOver(ctx context.Context, t Target, wrap func(c net.Conn) net.Conn) (*client.Client, error) {
	o := t.options()
	dial := o.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wrap(c), nil
	}
	return client.Dial(ctx, o)
}

func (f *flow) close() {
	for _, c := range []*client.Client{f.from, f.to} {
		if c != nil {
			_ = c.Close() // never fails
		}
	}
}

// tls is the state of one of the pair's connections.
func (f *flow) tls() (tls.ConnectionState, bool) { return f.from.TLS() }

func (f *flow) frameSize() int { return derp.HeaderSize + key.Size + f.load.Size }

// makeFrames makes a batch of frames that lack nothing but their stamps.
func (f *flow) makeFrames(to key.Public) {
	packet := make([]byte, f.load.Size)
	fill(packet)
	for range min(batchPackets, max(1, batchBytes/f.frameSize())) {
		f.frames = derp.AppendSendPacket(f.frames, to, packet)
	}
}

// send sends packets until ctx is done or the connection fails.
func (f *flow) send(ctx context.Context) error {
	f.patience = time.NewTimer(windowPatience)
	defer f.patience.Stop()
	if f.load.Rate > 0 { // flows take turns, and do not all send at the same instant
		f.paced = time.Since(f.epoch) + f.interval()*time.Duration(f.id)/time.Duration(f.load.Pairs)
	}
	for ctx.Err() == nil {
		n := f.due(ctx)
		if n > 0 {
			n = min(n, f.room(ctx))
		}
		if n <= 0 {
			continue // there was a wait
		}
		if f.load.Rate > 0 {
			f.paced += time.Duration(n) * f.interval()
		}
		if err := f.write(n); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if f.load.Window == 0 {
			// A relay that drops reads faster than it delivers, so that senders are never
			// held up. They must not keep the processor from the receivers.
			runtime.Gosched()
		}
	}
	return nil
}

// interval is the time from one of the flow's packets to the next.
func (f *flow) interval() time.Duration {
	return time.Duration(float64(f.load.Pairs) / f.load.Rate * float64(time.Second))
}

// due returns how many packets the schedule wants now, up to a batch; if none,
// it has waited for the next.
func (f *flow) due(ctx context.Context) int {
	batch := len(f.frames) / f.frameSize()
	if f.load.Rate == 0 {
		return batch
	}
	behind := time.Since(f.epoch) - f.paced
	if behind < 0 {
		sleep(ctx, -behind)
		return 0
	}
	if behind > maxBehind {
		f.paced += behind - maxBehind
		behind = maxBehind
	}
	return min(batch, 1+int(behind/f.interval()))
}

// room returns how many packets the window has room for; if for none, it has
// waited for an arrival.
func (f *flow) room(ctx context.Context) int {
	if f.load.Window == 0 {
		return batchPackets
	}
	if n := f.load.Window - int(f.next-max(f.reached.Load(), f.pardon)); n > 0 {
		return n
	}
	f.patience.Reset(windowPatience)
	select {
	case <-f.progress:
	case <-f.patience.C:
		f.pardon = f.next
	case <-ctx.Done():
	}
	return 0
}

// write stamps and sends n packets.
func (f *flow) write(n int) error {
	size := f.frameSize()
	s := stamp{flow: f.id, measured: f.measuring.Load(), sent: int64(time.Since(f.epoch))}
	for i := range n {
		s.number = f.next
		s.put(f.frames[(i+1)*size-f.load.Size : (i+1)*size])
		f.next++
	}
	// Before they leave, so that nothing arrives that was not sent.
	f.attempts.Add(uint64(n))
	if s.measured {
		f.sent.Add(uint64(n))
	}
	step := n * size
	if f.load.FlushEach {
		step = size
	}
	f.fromWire.cork()
	for b := f.frames[:n*size]; len(b) > 0; b = b[step:] {
		if err := f.from.SendRaw(b[:step]); err != nil {
			return err
		}
	}
	return f.fromWire.uncork()
}

// receive takes packets until the connection ends, and says why it did.
func (f *flow) receive() error {
	for {
		m, err := f.to.Recv()
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if p, ok := m.(client.Packet); ok {
			f.take(p)
		}
	}
}

// listen reads what the relay tells the sending client, which is of no interest
// but must be read and answered.
func (f *flow) listen() error {
	for {
		if _, err := f.from.Recv(); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
}

// take notes one packet that has come. A changed one counts as corrupted and as
// nothing else, since not even its number can be believed.
func (f *flow) take(p client.Packet) {
	s, ok := parseStamp(p.Data)
	if !ok || s.flow != f.id || p.From != f.fromKey || len(p.Data) != f.load.Size {
		f.corrupted++
		return
	}
	switch f.order.note(s.number) {
	case again:
		f.duplicated++
		return
	case late:
		f.reordered++
	}
	f.arrived.Add(1)
	if s.measured {
		f.delivered.Add(1)
		f.latency.add(time.Since(f.epoch) - time.Duration(s.sent))
	}
}

// publish lets the sender know how far the receiver has got. It is called once
// for each read from the socket, not for each packet.
func (f *flow) publish() {
	f.reached.Store(f.order.next)
	select {
	case f.progress <- struct{}{}:
	default:
	}
}
