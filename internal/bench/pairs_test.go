package bench

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// light is a load whose every packet is sent at a known time of the bubble.
var light = Load{Pairs: 2, Size: 64, Rate: 1000, Duration: time.Second, Warmup: 100 * time.Millisecond, FlushEach: true}

// TestIntegrity has a relay do what bench is there to find.
func TestIntegrity(t *testing.T) {
	tests := map[string]struct {
		meddle func(s stamp, packet []byte) [][]byte
		want   func(r *PairsReport, n uint64) // sets what n meddlings are to show
	}{
		"honest": {nil, func(*PairsReport, uint64) {}},
		"drops": {
			func(stamp, []byte) [][]byte { return nil },
			func(r *PairsReport, n uint64) { r.Lost, r.Delivered = n, r.Sent-n },
		},
		"doubles": {
			func(_ stamp, p []byte) [][]byte { return [][]byte{p, p} },
			func(r *PairsReport, n uint64) { r.Duplicated = n },
		},
		"flips a bit": {
			func(s stamp, p []byte) [][]byte { p[s.number%uint64(len(p))] ^= 0x10; return [][]byte{p} },
			func(r *PairsReport, n uint64) { r.Corrupted, r.Delivered = n, r.Sent-n },
		},
		"cuts off": {
			func(_ stamp, p []byte) [][]byte { return [][]byte{p[:len(p)-1]} },
			func(r *PairsReport, n uint64) { r.Corrupted, r.Delivered = n, r.Sent-n },
		},
		"gives to another": {
			func(s stamp, p []byte) [][]byte { s.flow ^= 1; s.put(p); return [][]byte{p} },
			func(r *PairsReport, n uint64) { r.Corrupted, r.Delivered = n, r.Sent-n },
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var meddled [2]uint64
				relay := &fakeRelay{}
				if tt.meddle != nil {
					relay.meddle = func(s stamp, p []byte) [][]byte {
						if s.number%10 != 3 {
							return [][]byte{p}
						}
						meddled[s.flow]++
						return tt.meddle(s, p)
					}
				}
				got, err := Pairs(t.Context(), relay.target(t), light)
				if err != nil {
					t.Fatal(err)
				}
				n := meddled[0] + meddled[1]
				if tt.meddle != nil && n < 90 {
					t.Fatalf("only %d packets were meddled with", n)
				}
				want := PairsReport{Sent: got.Sent, Delivered: got.Sent}
				tt.want(&want, n)
				checkCounts(t, got, want)
				if !got.Complete || got.Sent < 990 || got.Sent > 1010 {
					t.Errorf("complete %v, sent %d, want 1000 or so", got.Complete, got.Sent)
				}
			})
		})
	}
}

func checkCounts(t *testing.T, got, want PairsReport) {
	t.Helper()
	type counts struct{ sent, delivered, lost, reordered, duplicated, corrupted uint64 }
	of := func(r PairsReport) counts {
		return counts{r.Sent, r.Delivered, r.Lost, r.Reordered, r.Duplicated, r.Corrupted}
	}
	if of(got) != of(want) {
		t.Errorf("got %+v, want %+v", of(got), of(want))
	}
}

func TestReordering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept [2][]byte
		var swaps [2]uint64
		relay := &fakeRelay{meddle: func(s stamp, p []byte) [][]byte {
			if s.number%10 == 3 {
				kept[s.flow] = bytes.Clone(p)
				return nil
			}
			if late := kept[s.flow]; late != nil {
				kept[s.flow] = nil
				swaps[s.flow]++
				return [][]byte{p, late}
			}
			return [][]byte{p}
		}}
		l := light
		l.Pairs = 1
		got, err := Pairs(t.Context(), relay.target(t), l)
		if err != nil {
			t.Fatal(err)
		}
		lost := uint64(0)
		if kept[0] != nil { // the last one had none to be swapped with
			lost = 1
		}
		checkCounts(t, got, PairsReport{Sent: got.Sent, Delivered: got.Sent - lost, Lost: lost, Reordered: swaps[0]})
		if swaps[0] < 90 {
			t.Errorf("only %d swaps", swaps[0])
		}
	})
}

// TestWindow loses a whole window, which must not end the flow, and holds the
// sender to it.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost, first := uint64(0), uint64(0)
		relay := &fakeRelay{meddle: func(s stamp, p []byte) [][]byte {
			if first == 0 {
				first = s.number
			}
			if s.number < first+4 {
				lost++
				return nil
			}
			return [][]byte{p}
		}}
		l := light
		l.Pairs, l.Window = 1, 4
		got, err := Pairs(t.Context(), relay.target(t), l)
		if err != nil {
			t.Fatal(err)
		}
		checkCounts(t, got, PairsReport{Sent: got.Sent, Delivered: got.Sent - 4, Lost: 4})
		// 200 ms pass in vain, of which 100 ms are caught up with.
		if lost != 4 || got.Sent < 850 || got.Sent > 950 {
			t.Errorf("%d lost, %d sent", lost, got.Sent)
		}
	})
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relay := &fakeRelay{meddle: func(_ stamp, p []byte) [][]byte {
			time.Sleep(3 * time.Millisecond)
			return [][]byte{p}
		}}
		l := light
		l.Rate = 100
		got, err := Pairs(t.Context(), relay.target(t), l)
		if err != nil {
			t.Fatal(err)
		}
		for _, us := range []float64{got.Latency.P50, got.Latency.P999, got.Latency.Max} {
			if us < 3000 || us > 3100 {
				t.Errorf("latencies %+v, want 3 ms each", got.Latency)
			}
		}
		if got.GoodputRate < 95 || got.GoodputRate > 105 || got.Seconds < .999 || got.Seconds > 1.1 {
			t.Errorf("%v packets/s in %v s", got.GoodputRate, got.Seconds)
		}
	})
}

func TestStopped(t *testing.T) {
	for name, after := range map[string]time.Duration{"warm-up": 50 * time.Millisecond, "measuring": 600 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			got, err := Pairs(ctx, new(fakeRelay).target(t), light)
			switch {
			case name == "warm-up" && !errors.Is(err, errInterrupted):
				t.Errorf("%s: %v", name, err)
			case name == "measuring" && (err != nil || got.Sent < 490 || got.Sent > 510 || got.Lost != 0):
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			if got.Complete {
				t.Errorf("%s: reported as complete", name)
			}
		})
	}
}

func TestRelayHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relay := &fakeRelay{until: 300}
		got, err := Pairs(t.Context(), relay.target(t), light)
		if err == nil || !strings.Contains(err.Error(), "hung up in the middle of the run; hint: ") || got.Complete || got.Sent == 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// TestDeafRelay ends although a write is stuck.
func TestDeafRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relay := &fakeRelay{until: 300, deaf: true}
		start := time.Now()
		got, err := Pairs(t.Context(), relay.target(t), light)
		if took := time.Since(start); err != nil || took > 5*time.Second || got.Lost != got.Sent-got.Delivered || got.Lost == 0 {
			t.Errorf("after %v: %+v, %v", took, got, err)
		}
	})
}

func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relay := &fakeRelay{refuses: true}
		target := relay.target(t)
		_, err := Pairs(t.Context(), target, light)
		if err == nil || !strings.Contains(err.Error(), "hint: ") || !strings.Contains(err.Error(), "--admit any") {
			t.Errorf("pairs: %v", err)
		}
		if _, err = Storm(t.Context(), target, 20); err == nil || !strings.Contains(err.Error(), "--admit any") {
			t.Errorf("storm: %v", err)
		}
	})
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		target := new(fakeRelay).target(t)
		target.Progress = func(line string) { lines = append(lines, line) }
		if _, err := Pairs(t.Context(), target, light); err != nil {
			t.Fatal(err)
		}
		if len(lines) < 4 || len(lines) > 6 || !strings.Contains(lines[3], "measuring: 0.8 of 1 s") {
			t.Errorf("%d lines: %q", len(lines), lines)
		}
	})
}

func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got, err := Storm(t.Context(), new(fakeRelay).target(t), 50)
		if err != nil || got.Logins != 50 || got.Failed != 0 || !got.Complete {
			t.Errorf("%+v, %v", got, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Storm(ctx, new(fakeRelay).target(t), 50); !errors.Is(err, errInterrupted) {
			t.Errorf("stopped: %v", err)
		}
	})
}

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{io.EOF, "--admit any"},
		{context.Canceled, "stopped before anything was measured"},
		{errors.New("other"), "bench: other"},
	} {
		if got := explain(tt.err); !strings.Contains(got.Error(), tt.want) {
			t.Errorf("%v is explained as %q", tt.err, got)
		}
	}
}
