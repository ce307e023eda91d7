package bench

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// crowded is a fan-in of which only little can be read.
var crowded = Load{Size: 1400, Rate: 1000, Duration: time.Second, Warmup: 100 * time.Millisecond}

// underFanIn is when, after the start of crowded, its second half is measured.
const underFanIn = 1300 * time.Millisecond

func TestFanIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, lost := time.Now(), uint64(0)
		relay := &fakeRelay{meddle: func(s stamp, p []byte) [][]byte {
			if time.Since(start) < underFanIn {
				return [][]byte{p}
			}
			if s.number%10 == 3 {
				lost++
				return nil
			}
			time.Sleep(3 * time.Millisecond)
			return [][]byte{p}
		}}
		target := relay.target(t)
		if runtime.GOOS == "linux" {
			target.ServerPID = os.Getpid() // the fake's process, too
		}
		got, err := FanIn(t.Context(), target, 5, crowded)
		if err != nil || !got.Complete || got.Mode != "fanin" || got.Corrupted != 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		if q := got.Quiet; q.Sent < 990 || q.Sent > 1010 || q.Lost != 0 || q.Latency.Max > 1 {
			t.Errorf("quiet: %+v", q)
		}
		if b := got.Beside; lost < 20 || b.Lost != lost || b.Latency.P50 < 3000 {
			t.Errorf("under the fan-in: %+v, want %d lost", b, lost)
		}
		// The fake reads no faster from its senders than it can write, so each has some packets at most under way.
		if r := got.Receiver; !r.Connected || r.Received == 0 || r.ReceiveRate < .5*slowRate || r.ReceiveRate > 1.1*slowRate {
			t.Errorf("the slow receiver: %+v", r)
		}
		if got.OfferedRate <= 0 || got.OfferedRate > 1.1*crowded.Rate {
			t.Errorf("%v packets/s", got.OfferedRate)
		}
		if s := got.Server; s != nil && (s.RSSBefore == 0 || s.RSSGrowth != s.RSSAfter-s.RSSBefore || s.CPUPerPacket != 0) {
			t.Errorf("%+v", s)
		}
	})
}

func TestFanInStopped(t *testing.T) {
	for name, after := range map[string]time.Duration{"quiet": 600 * time.Millisecond, "fan-in": 1800 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			got, err := FanIn(ctx, new(fakeRelay).target(t), 3, crowded)
			if err != nil || got.Complete || got.Quiet.Sent == 0 || (got.Beside.Sent > 0) != (name == "fan-in") {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := FanIn(ctx, new(fakeRelay).target(t), 3, crowded); !errors.Is(err, errInterrupted) {
			t.Errorf("in the warm-up: %v", err)
		}
	})
}

// TestFanInCutOff has the relay give up the slow receiver, which is its right,
// and then a sender, which is not.
func TestFanInCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relay := &fakeRelay{cutsTo: crowded.Size}
		got, err := FanIn(t.Context(), relay.target(t), 3, crowded)
		if err != nil || !got.Complete || got.Receiver.Connected || got.Receiver.Received != 0 || got.Beside.Lost != 0 {
			t.Errorf("the receiver: %+v, %v", got, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		relay := &fakeRelay{cutsFrom: crowded.Size}
		got, err := FanIn(t.Context(), relay.target(t), 3, crowded)
		if err == nil || !strings.Contains(err.Error(), "bench: sender ") || !strings.Contains(err.Error(), "; hint: ") || got.Complete || !got.Receiver.Connected {
			t.Errorf("a sender: %+v, %v", got, err)
		}
	})
}

func TestFanInCorrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flipped := uint64(0)
		relay := &fakeRelay{meddle: func(s stamp, p []byte) [][]byte {
			if s.number%10 == 3 {
				flipped++
				p[len(p)-1] ^= 1
			}
			return [][]byte{p}
		}}
		got, err := FanIn(t.Context(), relay.target(t), 3, crowded)
		if err != nil || flipped == 0 || got.Corrupted != flipped || got.Quiet.Lost+got.Beside.Lost != 0 {
			t.Errorf("%+v, %v; want %d corrupted", got, err, flipped)
		}
	})
}

func TestFanInTable(t *testing.T) {
	r := FanInReport{
		Common:  Common{Relay: "https://127.0.0.1:8443", Complete: true, Seconds: 5, Server: &Server{CPUPercent: 31, RSSBefore: 14e6, RSSAfter: 15.2e6, RSSGrowth: 1.2e6}},
		Senders: 20, SizeBytes: 1400, RateLimit: 20000, OfferedRate: 19998, TLS: "TLS 1.3",
		Receiver: SlowReceiver{Received: 80, ReceiveRate: 19800},
		Quiet:    Probe{Sent: 5000, Latency: Latency{90, 120, 240, 900, 1200}},
		Beside:   Probe{Sent: 5000, Lost: 5, Latency: Latency{95, 130, 300, 1100, 1500}},
	}
	want := strings.Join([]string{
		"relay          https://127.0.0.1:8443",
		"measured       5.00 s",
		"load           20 senders, 1400-byte packets, 20000 packets/s, TLS 1.3",
		"sent           19998 packets/s",
		"slow receiver  not connected, took 80 packets, 19.8 KB/s",
		"pair, quiet    p50 90 µs  p90 120 µs  p99 240 µs  p99.9 900 µs  max 1.20 ms",
		"lost, quiet    0 of 5000 (0.000 %)",
		"pair, fan-in   p50 95 µs  p90 130 µs  p99 300 µs  p99.9 1.10 ms  max 1.50 ms",
		"lost, fan-in   5 of 5000 (0.100 %)",
		"corrupted      0",
		"server CPU     31 % of a core",
		"server RSS     14.0 MB before, 15.2 MB after, +1.2 MB", "",
	}, "\n")
	var got strings.Builder
	if err := WriteTable(&got, r); err != nil || got.String() != want {
		t.Errorf("%v\ngot:\n%s\nwant:\n%s", err, got.String(), want)
	}
}
