package acme

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"time"

	acmewire "github.com/mholt/acmez/v3/acme"
)

const (
	hookLimit  = 5 * time.Minute // a program may wait until all name servers have the record
	hookGrace  = 5 * time.Second // from the limit until what it started is cut off too
	hookOutput = 4 << 10         // bytes of its output that are kept
)

// hook solves DNS-01 by a program of the operator's: PROGRAM present|cleanup
// FQDN VALUE. It sets or takes away the TXT record FQDN with VALUE, and returns
// 0 once the world can see it.
type hook struct {
	program string
	limit   time.Duration
	log     *slog.Logger
}

// Present sets the record.
func (h *hook) Present(ctx context.Context, c acmewire.Challenge) error {
	return h.run(ctx, "present", c.DNS01TXTRecordName(), c.DNS01KeyAuthorization())
}

// CleanUp takes the record away. That it failed is of no use to the authority,
// and must not lose a certificate.
func (h *hook) CleanUp(ctx context.Context, c acmewire.Challenge) error {
	if err := h.run(context.WithoutCancel(ctx), "cleanup", c.DNS01TXTRecordName(), c.DNS01KeyAuthorization()); err != nil {
		h.log.Warn("the DNS hook did not take its record away", "err", err)
	}
	return nil
}

// hookError is a failure of the program, for explain.
type hookError struct{ what string }

func (e *hookError) Error() string { return e.what }

func (h *hook) run(ctx context.Context, action, record, value string) error {
	ctx, cancel := context.WithTimeout(ctx, h.limit)
	defer cancel()
	var out tail
	cmd := exec.CommandContext(ctx, h.program, action, record, value)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = hookGrace
	err := cmd.Run()
	h.log.Debug("ran the DNS hook", "action", action, "record", record, "err", err, "output", out.String())
	if err == nil {
		return nil
	}
	what := fmt.Sprintf("%s %s %s: %v", h.program, action, record, err)
	if ctx.Err() == context.DeadlineExceeded {
		what = fmt.Sprintf("%s %s %s took longer than %v", h.program, action, record, h.limit)
	}
	if last := out.lastLine(); last != "" {
		what += ", and it said: " + last
	}
	return &hookError{what}
}

// tail keeps the last hookOutput bytes written to it.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	n, err := t.Buffer.Write(p)
	if over := t.Len() - hookOutput; over > 0 {
		t.Next(over)
	}
	return n, err
}

func (t *tail) lastLine() string {
	text := strings.TrimSpace(strings.ToValidUTF8(t.String(), "?"))
	return text[strings.LastIndexByte(text, '\n')+1:]
}
