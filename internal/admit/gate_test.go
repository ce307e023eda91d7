package admit

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/detour-relay/detour/internal/key"
)

func TestMain(m *testing.M) {
	keepBooks() // does not return in a child of TestKilled
	keepAsking()
	goleak.VerifyTestMain(m)
}

var somewhere = netip.MustParseAddr("203.0.113.7")

// numbered returns the n-th of many distinct keys.
func numbered(n int) (k key.Public) {
	k[0] = 1
	binary.BigEndian.PutUint64(k[24:], uint64(n))
	return k
}

// journal is a slog.Handler that keeps its records.
type journal struct {
	onRecord func()
	mu       sync.Mutex
	records  []slog.Record // guarded by mu
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	if j.onRecord != nil {
		j.onRecord()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.records = append(j.records, r)
	return nil
}

// take returns the messages since the last take.
func (j *journal) take() (messages []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.records {
		messages = append(messages, r.Message)
	}
	j.records = nil
	return messages
}

func (j *journal) want(t *testing.T, want ...string) {
	t.Helper()
	if got := j.take(); !reflect.DeepEqual(got, want) {
		t.Errorf("logged %q, want %q", got, want)
	}
}

func lines(n int, more ...string) (messages []string) {
	for range n {
		messages = append(messages, "peer refused")
	}
	return append(messages, more...)
}

func refuseAll(t *testing.T, g *Gate, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if d := g.Admit(t.Context(), numbered(n), somewhere); d.Admitted {
			t.Fatalf("key %d admitted", n)
		}
	}
}

// serve runs g.Serve until the returned stop, which waits for its end.
func serve(t *testing.T, g *Gate) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

// fixed is a source with one answer, which it remembers being asked for.
type fixed struct {
	answer Answer
	err    error
	asked  *Request
}

func (f fixed) Name() string { return "fixed" }

func (f fixed) Decide(_ context.Context, r Request) (Verdict, error) {
	if f.asked != nil {
		*f.asked = r
	}
	return Verdict{Answer: f.answer}, f.err
}

// one is the relay's own tenant with these sources.
func one(sources ...Source) []Tenant { return []Tenant{{Sources: sources}} }

func TestAnyOf(t *testing.T) {
	me, other := numbered(1), numbered(2)
	down := fixed{answer: Unavailable, err: errors.New("no answer")}
	tests := []struct {
		name    string
		sources []Source
		reason  string
	}{
		{"no source", nil, ReasonClosed},
		{"any", []Source{Any()}, ""},
		{"listed", []Source{Keys(other, me)}, ""},
		{"not listed", []Source{Keys(other)}, ReasonNotListed},
		{"empty list", []Source{Keys()}, ReasonNotListed},
		{"second source allows", []Source{Keys(other), Keys(me)}, ""},
		{"allowed although one is down", []Source{down, Keys(me)}, ""},
		{"one refuses, one is down", []Source{Keys(other), down}, ReasonUnavailable},
		{"down without an error", []Source{fixed{answer: Unavailable}}, ReasonUnavailable},
		{"allow with an error is no allow", []Source{fixed{Allow, errors.New("odd"), nil}}, ReasonUnavailable},
		{"an answer that does not exist", []Source{fixed{answer: 7}}, ReasonNotListed},
		{"no answer", []Source{fixed{}}, ReasonNotListed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := NewGate(Options{Tenants: one(tt.sources...)}).Admit(t.Context(), me, somewhere)
			if d.Admitted != (tt.reason == "") || d.Reason != tt.reason || d.Text != "" {
				t.Errorf("Admit = %+v, want reason %q", d, tt.reason)
			}
		})
	}
}

func TestZeroKeyIsNeverListed(t *testing.T) {
	if d := NewGate(Options{Tenants: one(Keys(key.Public{}))}).Admit(t.Context(), key.Public{}, somewhere); d.Admitted {
		t.Error("the zero key was admitted by a list")
	}
}

func TestSourcesSeeIPv4(t *testing.T) {
	var asked Request
	g := NewGate(Options{Tenants: one(fixed{answer: Allow, asked: &asked})})
	g.Admit(t.Context(), numbered(1), netip.MustParseAddr("::ffff:203.0.113.7"))
	if asked != (Request{numbered(1), somewhere}) {
		t.Errorf("source was asked for %v", asked)
	}
}

func TestOptionsAreCopied(t *testing.T) {
	tenants := one(Keys())
	g := NewGate(Options{Tenants: tenants})
	tenants[0] = one(Any())[0]
	refuseAll(t, g, 0, 1)
}

func TestRefusalLine(t *testing.T) {
	var out strings.Builder
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	k := numbered(1)
	NewGate(Options{Logger: logger}).Admit(t.Context(), k, somewhere)
	want := `level=WARN msg="peer refused" peer=` + k.String() + ` addr=203.0.113.7 reason=closed ` +
		`hint="let this peer in with --admit-key ` + k.String() + `, or everyone with --admit any"` + "\n"
	if out.String() != want {
		t.Errorf("logged %s\nwant   %s", out.String(), want)
	}
	out.Reset()
	down := fixed{answer: Unavailable, err: errors.New("timeout")}
	NewGate(Options{Logger: logger, Tenants: one(down), Hint: "ask {key}"}).Admit(t.Context(), k, somewhere)
	want = `level=WARN msg="peer refused" peer=` + k.String() + ` addr=203.0.113.7 reason=unavailable ` +
		`hint="ask ` + k.String() + `" err="fixed: timeout"` + "\n"
	if out.String() != want {
		t.Errorf("logged %s\nwant   %s", out.String(), want)
	}
}

func TestTenLinesThenOneSummary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGate(Options{Logger: slog.New(j)})
		stop := serve(t, g)
		refuseAll(t, g, 0, 25)
		refuseAll(t, g, 0, 25) // the same clients, in a loop
		j.want(t, lines(10)...)
		time.Sleep(59 * time.Second)
		synctest.Wait()
		j.want(t)
		time.Sleep(time.Second)
		synctest.Wait()
		j.want(t, "30 more refusals from 15 keys within a minute")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		j.want(t)

		refuseAll(t, g, 0, 12) // a new minute has ten new lines
		j.want(t, lines(10)...)
		time.Sleep(time.Minute)
		synctest.Wait()
		j.want(t, "2 more refusals from 2 keys within a minute")

		refuseAll(t, g, 0, 11)
		j.want(t, lines(10)...)
		stop()
		j.want(t, "1 more refusal from 1 key within a minute")
	})
}

func TestRepeatsTakeOneLineAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGate(Options{Logger: slog.New(j)})
		stop := serve(t, g)
		for range 3 {
			for range 59 {
				refuseAll(t, g, 0, 1)
				time.Sleep(time.Second)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			j.want(t, lines(1)...)
		}
		stop()
		j.want(t)
		if n := g.Stats().Refused[ReasonClosed]; n != 3*59 {
			t.Errorf("counted %d refusals, want %d", n, 3*59)
		}
	})
}

func TestSummaryWithoutServe(t *testing.T) {
	now := time.Unix(1e9, 0)
	j := &journal{}
	g := NewGate(Options{Logger: slog.New(j), Now: func() time.Time { return now }})
	refuseAll(t, g, 0, 12)
	j.want(t, lines(10)...)
	now = now.Add(time.Minute - 1)
	refuseAll(t, g, 0, 12)
	j.want(t)
	now = now.Add(1)
	refuseAll(t, g, 0, 1)
	j.want(t, "4 more refusals from 2 keys within a minute", "peer refused")
	now = now.Add(90 * time.Second) // into the middle of the minute after next
	refuseAll(t, g, 0, 1)
	now = now.Add(29 * time.Second)
	refuseAll(t, g, 0, 1)
	j.want(t, lines(1)...)
	now = now.Add(time.Second)
	refuseAll(t, g, 0, 1)
	j.want(t, lines(1)...)
}

func TestExactlyOneSummaryAtTheBoundary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGate(Options{Logger: slog.New(j)})
		stop := serve(t, g)
		refuseAll(t, g, 0, 20)
		j.take()
		var racers sync.WaitGroup
		for range 8 {
			racers.Go(func() {
				time.Sleep(time.Minute) // wakes together with Serve's timer
				refuseAll(t, g, 0, 1)
			})
		}
		racers.Wait()
		synctest.Wait()
		var summaries, own int
		for _, m := range j.take() {
			switch m {
			case "10 more refusals from 10 keys within a minute":
				summaries++
			case "peer refused":
				own++
			default:
				t.Errorf("logged %q", m)
			}
		}
		if summaries != 1 || own != 1 {
			t.Errorf("%d summaries and %d lines, want 1 and 1", summaries, own)
		}
		stop()
	})
}

func TestFloodOfKeysIsBounded(t *testing.T) {
	const flood = 100_000
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGate(Options{Logger: slog.New(j)})
		refuseAll(t, g, 0, flood)
		j.want(t, lines(10)...)
		if n := len(g.minute.keys); n != maxLines+maxUnsaid {
			t.Errorf("%d keys remembered, want %d", n, maxLines+maxUnsaid)
		}
		stop := serve(t, g)
		stop()
		j.want(t, "99990 more refusals from at least 1000 keys within a minute")
		if n := g.Stats().Refused[ReasonClosed]; n != flood {
			t.Errorf("counted %d refusals, want %d", n, flood)
		}
	})
}

func TestKeysAreExactUpToTheBound(t *testing.T) {
	m := newMinute(time.Unix(0, 0))
	for n := range maxLines + maxUnsaid {
		m.note(numbered(n))
	}
	if s := m.end(); s != (summary{refusals: maxUnsaid, keys: maxUnsaid}) {
		t.Errorf("summary %+v", s)
	}
	if s := m.end(); s != (summary{}) {
		t.Errorf("an emptied minute still says %+v", s)
	}
}

// A log that blocks, or that asks the gate, must not find the gate locked.
func TestLogsWithoutTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGate(Options{Logger: slog.New(j)})
		j.onRecord = func() {
			if !g.mu.TryLock() {
				t.Error("logging while holding the lock")
				return
			}
			g.mu.Unlock()
		}
		stop := serve(t, g)
		refuseAll(t, g, 0, 11)
		time.Sleep(time.Minute)
		synctest.Wait()
		refuseAll(t, g, 0, 11)
		stop()
		j.want(t, append(append(lines(10), "1 more refusal from 1 key within a minute"),
			lines(10, "1 more refusal from 1 key within a minute")...)...)
	})
}

func TestConcurrentAdmits(t *testing.T) {
	const workers, each = 8, 500
	j := &journal{}
	g := NewGate(Options{Tenants: one(Keys(numbered(0))), Logger: slog.New(j)})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(ctx) })
	var admits sync.WaitGroup
	for range workers {
		admits.Go(func() {
			for n := range each {
				if d := g.Admit(ctx, numbered(n%2), somewhere); d.Admitted != (n%2 == 0) {
					t.Errorf("key %d: admitted %v", n%2, d.Admitted)
				}
				g.Stats()
			}
		})
	}
	admits.Wait()
	cancel()
	wg.Wait()
	s := g.Stats()
	if s.Admitted != workers*each/2 || s.Refused[ReasonNotListed] != workers*each/2 {
		t.Errorf("stats %+v", s)
	}
}

func TestStats(t *testing.T) {
	g := NewGate(Options{Tenants: one(Keys(numbered(1)), Keys())})
	g.Admit(t.Context(), numbered(1), somewhere)
	g.Admit(t.Context(), numbered(2), somewhere)
	g.Admit(t.Context(), numbered(2), somewhere)
	const want = `{"admitted":1,"promoted":0,"dismissed":0,"refused":{"banned":0,"closed":0,"denied":0,"not_listed":2,"unavailable":0},` +
		`"pending":1,"guests":0,"probes":0,"tenants":[{"name":"","admitted":1,"sources":["keys","keys"]}]}`
	if got, err := json.Marshal(g.Stats()); err != nil || string(got) != want {
		t.Errorf("stats %s, %v\nwant  %s", got, err, want)
	}
	g.Stats().Refused[ReasonNotListed] = 99
	if got, err := json.Marshal(g.Stats()); err != nil || string(got) != want {
		t.Errorf("a caller changed the gate's counts: %s, %v", got, err)
	}
	if got, err := json.Marshal(NewGate(Options{}).Stats().Tenants); err != nil || string(got) != "[]" {
		t.Errorf("sources of a closed gate: %s, %v", got, err)
	}
}

func TestAllowedAdmitsDoNotAllocate(t *testing.T) {
	for _, s := range []Source{Any(), Keys(numbered(1))} {
		g := NewGate(Options{Tenants: one(s)})
		if n := testing.AllocsPerRun(100, func() { g.Admit(t.Context(), numbered(1), somewhere) }); n != 0 {
			t.Errorf("%s: %v allocations for one admit", s.Name(), n)
		}
	}
}

func BenchmarkAdmit(b *testing.B) {
	keys := make([]key.Public, 10_000)
	for n := range keys {
		keys[n] = numbered(n)
	}
	for _, s := range []Source{Any(), Keys(keys...)} {
		b.Run(s.Name(), func(b *testing.B) {
			g := NewGate(Options{Tenants: one(s)})
			for b.Loop() {
				g.Admit(b.Context(), keys[17], somewhere)
			}
		})
	}
}
