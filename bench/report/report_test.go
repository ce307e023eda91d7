package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample writes results of two rounds in which every figure of ours is a third of
// derper's, and goodput three times.
func sample(generator string, runs ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"meta":{"date":"2026-01-02","cpu":"some CPU","cores":2,"generator":%q,"rounds":2,"derper":"v1"}}`+"\n", generator)
	for _, run := range runs {
		for round := 1; round <= 2; round++ {
			for server, n := range map[string]int{derper: 3 * round, detour: round} {
				fmt.Fprintf(&b, `{"round":%d,"run":%q,"server":%q,"result":{"cpu_ns_per_packet":%d,"delivered_pps":%d,"offered_pps":9000,`+
					`"loss_pct":1,"lat_p50_us":%d,"lat_p99_us":%d,"rss_per_conn_kb":%d,"mode":"x"}}`+"\n",
					round, run, server, 1000*n, 18000/n, 10*n, 100*n, 10*n)
			}
		}
	}
	return b.String()
}

func parsed(t *testing.T, text string) *dataset {
	t.Helper()
	d, err := parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParseRefuses(t *testing.T) {
	meta := `{"meta":{"generator":"derpload","rounds":1}}` + "\n"
	for name, text := range map[string]string{
		"nothing":         "",
		"no result":       meta,
		"no meta":         `{"round":1,"run":"light","server":"derper","result":{}}`,
		"two metas":       meta + meta,
		"no JSON":         meta + "derpload: connection refused",
		"strange program": `{"meta":{"generator":"wrk"}}` + "\n",
		"strange relay":   meta + `{"round":1,"run":"light","server":"nginx","result":{}}`,
		"no round":        meta + `{"run":"light","server":"derper","result":{}}`,
	} {
		if _, err := parse(strings.NewReader(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFieldsOfBothGenerators(t *testing.T) {
	const line = `{"round":1,"run":"light","server":"detour","result":%s}`
	for generator, result := range map[string]string{
		"derpload": `{"cpu_ns_per_packet":1500,"delivered_pps":2000,"loss_pct":5,"lat_p99_us":7}`,
		"detour": `{"server":{"cpu_us_per_packet":1.5},"goodput_packets_per_second":2000,"lost_packets":1,"sent_packets":20,` +
			`"latency":{"p99_us":7}}`,
	} {
		d := parsed(t, fmt.Sprintf(`{"meta":{"generator":%q,"rounds":1}}`+"\n"+line, generator, result))
		for m, want := range map[metric]float64{cpuPerPacket: 1.5, delivered: 2, loss: 5, p99: 7} {
			if got := d.all("light", detour, m); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s is %v, want %v", generator, m, got, want)
			}
		}
		if got := d.all("light", detour, rssPerPeer); len(got) > 0 {
			t.Errorf("%s: memory was not measured, but is %v", generator, got)
		}
	}
}

func TestSpread(t *testing.T) {
	for want, s := range map[string]spread{
		"-": {}, "3.00": {3}, "2.00 [1.00..9.00]": {9, 1, 2}, "2.50 [1.00..400]": {400, 2, 3, 1},
	} {
		if got := s.String(); got != want {
			t.Errorf("%v prints as %q, want %q", []float64(s), got, want)
		}
	}
}

func TestTargets(t *testing.T) {
	d := parsed(t, sample("derpload", "w16-each", "overload-x2", "cores2"))
	// Delivered in round 1: 18 by us, 6 by derper; in round 2: 9 and 3.
	for _, tt := range []struct {
		target         target
		score, verdict string
	}{
		{target{run: "w16-each", metric: cpuPerPacket, goal: timesLess, bound: 3}, "3.00 [3.00..3.00]x", "yes (2 of 2 rounds)"},
		{target{run: "w16-each", metric: cpuPerPacket, goal: timesLess, bound: 3.1}, "3.00 [3.00..3.00]x", "no (0 of 2 rounds)"},
		{target{run: "overload-x2", metric: delivered, goal: timesMore, bound: 2}, "3.00 [3.00..3.00]x", "yes (2 of 2 rounds)"},
		{target{run: "overload-x2", metric: delivered, goal: ofPeak, bound: 0.9}, "100 [100..100] %", "yes (2 of 2 rounds)"},
		{target{run: "w16-each", metric: p99, unit: "us", goal: atMost, bound: 120}, "150 us", "no (1 of 2 rounds)"},
		{target{run: "fanin", metric: p99, goal: timesLess, bound: 1}, "-", "not measured"},
	} {
		s := tt.target.scores(d)
		if got := tt.target.score(s); got != tt.score {
			t.Errorf("%+v reached %q, want %q", tt.target, got, tt.score)
		}
		if got := tt.target.verdict(s); got != tt.verdict {
			t.Errorf("%+v: %q, want %q", tt.target, got, tt.verdict)
		}
	}
}

// A round in which the machine was busy elsewhere says nothing about derper; one in which we lost packets does about us.
func TestDisturbedRounds(t *testing.T) {
	const text = `{"meta":{"generator":"derpload","rounds":2}}
{"round":1,"run":"20k-10","server":"derper","result":{"cpu_ns_per_packet":90000,"loss_pct":60}}
{"round":1,"run":"20k-10","server":"detour","result":{"cpu_ns_per_packet":10000,"loss_pct":0}}
{"round":2,"run":"20k-10","server":"derper","result":{"cpu_ns_per_packet":20000,"loss_pct":0}}
{"round":2,"run":"20k-10","server":"detour","result":{"cpu_ns_per_packet":40000,"loss_pct":60}}`
	d := parsed(t, text)
	if got := (target{run: "20k-10", metric: cpuPerPacket, goal: timesLess}).scores(d); len(got) != 1 || got[0] != 0.5 {
		t.Errorf("scores %v, want 0.5 of round 2 alone", got)
	}
	if !bytes.Contains(render(d, nil), []byte("Round 1 of 20k-10 is not in the ratios")) {
		t.Error("the page does not say what was left out")
	}
}

// What a fan-in and a tally look like, and where they end up.
func TestFanInAndAllocations(t *testing.T) {
	const text = `{"meta":{"generator":"detour","rounds":1}}
{"round":1,"run":"fanin","server":"derper","result":{"offered_packets_per_second":20000,"server":{"rss_growth_bytes":5000000},` +
		`"beside":{"sent_packets":1000,"lost_packets":10,"latency":{"p50_us":80,"p99_us":300,"p99_9_us":900}}}}
{"round":1,"run":"fanin","server":"detour","result":{"offered_packets_per_second":20000,"server":{"rss_growth_bytes":2000000},` +
		`"beside":{"sent_packets":1000,"lost_packets":0,"latency":{"p50_us":70,"p99_us":150,"p99_9_us":500}}}}
{"round":1,"run":"w16-each","server":"derper","result":{"relay_tally":{"mallocs":30,"sent_packets":10}}}
{"round":1,"run":"w16-each","server":"detour","result":{"relay_tally":{"mallocs":2,"sent_packets":10}}}
{"round":1,"run":"w16-batched","server":"detour","result":{"relay_tally":{"mallocs":1,"sent_packets":10}}}`
	page := string(render(parsed(t, text), nil))
	for _, want := range []string{
		"beside a fan-in (us) | 300 | 150 | no more | 2.00x | yes (1 of 1 rounds) |",
		"| fanin | derper | 20.0 | - | 1.00 | - | 80.0 | 300 | 900 |",
		"The relay's memory grew by 2.00 MB meanwhile, and derper's by 5.00 MB.",
		"| Heap allocations per packet, saturated, one record per packet | 3.00 | 0.20 | below 0.20 | 0.20 | no (0 of 1 rounds) |",
		"| Heap allocations per packet, saturated, full records | - | 0.10 | below 0.20 | 0.10 | yes (1 of 1 rounds) |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestWritesAllFiles(t *testing.T) {
	dir := t.TempDir()
	results := filepath.Join(dir, "results.jsonl")
	text := sample("derpload", "w16-batched", "w16-each", "light", "overload-x2", "idle-2000", "idle-15000") +
		`{"round":1,"run":"stun","server":"derper","failed":true}` + "\n"
	if err := os.WriteFile(results, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(results, filepath.Join(dir, "missing.jsonl"), dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| CPU per packet, saturated, one record per packet (us) | 4.50 [3.00..6.00] | 1.50 [1.00..2.00] | 3.00x less | 3.00 [3.00..3.00]x | yes (2 of 2 rounds) |",
		"15000 peers (KB)", "Round 1 gave no figures of stun for derper.", "not measured", "plots/memory.svg",
	} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("benchmarks.md lacks %q", want)
		}
	}
	for _, p := range plots {
		f, err := os.Open(filepath.Join(dir, "plots", p.file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		dec := xml.NewDecoder(f)
		for err == nil {
			_, err = dec.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s is no XML: %v", p.file, err)
		}
	}
}

// Whatever is missing, because a run was left out or failed, the rest is shown.
func TestWritesWithoutSomeRuns(t *testing.T) {
	for _, runs := range [][]string{{"light"}, {"idle-2000"}, {"stun"}, {"overload-open", "w16-each"}} {
		d := parsed(t, sample("derpload", runs...))
		if page := render(d, d); !bytes.Contains(page, []byte("not measured")) {
			t.Errorf("%v: nothing is missing", runs)
		}
		for _, p := range plots {
			if err := p.draw(d, io.Discard); err != nil {
				t.Errorf("%v: %s: %v", runs, p.file, err)
			}
		}
	}
}
