package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/stun"
)

const (
	// MaxRequests bounds STUN.
	MaxRequests = 10_000_000
	// stunSockets ask at the same time, each stunWindow requests before it waits for
	// the answers, which come within stunPatience or not at all.
	stunSockets  = 4
	stunWindow   = 32
	stunPatience = 200 * time.Millisecond
)

// STUN asks the relay's STUN server at a UDP port, as fast as it answers. It
// ends after two minutes if it has not before. Loopback only.
func STUN(ctx context.Context, t Target, port uint16, requests int) (report STUNReport, err error) {
	t, err = t.settleLocal(ctx, "--stun")
	switch {
	case err != nil:
		return report, err
	case requests < 1 || requests > MaxRequests:
		return report, fmt.Errorf("bench: --stun is out of bounds; hint: 1 to %d requests can be made", MaxRequests)
	case port == 0:
		return report, fmt.Errorf("bench: --stun-port is 0; hint: give the relay's STUN port, usually 3478")
	}
	host, _, err := net.SplitHostPort(t.Client.Addr)
	if err != nil {
		return report, fmt.Errorf("bench: the relay's address: %w", err)
	}
	before, err := t.usage()
	if err != nil {
		return report, err
	}
	ctx, cancel := context.WithTimeout(ctx, phaseLimit)
	defer cancel()
	q := &questions{addr: hostPort(host, port), left: int64(requests), target: t}
	err = q.ask(ctx)
	after, usageErr := t.usage()
	if err == nil {
		err = usageErr
	}
	report = STUNReport{Common: t.common("stun", before, after), Requests: int(q.sent.Load()), Responses: int(q.right.Load()), Wrong: int(q.wrong.Load())}
	if err == nil && report.Responses == 0 {
		err = fmt.Errorf("bench: nobody answers STUN requests to %s; hint: check --stun-port and the relay's stun_listen", q.addr)
	}
	report.Complete = ctx.Err() == nil
	report.ResponseRate = ratio(float64(report.Responses), report.Seconds)
	if report.Server != nil {
		report.Server.CPUPerResponse = ratio(report.Server.CPUTime*1e6, float64(report.Responses))
	}
	return report, err
}

func hostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// questions are the requests of one run.
type questions struct {
	addr               string
	target             Target
	left               int64 // Guarded by mu.
	mu                 sync.Mutex
	sent, right, wrong atomic.Int64
}

// ask runs all sockets.
func (q *questions) ask(ctx context.Context) error {
	var sockets sync.WaitGroup
	errs := make(chan error, stunSockets)
	for i := range stunSockets {
		sockets.Go(func() { errs <- q.socket(ctx, i == 0) })
	}
	sockets.Wait()
	for range stunSockets {
		if err := <-errs; err != nil {
			return fmt.Errorf("bench: ask for STUN responses: %w; hint: check --stun-port and the relay's stun_listen", err)
		}
	}
	return nil
}

// some takes the next window's share of what is left to ask.
func (q *questions) some() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(q.left, stunWindow)
	q.left -= n
	return int(n)
}

func (q *questions) socket(ctx context.Context, shows bool) error {
	c, err := net.Dial("udp", q.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	var first uint64 // number of the window's first request, which its id holds
	buf := make([]byte, 1500)
	shown := time.Now()
	for ctx.Err() == nil {
		n := q.some()
		if n == 0 {
			return nil
		}
		if err := q.window(c, first, uint64(n), buf); err != nil {
			return err
		}
		first += uint64(n)
		if shows && time.Since(shown) >= progressEvery {
			shown = time.Now()
			q.target.progress("%d STUN requests, %d responses", q.sent.Load(), q.right.Load())
		}
	}
	return nil
}

// window sends n requests and then reads their responses.
func (q *questions) window(c net.Conn, first, n uint64, buf []byte) error {
	var tx stun.TxID
	for i := range n {
		binary.BigEndian.PutUint64(tx[:], first+i)
		if _, err := c.Write(stun.AppendRequest(buf[:0], tx)); err != nil {
			return err
		}
		q.sent.Add(1)
	}
	_ = c.SetReadDeadline(time.Now().Add(stunPatience)) // Read fails if it does
	self := c.LocalAddr().(*net.UDPAddr).AddrPort()
	for come := uint64(0); come < n; {
		size, err := c.Read(buf)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil // the rest is lost
			}
			return err
		}
		got, addr, err := stun.ParseResponse(buf[:size])
		number := binary.BigEndian.Uint64(got[:])
		switch {
		case err != nil || addr != self || number >= first+n:
			q.wrong.Add(1)
		case number >= first: // else it comes too late for its window
			q.right.Add(1)
			come++
		}
	}
	return nil
}
