package cert

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		lines := newLogLines()
		template := named("long.example")
		template.NotBefore, template.NotAfter = begin, begin.Add(days(90))
		long := parsedAt(t, issue(t, template, nil), begin)
		template = named("short.example")
		template.NotBefore, template.NotAfter = begin, begin.Add(days(6))
		short := parsedAt(t, issue(t, template, nil), begin)
		s, err := New(Options{Certificate: long, More: []*Certificate{short}, ServerKeyHex: serverKeyHex, Logger: lines.logger()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.LogExpiry(ctx) }()
		days := 0.0
		wait := func(until float64) string {
			time.Sleep(time.Duration((until - days) * 24 * float64(time.Hour)))
			days = until
			synctest.Wait()
			return lines.take()
		}
		for _, tt := range []struct {
			day  float64
			want []string // of each line
		}{
			{0.5, nil},
			{3.9, nil},
			{4.2, []string{"level=WARN", "short.example", "days_left=1"}},
			{5.9, nil},
			{6.1, []string{"level=ERROR", "short.example", "HAS EXPIRED", "days_left=-1"}},
			{28.9, nil},
			{29.1, []string{"level=INFO", "long.example", "days_left=60"}},
			{59.1, []string{"level=INFO", "days_left=30"}},
			{82.1, []string{"level=WARN", "days_left=7"}},
			{88.1, []string{"level=WARN", "days_left=1"}},
			{90.1, []string{"level=ERROR", "HAS EXPIRED"}},
			{200, nil},
		} {
			text := wait(tt.day)
			if n := strings.Count(text, "\n"); (n > 0) != (tt.want != nil) || n > 1 {
				t.Errorf("day %v: %d lines, want %q:\n%s", tt.day, n, tt.want, text)
			}
			for _, part := range tt.want {
				if !strings.Contains(text, part) {
					t.Errorf("day %v: the log does not say %q:\n%s", tt.day, part, text)
				}
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// One that begins near its end has one line, and a new one beside it its own.
func TestLogExpiryAtStart(t *testing.T) {
	lines, told := newLogLines(), expiry{}
	old := lasting(t, 5, "a.example")
	for range 3 {
		told.check(lines.logger(), []*Certificate{old}, testNow)
	}
	if text := lines.take(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "days_left=5") {
		t.Errorf("logged:\n%s", text)
	}
	told.check(lines.logger(), []*Certificate{lasting(t, 20, "a.example")}, testNow)
	if text := lines.take(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "days_left=20") || len(told) != 1 {
		t.Errorf("logged, and %d remembered:\n%s", len(told), text)
	}
}

func TestLate(t *testing.T) {
	const day = 24 * time.Hour
	for life, left := range map[time.Duration]time.Duration{
		3650 * day: 30 * day, 90 * day: 9 * day, 6 * day: day, 3 * day: day, 36 * time.Hour: 12 * time.Hour, time.Hour: 20 * time.Minute,
	} {
		template := named("a.example")
		template.NotBefore, template.NotAfter = testNow, testNow.Add(life)
		c := &Certificate{leaf: issue(t, template, nil).leaf}
		if at := c.NotAfter().Add(-left); c.Late(at) || !c.Late(at.Add(time.Second)) {
			t.Errorf("of %v: late from %v before its end on, want %v", life, c.NotAfter().Sub(c.lateAt()), left)
		}
	}
}
