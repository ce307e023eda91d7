package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// drainQuiet is how long nothing may arrive before what is missing counts as
	// lost; drainLimit bounds the wait as a whole.
	drainQuiet = 500 * time.Millisecond
	drainLimit = 5 * time.Second
	// stuckLimit is how long a sender may be stuck in a write at the end.
	stuckLimit = 2 * time.Second
)

// Pairs puts a relay under load and measures what it does. A done ctx ends the
// measurement early. When a connection fails the report covers the time until
// then, and comes with the error.
func Pairs(ctx context.Context, t Target, l Load) (PairsReport, error) {
	t, err := t.settle(ctx)
	if err != nil {
		return PairsReport{}, err
	}
	if l, err = l.bound(t.remote); err != nil {
		return PairsReport{}, err
	}
	r, err := prepare(ctx, t, l)
	if err != nil {
		return PairsReport{}, err
	}
	return r.measure(ctx)
}

// prepare connects all pairs of a run, whose measure or close hangs up again.
func prepare(ctx context.Context, t Target, l Load) (*run, error) {
	if _, err := t.usage(); err != nil { // before anybody is disturbed
		return nil, err
	}
	r := &run{target: t, load: l, epoch: time.Now(), failed: make(chan struct{})}
	if err := r.dial(ctx); err != nil {
		r.close()
		return nil, explain(err)
	}
	return r, nil
}

// run is one measurement. Its pipeline: senders write, the relay forwards,
// receivers count; the goroutine in measure moves it from warm-up to measurement
// to drain, and reads the counts once everybody has ended.
type run struct {
	target    Target
	load      Load
	flows     []*flow
	epoch     time.Time
	measuring atomic.Bool

	closing sync.Once
	ending  atomic.Bool // connections are being closed: that they fail means nothing
	failing sync.Once
	failed  chan struct{} // closed once a connection has failed
	cause   error         // why; written before failed is closed
}

// moment is what has happened up to now.
type moment struct {
	usage
	sent, attempts, arrived, delivered uint64
}

func (r *run) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, phaseLimit)
	defer cancel()
	flows := make([]*flow, r.load.Pairs)
	err := forEach(ctx, len(flows), func(ctx context.Context, i int) (err error) {
		flows[i], err = dialFlow(ctx, r.target, r.load, uint32(i))
		return err
	})
	for _, f := range flows {
		if f != nil {
			f.epoch, f.measuring = r.epoch, &r.measuring
			r.flows = append(r.flows, f)
		}
	}
	return err
}

// close hangs up everywhere, all at once: a farewell to a relay that does not
// read takes its time. It returns once all have been closed, by whomever.
func (r *run) close() {
	r.closing.Do(func() {
		r.ending.Store(true)
		var all sync.WaitGroup
		for _, f := range r.flows {
			all.Go(f.close)
		}
		all.Wait()
	})
}

// fail notes why the measurement cannot go on, unless it is over.
func (r *run) fail(err error) {
	if err == nil || r.ending.Load() {
		return
	}
	r.failing.Do(func() {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%v: the relay hung up in the middle of the run; hint: its log says why", err)
		}
		r.cause = fmt.Errorf("bench: %v", err)
		close(r.failed)
	})
}

func (r *run) measure(ctx context.Context) (PairsReport, error) {
	var senders, receivers sync.WaitGroup
	sending, stop := context.WithCancel(context.Background())
	defer stop()
	for _, f := range r.flows {
		receivers.Go(func() { r.fail(f.receive()) })
		receivers.Go(func() { r.fail(f.listen()) })
		senders.Go(func() { r.fail(f.send(sending)) })
	}
	warm := r.watch(ctx, "warm-up", r.load.Warmup)
	before, err := r.now()
	complete := false
	after := before
	if err == nil && warm {
		r.measuring.Store(true)
		complete = r.watch(ctx, "measuring", r.load.Duration)
		after, err = r.now()
	}
	stop()
	unstick := time.AfterFunc(stuckLimit, r.close)
	senders.Wait()
	if unstick.Stop() {
		r.drain()
	}
	r.close()
	receivers.Wait()

	report := r.report(before, after)
	report.Complete = complete
	select {
	case <-r.failed:
		err = r.cause
	default:
	}
	if err == nil && !warm {
		err = errInterrupted
	}
	return report, err
}

// watch waits for d and shows how far it has got. It reports false when ctx is
// done or a connection has failed before.
func (r *run) watch(ctx context.Context, what string, d time.Duration) bool {
	start := time.Now()
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-end.C:
			return true
		case <-ctx.Done():
			return false
		case <-r.failed:
			return false
		case <-tick.C:
			c := r.counts()
			r.target.progress("%s: %.1f of %v s, %d packets sent, %d delivered", what,
				time.Since(start).Seconds(), d.Seconds(), c.attempts, c.arrived)
		}
	}
}

func (r *run) counts() (m moment) {
	for _, f := range r.flows {
		m.delivered += f.delivered.Load()
		m.arrived += f.arrived.Load()
		m.sent += f.sent.Load()
		m.attempts += f.attempts.Load()
	}
	return m
}

func (r *run) now() (moment, error) {
	u, err := r.target.usage()
	m := r.counts()
	m.usage = u
	return m, err
}

// drain waits for the packets that are still under way.
func (r *run) drain() {
	limit := time.NewTimer(drainLimit)
	defer limit.Stop()
	tick := time.NewTicker(drainQuiet / 10)
	defer tick.Stop()
	last, quiet := r.counts(), 0
	for last.arrived < last.attempts && quiet < 10 {
		select {
		case <-r.failed:
			return
		case <-limit.C:
			return
		case <-tick.C:
		}
		c := r.counts()
		if quiet++; c.arrived != last.arrived {
			quiet = 0
		}
		last = c
	}
}

// report is called when all goroutines have ended.
func (r *run) report(before, after moment) PairsReport {
	l, end := r.load, r.counts()
	seconds := after.at.Sub(before.at).Seconds()
	arrived := after.arrived - before.arrived
	p := PairsReport{
		Common: r.target.common("pairs", before.usage, after.usage),
		Pairs:  l.Pairs, SizeBytes: l.Size, RateLimit: l.Rate, Window: l.Window, FlushEach: l.FlushEach,
		Sent: end.sent, Delivered: end.delivered,
		OfferedRate: ratio(float64(after.attempts-before.attempts), seconds),
		GoodputRate: ratio(float64(arrived), seconds),
		GoodputMbit: ratio(float64(arrived)*float64(l.Size)*8/1e6, seconds),
	}
	var latency histogram
	for _, f := range r.flows {
		p.Reordered += f.reordered
		p.Duplicated += f.duplicated
		p.Corrupted += f.corrupted
		latency.merge(&f.latency)
	}
	if missing := p.Sent - p.Delivered; missing > p.Corrupted { // a corrupted one has arrived, in a way
		p.Lost = missing - p.Corrupted
	}
	if state, ok := r.flows[0].tls(); ok {
		p.TLS = tls.VersionName(state.Version)
	}
	p.Latency = latencies(&latency)
	if s := p.Server; s != nil {
		s.CPUPerPacket = ratio(s.CPUTime*1e6, float64(arrived))
	}
	return p
}
