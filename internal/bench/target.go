// Package bench measures a relay from outside: pairs of clients that exchange
// numbered and checksummed packets, many senders to one slow receiver, many idle
// peers, many logins at once, and STUN. It runs in the relay's stead of real nodes, so what it counts is what a
// node would see.
//
// Every run is bounded in count and time, ends early when its context does, and
// then reports what was measured so far.
package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/detour-relay/detour/internal/client"
)

const (
	// dialing is how many clients connect at the same time.
	dialing = 16
	// phaseLimit ends connecting, a storm or a STUN run that takes longer.
	phaseLimit = 2 * time.Minute
	// progressEvery is the time between two lines of progress.
	progressEvery = 200 * time.Millisecond
	// appName marks bench's clients in a relay's statistics.
	appName = "detour-bench"
)

// Target is the relay to measure.
type Target struct {
	// Client says where the relay is and how to trust it, as client.ParseURL
	// returns it. Its Key, AppName and CanAckPings are not used: every client of a
	// run has a fresh key.
	Client client.Options
	// TLS12 offers no version above TLS 1.2.
	TLS12 bool
	// Mine is the caller's word that a relay off loopback is theirs to load. Only
	// Pairs goes off loopback at all.
	Mine bool
	// ServerPID is the relay's process on this machine, whose CPU time and memory
	// are reported. 0: neither is. It needs Linux and a relay on loopback.
	ServerPID int
	// Progress, if set, is given a short line to show at most five times a second,
	// from one goroutine at a time.
	Progress func(line string)

	remote bool  // set by settle
	keys   *ring // nil: fresh ones
}

// settle finds out whether the relay is on loopback. If it is, the address that
// was looked at is the one that will be dialled, whatever its name says later.
func (t Target) settle(ctx context.Context) (Target, error) {
	addrs, err := resolve(ctx, t.Client.Host)
	if err != nil {
		return t, err
	}
	t.remote = false
	for _, a := range addrs {
		if !a.Unmap().IsLoopback() {
			t.remote = true
		}
	}
	switch {
	case t.remote && !t.Mine:
		return t, fmt.Errorf("bench: %s is not on loopback; hint: load only relays that are yours, and say so with --this-relay-is-mine", t.Client.Host)
	case t.remote && t.ServerPID != 0:
		return t, fmt.Errorf("bench: process %d is not the relay at %s, which is another machine; hint: leave out --server-pid", t.ServerPID, t.Client.Host)
	case !t.remote:
		t.Client.Addr = net.JoinHostPort(addrs[0].String(), strconv.Itoa(int(t.port())))
	}
	return t, nil
}

// settleLocal is settle for what may be done on loopback only.
func (t Target) settleLocal(ctx context.Context, what string) (Target, error) {
	t.Mine = true
	t, err := t.settle(ctx)
	if err == nil && t.remote {
		err = fmt.Errorf("bench: %s runs against a relay on loopback only; hint: run it on the relay's machine with --relay https://127.0.0.1:PORT", what)
	}
	return t, err
}

func (t Target) port() uint16 {
	switch {
	case t.Client.Port != 0:
		return t.Client.Port
	case t.Client.Plain:
		return 80
	}
	return 443
}

func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		return nil, fmt.Errorf("bench: look up the relay's name: %w; hint: check --relay, or give an IP address", err)
	}
	return addrs, nil
}

// options are those of one more client with a fresh key.
func (t Target) options() client.Options {
	o := t.Client
	cfg := &tls.Config{}
	if o.TLS != nil {
		cfg = o.TLS.Clone()
	}
	// Else crypto/tls cuts the first records to one network packet each, which
	// would make the start of a run cost more than the rest.
	cfg.DynamicRecordSizingDisabled = true
	if t.TLS12 {
		cfg.MaxVersion = tls.VersionTLS12
	}
	o.TLS, o.AppName, o.CanAckPings = cfg, appName, true
	if t.keys != nil {
		o.Key = t.keys.take()
	}
	return o
}

func (t Target) progress(format string, args ...any) {
	if t.Progress != nil {
		t.Progress(fmt.Sprintf(format, args...))
	}
}

// usage is what the server process has used so far; zero without a process.
func (t Target) usage() (usage, error) {
	if t.ServerPID == 0 {
		return usage{at: time.Now()}, nil
	}
	u, err := readUsage(t.ServerPID)
	if err != nil {
		return usage{}, fmt.Errorf("bench: read what process %d uses: %w; hint: give the relay's process id on this machine as --server-pid", t.ServerPID, err)
	}
	return u, nil
}

// forEach calls do for 0 to n-1, sixteen at a time, until one fails or ctx is
// done, and waits for all that were called. It returns the first error.
func forEach(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	jobs := make(chan int)
	var workers sync.WaitGroup
	for range min(dialing, n) {
		workers.Go(func() {
			for i := range jobs {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case jobs <- i:
		case <-ctx.Done():
		}
	}
	close(jobs)
	workers.Wait()
	return context.Cause(ctx)
}

// explain adds to a failed login what to do about it.
func explain(err error) error {
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.Canceled):
		return errInterrupted
	case errors.Is(err, io.EOF):
		return errors.New("bench: the relay hung up at the login: a closed relay refuses the fresh keys that bench makes; hint: " + hintOpen)
	case errors.As(err, &untrusted):
		return fmt.Errorf("bench: %v; hint: give the relay's pin with --pin sha256-raw:… (`detour key show` prints it), or --insecure", err)
	case errors.Is(err, syscall.EMFILE):
		return fmt.Errorf("bench: %v; hint: raise the limit of open files with ulimit -n", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("bench: %v; hint: is the relay running, and is the port in --relay right?", err)
	}
	return fmt.Errorf("bench: %w", err)
}

// errInterrupted is the error of a run that ended before it measured anything.
var errInterrupted = errors.New("bench: stopped before anything was measured; hint: let it run on")

// sleep waits for d; false when ctx is done before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
