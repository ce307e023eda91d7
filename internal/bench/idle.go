package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/client"
)

// Bounds of Idle and Storm, and of how long Idle may hold its peers. One address
// has some 28,000 ports to connect from.
const (
	MaxIdle   = 20_000
	MaxLogins = 100_000
	MaxHold   = 10 * time.Minute
)

// Idle logs peers in and leaves them alone for hold, to see what memory and
// time they cost the relay. Loopback only, and the Target must name the server's
// process.
func Idle(ctx context.Context, t Target, peers int, hold time.Duration) (report IdleReport, err error) {
	t, err = t.settleLocal(ctx, "--idle")
	switch {
	case err != nil:
		return report, err
	case peers < 1 || peers > MaxIdle:
		return report, fmt.Errorf("bench: --idle is out of bounds; hint: 1 to %d peers can be had", MaxIdle)
	case hold <= 0 || hold > MaxHold:
		return report, fmt.Errorf("bench: --duration is out of bounds; hint: peers can be held idle for 1ms to %v", MaxHold)
	case t.ServerPID == 0:
		return report, errors.New("bench: --idle measures the relay's memory and must know its process; hint: give its process id as --server-pid")
	}
	before, err := t.usage()
	if err != nil {
		return report, err
	}
	c := &crowd{}
	defer c.close()
	if err := c.dial(ctx, t, peers); err != nil {
		return report, explain(err)
	}
	connected, err := t.usage()
	if err != nil {
		return report, err
	}
	t.progress("%d peers are connected, waiting %v", peers, hold)
	complete := sleep(ctx, hold)
	after, err := t.usage()
	if err != nil {
		return report, err
	}
	report = IdleReport{Common: t.common("idle", before, after), Peers: peers, Lost: int(c.lost.Load())}
	report.Complete = complete
	report.LoginRate = ratio(float64(peers), connected.at.Sub(before.at).Seconds())
	report.Server.RSSPerPeer = float64(after.rss-before.rss) / float64(peers)
	report.Server.CPUPerLogin = float64((connected.cpu - before.cpu).Microseconds()) / float64(peers)
	return report, nil
}

// crowd is many clients that do nothing but listen.
type crowd struct {
	ending  atomic.Bool
	lost    atomic.Int64
	reading sync.WaitGroup

	mu      sync.Mutex
	clients []*client.Client // Guarded by mu.
}

func (c *crowd) dial(ctx context.Context, t Target, n int) error {
	ctx, cancel := context.WithTimeout(ctx, phaseLimit)
	defer cancel()
	shown := time.Now()
	return forEach(ctx, n, func(ctx context.Context, _ int) error {
		peer, err := client.Dial(ctx, t.options())
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.clients = append(c.clients, peer)
		c.reading.Go(func() { c.listen(peer) })
		if time.Since(shown) >= progressEvery {
			shown = time.Now()
			t.progress("%d of %d peers are connected", len(c.clients), n)
		}
		return nil
	})
}

// listen reads until the connection ends. It must not end by itself.
func (c *crowd) listen(peer *client.Client) {
	for {
		if _, err := peer.Recv(); err != nil {
			if !c.ending.Load() {
				c.lost.Add(1)
			}
			return
		}
	}
}

func (c *crowd) close() {
	c.ending.Store(true)
	for _, peer := range c.clients {
		_ = peer.Close() // never fails
	}
	c.reading.Wait()
}
