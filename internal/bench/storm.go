package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/client"
)

// Storm logs in and hangs up, sixteen at a time, as fast as the relay allows.
// It ends after two minutes if it has not before. Loopback only. Logins that fail
// are counted; when all fail, the first error is returned.
func Storm(ctx context.Context, t Target, logins int) (report StormReport, err error) {
	t, err = t.settleLocal(ctx, "--storm")
	switch {
	case err != nil:
		return report, err
	case logins < 1 || logins > MaxLogins:
		return report, fmt.Errorf("bench: --storm is out of bounds; hint: 1 to %d logins can be made", MaxLogins)
	}
	before, err := t.usage()
	if err != nil {
		return report, err
	}
	ctx, cancel := context.WithTimeout(ctx, phaseLimit)
	defer cancel()
	s := &storm{shown: before.at}
	err = forEach(ctx, logins, func(ctx context.Context, _ int) error {
		s.logIn(ctx, t, logins)
		return nil
	})
	after, usageErr := t.usage()
	switch {
	case s.done == 0 && s.first != nil:
		return report, explain(s.first)
	case s.done == 0:
		return report, errInterrupted
	case usageErr != nil:
		return report, usageErr
	}
	report = StormReport{Common: t.common("storm", before, after), Logins: s.done, Failed: s.failed, Latency: latencies(&s.took)}
	report.Complete = err == nil
	report.LoginRate = ratio(float64(s.done), report.Seconds)
	if s.first != nil {
		report.FirstError = s.first.Error()
	}
	if report.Server != nil {
		report.Server.CPUPerLogin = ratio(report.Server.CPUTime*1e6, float64(s.done))
	}
	return report, nil
}

// storm counts logins.
type storm struct {
	mu           sync.Mutex
	done, failed int       // Guarded by mu.
	first        error     // Guarded by mu. Of the first that failed.
	took         histogram // Guarded by mu.
	shown        time.Time // Guarded by mu.
}

func (s *storm) logIn(ctx context.Context, t Target, of int) {
	start := time.Now()
	c, err := client.Dial(ctx, t.options())
	took := time.Since(start)
	if err == nil {
		_ = c.Close() // never fails
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.done++
		s.took.add(took)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return // it was cut short, and says nothing of the relay
	default:
		s.failed++
		if s.first == nil {
			s.first = err
		}
	}
	if time.Since(s.shown) >= progressEvery {
		s.shown = time.Now()
		t.progress("%d of %d logins, %d failed", s.done, of, s.failed)
	}
}
