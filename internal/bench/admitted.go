package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/detour-relay/detour/internal/client"
)

// admittedLimit bounds the look whether a relay admits.
const admittedLimit = 10 * time.Second

// hintOpen is what to do about a relay that does not admit fresh keys.
const hintOpen = "start one for the test with `detour serve --admit any --listen 127.0.0.1:18443 --state-dir /tmp/bench-relay`"

// CheckAdmitted looks with one connection whether the relay lets the fresh keys wait
// that a run makes: then they can send nothing, and the error says so. It tells them
// why before it answers a ping. What else is wrong is for the run to find.
func (t Target) CheckAdmitted(ctx context.Context) error {
	t, err := t.settle(ctx)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, admittedLimit)
	defer cancel()
	c, err := client.Dial(ctx, t.options())
	if err != nil {
		return nil
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = c.Ping(ctx) // no answer is an answer: what comes before it counts
		_ = c.Close()      // ends Recv
	}()
	var why string
	for {
		m, err := c.Recv()
		if err != nil {
			break
		}
		if h, ok := m.(client.Health); ok {
			why = h.Problem
		}
	}
	<-answered
	if why != "" {
		return fmt.Errorf("bench: the relay does not admit the fresh keys that bench makes and lets them wait (%q); hint: %s", why, hintOpen)
	}
	return nil
}
