package bench

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestStamp(t *testing.T) {
	for _, size := range []int{stampSize, stampSize + 1, 1400} {
		packet := make([]byte, size)
		fill(packet)
		want := stamp{flow: 7, measured: true, number: 1 << 40, sent: 123456789}
		want.put(packet)
		if got, ok := parseStamp(packet); !ok || got != want {
			t.Errorf("%d bytes: %+v, %v", size, got, ok)
		}
		for i := range 8 * size { // every single bit counts
			packet[i/8] ^= 1 << (i % 8)
			if _, ok := parseStamp(packet); ok {
				t.Fatalf("%d bytes: bit %d makes no difference", size, i)
			}
			packet[i/8] ^= 1 << (i % 8)
		}
	}
}

func FuzzParseStamp(f *testing.F) {
	packet := make([]byte, 40)
	stamp{flow: 1, number: 2, sent: 3}.put(packet)
	f.Add(packet)
	f.Add(packet[:stampSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parseStamp(b)
		if !ok {
			return
		}
		again := bytes.Clone(b)
		s.put(again)
		if back, ok := parseStamp(again); !ok || back != s {
			t.Errorf("%x reads as %+v and comes back as %+v, %v", b, s, back, ok)
		}
	})
}

// TestOrder holds order to a plain set of numbers.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var o order
		seen, next := map[uint64]bool{}, uint64(0)
		for range rapid.IntRange(1, 200).Draw(t, "arrivals") {
			var n uint64
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0: // far ahead
				n = next + uint64(rapid.IntRange(0, 3*memory).Draw(t, "ahead"))
			case 1, 2, 3: // behind
				n = next - min(next, uint64(rapid.IntRange(1, memory+10).Draw(t, "behind")))
			case 4, 5: // just behind
				n = next - min(next, uint64(rapid.IntRange(1, 3).Draw(t, "just behind")))
			default:
				n = next
			}
			want := inOrder
			if n < next {
				want = late
				if seen[n] && next-n <= memory {
					want = again
				}
			}
			if got := o.note(n); got != want {
				t.Fatalf("number %d after %d is %d, want %d", n, next, got, want)
			}
			seen[n], next = true, max(next, n+1)
		}
	})
}

func TestHistogram(t *testing.T) {
	for _, v := range []uint64{0, 1, 31, 32, 63, 64, 65, 1000, 1 << 40, 1<<63 - 1} {
		if b := bucket(v); highest(b) < v || b > 0 && highest(b-1) >= v || float64(highest(b)) > 1.04*float64(v)+1 {
			t.Errorf("%d goes to bucket %d, which ends at %d", v, b, highest(b))
		}
	}
	var h histogram
	if h.quantile(.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for range 10000 {
		d := time.Duration(rng.ExpFloat64() * 1e6)
		all = append(all, d)
		var one histogram
		one.add(d)
		h.merge(&one)
	}
	slices.Sort(all)
	for _, q := range []float64{.001, .5, .9, .99, .999, 1} {
		want := all[max(int(q*float64(len(all))), 1)-1]
		if got := h.quantile(q); got < want || float64(got) > 1.04*float64(want)+1 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	h.add(-time.Second)
	if h.count != 10001 || h.quantile(1) != all[len(all)-1] {
		t.Errorf("after a negative one: %d, longest %v", h.count, h.quantile(1))
	}
}

// countingConn counts calls and remembers what was written.
type countingConn struct {
	net.Conn
	writes    []string
	reads     [][]byte
	deadlines int
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes = append(c.writes, string(p))
	return len(p), nil
}

func (c *countingConn) Read(p []byte) (int, error) {
	n := copy(p, c.reads[0])
	c.reads = c.reads[1:]
	return n, nil
}

func (c *countingConn) SetReadDeadline(time.Time) error  { c.deadlines++; return nil }
func (c *countingConn) SetWriteDeadline(time.Time) error { c.deadlines++; return nil }

func TestWire(t *testing.T) {
	c := &countingConn{reads: [][]byte{[]byte("abcdef"), []byte("gh")}}
	w := newWire(c, 16)
	idle := 0
	w.idle = func() { idle++ }

	w.Write([]byte("1"))
	w.cork()
	w.Write([]byte("2"))
	w.Write([]byte("3"))
	if err := w.uncork(); err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("4"))
	if got := strings.Join(c.writes, " "); got != "1 23 4" {
		t.Errorf("writes %q", got)
	}

	var got []string
	var b [4]byte
	for range 3 {
		n, _ := w.Read(b[:])
		got = append(got, string(b[:n]))
	}
	if want := []string{"abcd", "ef", "gh"}; !slices.Equal(got, want) || idle != 2 {
		t.Errorf("reads %q, want %q; idle %d times, want 2", got, want, idle)
	}
}

func TestDeadlineSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &countingConn{}
		w := newWire(c, 1)
		set := func(after time.Duration, want int) {
			t.Helper()
			at := time.Now().Add(after)
			c.deadlines = 0
			w.SetReadDeadline(at)
			w.SetWriteDeadline(at)
			if c.deadlines != 2*want {
				t.Errorf("%v: %d were set, want %d", after, c.deadlines, 2*want)
			}
		}
		set(10*time.Second, 1)
		set(10*time.Second+deadlineStep-1, 0)
		set(10*time.Second+deadlineStep, 1)
		set(5*time.Second, 1) // an earlier one always counts
		w.mu.Lock()           // as a writer that is stuck holds it
		c.deadlines = 0
		w.SetWriteDeadline(time.Now())
		w.mu.Unlock()
		if c.deadlines != 1 {
			t.Error("a stuck write cannot be given a deadline")
		}
	})
}

// TestJSON pins the keys, which scripts rely on.
func TestJSON(t *testing.T) {
	server := &Server{CPUPerPacket: 1, CPUPerLogin: 1, CPUPerResponse: 1, RSSPerPeer: 1, RSSGrowth: 1}
	const common = "complete duration_seconds mode relay server "
	for _, tt := range []struct {
		report Report
		want   string
	}{
		{PairsReport{Common: Common{Server: server}, TLS: "TLS 1.3"}, common + "tls pairs size_bytes rate_limit_packets_per_second " +
			"window_packets flush_each sent_packets delivered_packets lost_packets reordered_packets duplicated_packets " +
			"corrupted_packets offered_packets_per_second goodput_packets_per_second goodput_megabits_per_second latency"},
		{FanInReport{Common: Common{Server: server}, TLS: "TLS 1.3"}, common + "tls senders size_bytes rate_limit_packets_per_second " +
			"flush_each offered_packets_per_second slow_receiver corrupted_packets quiet beside"},
		{IdleReport{Common: Common{Server: server}}, common + "peers lost_peers logins_per_second"},
		{StormReport{Common: Common{Server: server}, FirstError: "x"}, common + "logins failed_logins first_error logins_per_second latency"},
		{STUNReport{Common: Common{Server: server}}, common + "requests responses wrong_responses responses_per_second"},
		{AttackReport{Common: Common{Server: server}}, common + "connections_per_second attacks"},
		{PairsReport{}, ""},
	} {
		var text bytes.Buffer
		if err := WriteJSON(&text, tt.report); err != nil {
			t.Fatal(err)
		}
		var object map[string]any
		if err := json.Unmarshal(text.Bytes(), &object); err != nil || !strings.HasSuffix(text.String(), "}\n") {
			t.Fatalf("%v: %s", err, text.String())
		}
		if tt.want == "" {
			if _, ok := object["server"]; ok {
				t.Error("there is a server that nobody watched")
			}
			continue
		}
		checkKeys(t, object, tt.want)
		checkKeys(t, object["server"].(map[string]any), "cpu_seconds cpu_percent rss_before_bytes rss_after_bytes cpu_us_per_packet cpu_us_per_login cpu_us_per_response rss_bytes_per_peer rss_growth_bytes")
		if l, ok := object["latency"].(map[string]any); ok {
			checkKeys(t, l, "p50_us p90_us p99_us p99_9_us max_us")
		}
		for key, want := range map[string]string{
			"slow_receiver": "connected received_packets received_bytes_per_second",
			"quiet":         "sent_packets lost_packets latency", "beside": "sent_packets lost_packets latency",
		} {
			if part, ok := object[key].(map[string]any); ok {
				checkKeys(t, part, want)
			}
		}
	}
}

func checkKeys(t *testing.T, object map[string]any, want string) {
	t.Helper()
	got := slices.Sorted(maps.Keys(object))
	wanted := strings.Fields(want)
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		t.Errorf("keys %q\nwant %q", got, wanted)
	}
}

func TestTable(t *testing.T) {
	r := PairsReport{
		Common: Common{Relay: "https://127.0.0.1:8443", Seconds: 5.0042, Server: &Server{CPUPercent: 84.2, CPUPerPacket: 1.915, RSSBefore: 14e6, RSSAfter: 15.26e6}},
		TLS:    "TLS 1.3", Pairs: 10, SizeBytes: 1400, RateLimit: 20000, Window: 16, FlushEach: true,
		Sent: 100000, Delivered: 99990, Lost: 10, OfferedRate: 20000, GoodputRate: 19998, GoodputMbit: 223.98,
		Latency: Latency{12, 345, 1234, 98765, 1.5e6},
	}
	want := strings.Join([]string{
		"relay       https://127.0.0.1:8443",
		"measured    5.00 s, stopped before the end",
		"load        10 pairs, 1400-byte packets, 20000 packets/s, window 16, a record each, TLS 1.3",
		"sent        100000 packets, 20000/s",
		"delivered   99990",
		"lost        10 (0.010 %)",
		"reordered   0",
		"duplicated  0",
		"corrupted   0",
		"goodput     19998 packets/s, 224.0 Mbit/s",
		"latency     p50 12 µs  p90 345 µs  p99 1.23 ms  p99.9 98.77 ms  max 1.50 s",
		"server CPU  84 % of a core, 1.92 µs per packet",
		"server RSS  14.0 MB before, 15.3 MB after", "",
	}, "\n")
	var got strings.Builder
	if err := WriteTable(&got, r); err != nil || got.String() != want {
		t.Errorf("%v\ngot:\n%s\nwant:\n%s", err, got.String(), want)
	}
}
