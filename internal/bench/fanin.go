package bench

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/client"
)

const (
	// MaxSenders bounds FanIn.
	MaxSenders = MaxPairs
	// FanInRate is what its senders usually send in all, in packets per second.
	FanInRate = 20_000

	// slowRate is what the slow receiver reads. What the kernel keeps for it is full
	// long before the warm-up ends.
	slowRate = 20_000 // bytes per second
	// probeSize and probeRate are the traffic of the pair that is watched.
	probeSize = 100  // bytes
	probeRate = 1000 // packets per second
)

// FanIn watches a pair of clients that has nothing to do with what goes on
// beside it: first nothing, then many senders to one receiver that reads slowly.
// Each of the two takes l.Warmup and l.Duration; l.Rate is that of all senders,
// and l.Pairs and l.Window are not used. Loopback only. A done ctx ends it early.
// That the relay hangs up on the slow receiver is reported; on any other, it is
// an error, which comes with the report of the time until then.
func FanIn(ctx context.Context, t Target, senders int, l Load) (report FanInReport, err error) {
	t, err = t.settleLocal(ctx, "--fanin")
	switch {
	case err != nil:
		return report, err
	case senders < 1 || senders > MaxSenders:
		return report, fmt.Errorf("bench: --fanin is out of bounds; hint: 1 to %d senders can be had", MaxSenders)
	}
	l.Pairs, l.Window = senders, 0
	if l, err = l.bound(false); err != nil {
		return report, err
	}
	report = FanInReport{Senders: senders, SizeBytes: l.Size, RateLimit: l.Rate, FlushEach: l.FlushEach}
	probe := Load{Pairs: 1, Size: probeSize, Rate: probeRate, FlushEach: true, Duration: l.Duration, Warmup: l.Warmup}
	quiet, err := prepare(ctx, t.showing("quiet, "), probe)
	if err != nil {
		return report, err
	}
	measured, err := quiet.measure(ctx)
	report.Quiet = report.note(measured)
	if err != nil || !report.Complete {
		return report, err
	}
	return report, report.underLoad(ctx, t.showing("fan-in, "), l, probe)
}

// underLoad is the second half.
func (r *FanInReport) underLoad(ctx context.Context, t Target, l, probe Load) error {
	r.Complete = false
	watched, err := prepare(ctx, t, probe)
	if err != nil {
		return err
	}
	defer watched.close()
	f := &fan{load: l, epoch: watched.epoch}
	defer f.close()
	if err := f.dial(ctx, t); err != nil {
		return explain(err)
	}
	before, err := t.usage()
	if err != nil {
		return err
	}
	f.start(watched.fail)
	measured, err := watched.measure(ctx)
	f.stop()
	r.Beside = r.note(measured)
	r.OfferedRate = ratio(float64(f.sent), f.took.Seconds())
	r.Receiver = SlowReceiver{
		Connected:   !f.cutOff.Load(),
		Received:    f.received,
		ReceiveRate: ratio(float64(f.received)*float64(l.Size), f.took.Seconds()),
	}
	r.Corrupted += f.corrupted.Load()
	if r.Server != nil {
		r.Server.RSSBefore = before.rss
		r.Server.RSSGrowth = r.Server.RSSAfter - before.rss
	}
	return err
}

// note takes over what a report on the watched pair says of the run as a whole,
// and returns the rest.
func (r *FanInReport) note(p PairsReport) Probe {
	r.Common, r.TLS = p.Common, p.TLS
	r.Mode = "fanin"
	if r.Server != nil {
		r.Server.CPUPerPacket = 0 // most of the packets were others
	}
	r.Corrupted += p.Corrupted
	return Probe{Sent: p.Sent, Lost: p.Lost, Latency: p.Latency}
}

// showing is a target whose progress begins with the name of a phase.
func (t Target) showing(phase string) Target {
	if show := t.Progress; show != nil {
		t.Progress = func(line string) { show(phase + line) }
	}
	return t
}

// fan is many senders to one slow receiver.
type fan struct {
	load      Load
	epoch     time.Time
	measuring atomic.Bool // stays false: its packets are no part of any figure
	to        *client.Client
	line      *slowLine
	flows     []*flow

	cancel             context.CancelFunc
	senders, readers   sync.WaitGroup
	closing            sync.Once
	ending             atomic.Bool   // connections are being closed: that they fail means nothing
	cutOff             atomic.Bool   // the relay hung up on the slow receiver
	packets, corrupted atomic.Uint64 // that the slow receiver took

	// Set by stop: how long it went on, and what was sent and received in that time.
	began          time.Time
	took           time.Duration
	sent, received uint64
}

func (f *fan) dial(ctx context.Context, t Target) (err error) {
	ctx, cancel := context.WithTimeout(ctx, phaseLimit)
	defer cancel()
	f.to, err = dialOver(ctx, t, func(c net.Conn) net.Conn {
		f.line = &slowLine{Conn: c}
		return f.line
	})
	if err != nil {
		return err
	}
	f.flows = make([]*flow, f.load.Pairs)
	for i := range f.flows {
		f.flows[i] = &flow{id: uint32(i), name: fmt.Sprintf("sender %d", i+1), load: f.load, epoch: f.epoch, measuring: &f.measuring}
	}
	return forEach(ctx, len(f.flows), func(ctx context.Context, i int) error {
		return f.flows[i].dialSender(ctx, t, f.to.PublicKey())
	})
}

// start has everybody send. fail is told why a sender cannot go on.
func (f *fan) start(fail func(err error)) {
	var sending context.Context
	sending, f.cancel = context.WithCancel(context.Background())
	f.line.slow.Store(true)
	f.began = time.Now()
	f.readers.Go(f.receive)
	note := func(err error) {
		if !f.ending.Load() {
			fail(err)
		}
	}
	for _, s := range f.flows {
		f.readers.Go(func() { note(s.listen()) })
		f.senders.Go(func() { note(s.send(sending)) })
	}
}

// stop returns when everybody has ended.
func (f *fan) stop() {
	f.took, f.received = time.Since(f.began), f.packets.Load()
	for _, s := range f.flows {
		f.sent += s.attempts.Load()
	}
	f.ending.Store(true)
	f.cancel()
	unstick := time.AfterFunc(stuckLimit, f.close)
	f.senders.Wait()
	unstick.Stop()
	f.close()
	f.readers.Wait()
}

func (f *fan) close() {
	f.closing.Do(func() {
		f.ending.Store(true)
		var all sync.WaitGroup
		for _, s := range f.flows {
			all.Go(s.close)
		}
		if f.to != nil {
			_ = f.to.Close() // never fails
		}
		all.Wait()
	})
}

// receive takes what comes to the slow receiver.
func (f *fan) receive() {
	for {
		m, err := f.to.Recv()
		if err != nil {
			f.cutOff.Store(!f.ending.Load())
			return
		}
		p, ok := m.(client.Packet)
		if !ok {
			continue
		}
		s, ok := parseStamp(p.Data)
		if !ok || len(p.Data) != f.load.Size || int(s.flow) >= len(f.flows) || p.From != f.flows[s.flow].fromKey {
			f.corrupted.Add(1)
			continue
		}
		f.packets.Add(1)
	}
}

// slowLine is the socket of the slow receiver.
type slowLine struct {
	net.Conn
	slow atomic.Bool

	// Owned by the reading goroutine.
	due time.Time // when it may read again
}

// Read reads at most slowRate once slow is set: little at a time, and then waits
// as long as that takes.
func (l *slowLine) Read(p []byte) (int, error) {
	if l.slow.Load() {
		time.Sleep(time.Until(l.due))
	}
	n, err := l.Conn.Read(p[:min(len(p), slowRate/10)])
	l.due = time.Now().Add(time.Duration(n) * time.Second / slowRate)
	return n, err
}
