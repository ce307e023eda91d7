package cert

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"strings"
	"time"
)

// expiryEvery is how often certificates are looked at for their end.
const expiryEvery = time.Hour

// expirySteps are the days left at which a certificate's end is logged.
var expirySteps = [...]int{60, 30, 7, 1}

// lateAt returns from when on a certificate should have been changed for another: with
// a tenth of its life left, which is 30 days for one of many years, and one day for one
// of a week.
func (c *Certificate) lateAt() time.Time {
	const day = 24 * time.Hour
	life := c.leaf.NotAfter.Sub(c.leaf.NotBefore)
	return c.leaf.NotAfter.Add(-max(min(life/10, 30*day), min(day, life/3)))
}

// Late reports whether the certificate's end is so near that whoever was to change it
// for another has not.
func (c *Certificate) Late(now time.Time) bool { return now.After(c.lateAt()) }

// LogExpiry logs, at once and then when it comes to it, that a certificate which
// is served has 60, 30, 7 or 1 days left, or none: each once for a certificate.
// It blocks until ctx ends and then returns nil.
func (s *Source) LogExpiry(ctx context.Context) error {
	told := expiry{}
	tick := time.NewTicker(expiryEvery)
	defer tick.Stop()
	for {
		told.check(s.log, s.Certificates(), s.now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// expiry is the last step that was logged of each certificate, by the hash of
// its leaf; after its end that is -1.
type expiry map[[sha256.Size]byte]int

func (told expiry) check(log *slog.Logger, certs []*Certificate, now time.Time) {
	served := map[[sha256.Size]byte]bool{}
	for _, c := range certs {
		id := sha256.Sum256(c.leaf.Raw)
		served[id] = true
		step, due := c.expiryStep(now)
		if last, ok := told[id]; !due || ok && last <= step {
			continue
		}
		told[id] = step
		c.logExpiry(log, step, now)
	}
	for id := range told {
		if !served[id] {
			delete(told, id)
		}
	}
}

// expiryStep returns the least step that c has come to, -1 after its end. A step
// as long as its whole life says nothing: a certificate of six days is never
// told to have but 7 left.
func (c *Certificate) expiryStep(now time.Time) (step int, due bool) {
	left := c.daysLeft(now)
	if left < 0 {
		return -1, true
	}
	life := int(c.leaf.NotAfter.Sub(c.leaf.NotBefore) / (24 * time.Hour))
	for _, days := range expirySteps {
		if left <= days && days < life {
			step, due = days, true
		}
	}
	return step, due
}

func (c *Certificate) logExpiry(log *slog.Logger, step int, now time.Time) {
	level, what := slog.LevelInfo, "a certificate will expire"
	switch {
	case step < 0:
		level, what = slog.LevelError, "A CERTIFICATE HAS EXPIRED: clients refuse it"
	case step <= 7:
		level, what = slog.LevelWarn, "a certificate expires soon: it should have been renewed by now"
	}
	log.Log(context.Background(), level, what,
		"file", c.certFile, "names", strings.Join(c.Names(), " "), "not_after", c.NotAfter(), "days_left", c.daysLeft(now))
}
