package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// render writes benchmarks.md. other is the same list measured by the other
// generator, or nil.
func render(d, other *dataset) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `# Benchmarks

<!-- Written by bench/report from the last `+"`make bench`"+`: change that, not this page. -->

Detour beside derper %s, on one machine, over loopback. The figures depend on the machine; the ratios depend on it
much less, and they are what is judged. Each relay is started afresh for each measurement, and both are measured one
right after the other, in an order that alternates from round to round.

`, d.meta.Derper)
	renderMachine(&b, d)
	renderTargets(&b, d)
	renderPlots(&b)
	renderRuns(&b, d)
	if other != nil {
		renderCross(&b, d, other)
	}
	renderRepeat(&b, d)
	return b.Bytes()
}

func renderMachine(b *bytes.Buffer, d *dataset) {
	m := d.meta
	pinned := "The relay ran on core 0 with GOMAXPROCS=1 and the generator on core 1, except where two cores are named."
	if !m.Pinned {
		pinned = "The processes could not be pinned to cores here: GOMAXPROCS alone kept the relay to one."
	}
	fmt.Fprintf(b, `| | |
|---|---|
| date, commit | %s, %s |
| machine | %s, %d cores, load average before the first run %s |
| kernel, Go | %s, %s |
| generator | %s |
| measured | rounds: %d, of %d s for each measurement |

%s
Both relays spoke TLS 1.3 with a self-signed P-256 certificate and default settings. Payloads were 1,400 bytes.

`, m.Date, m.Commit, m.CPU, m.Cores, m.Load, m.Kernel, m.Go, m.Generator, m.Rounds, m.Seconds, pinned)
}

func renderTargets(b *bytes.Buffer, d *dataset) {
	b.WriteString(`## Targets

A figure is the median of the rounds, with the least and the greatest in brackets; so is a ratio, which is made within each
round. A target is met when the median meets it; how many rounds alone would have met it says how sure that is.

| what | derper | detour | target | reached | met |
|---|---|---|---|---|---|
`)
	for _, t := range targets(d) {
		score := t.scores(d)
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", t.name(), d.all(t.run, derper, t.metric),
			d.all(t.run, detour, t.metric), t, t.score(score), t.verdict(score))
	}
	b.WriteString(`
"Its peak" is the most that Detour delivered on one core in any run of the same round. Heap allocations are those of
the whole process from before the run to after it, logins included, over the packets that the relay sent meanwhile. The
path of a packet itself allocates nothing, which a test of the relay checks.

`)
}

func renderPlots(b *bytes.Buffer) {
	for _, p := range plots {
		fmt.Fprintf(b, "![%s](plots/%s)\n\n", p.title, p.file)
	}
}

// columns are the metrics of the table of all runs.
var columns = []struct {
	head   string
	metric metric
}{
	{"sent, kpps", offered},
	{"delivered, kpps", delivered},
	{"loss, %", loss},
	{"CPU us/packet", cpuPerPacket},
	{"p50 us", p50},
	{"p99 us", p99},
	{"p99.9 us", p999},
}

func renderRuns(b *bytes.Buffer, d *dataset) {
	b.WriteString("## All runs that move packets\n\n| run | relay |")
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c.head)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, run := range d.runs {
		if len(d.all(run, detour, loss))+len(d.all(run, derper, loss)) == 0 {
			continue // it moves none
		}
		for _, server := range []string{derper, detour} {
			fmt.Fprintf(b, "| %s | %s |", run, server)
			for _, c := range columns {
				fmt.Fprintf(b, " %s |", d.all(run, server, c.metric))
			}
			b.WriteString("\n")
		}
	}
	b.WriteString(`
- w16: 10 pairs, at most 16 packets under way in each: the most that goes through without loss. "batched" fills TLS
  records; "each" makes a record of each packet, as real clients do.
- 20k-10, 20k-200, light: 20,000 packets/s over 10 and over 200 pairs, and 3,000 over 10; one packet per system call.
- overload-xN: 10 pairs send N times what the same relay carried in w16-batched; "open" sends as fast as TCP takes it.
  Latency there is that of packets which waited in every queue on the way. What a sender cannot get rid of is not sent,
  so that a relay which reads no faster than it can deliver is never sent ten times its peak. And a relay that still
  delivers at twice its own peak, as derper may, leaves no room for fifty times more.
- cores2: w16-each with GOMAXPROCS=2 and the generator on the same two cores. overload-flood and overload-beside: an open
  overload and, during it, a pair that sends 200 packets/s, all on two cores.
- beside-idle: the control for overload-beside. The flood (beside-idle-flood) goes through one relay and the pair through
  a second of the same kind that does nothing else, so its latency is what the kernel's scheduling of two cores costs.
- fanin: an unrelated pair's latency while 20 peers send 20,000 packets/s to one that reads 20 KB/s.
`)
	if ours, theirs := d.all(fanin, detour, grownRSS), d.all(fanin, derper, grownRSS); len(ours) > 0 && len(theirs) > 0 {
		fmt.Fprintf(b, "  The relay's memory grew by %s MB meanwhile, and derper's by %s MB.\n", ours, theirs)
	}
	for _, run := range paced {
		for round := 1; round <= d.meta.Rounds; round++ {
			if d.disturbed(run, round) {
				fmt.Fprintf(b, "- Round %d of %s is not in the ratios: derper lost over %d %%, so something else had the machine.\n",
					round, run, pacedLoss)
			}
		}
	}
	for _, f := range d.failed {
		fmt.Fprintf(b, "- Round %d gave no figures of %s for %s.\n", f.round, f.run, f.server)
	}
	b.WriteString("\n")
}

// crossed are the figures that two generators should agree on.
var crossed = []struct {
	run    string
	metric metric
	unit   string
}{
	{"w16-batched", cpuPerPacket, "us of CPU"},
	{"w16-batched", delivered, "kpps"},
	{"w16-each", cpuPerPacket, "us of CPU"},
	{"w16-each", delivered, "kpps"},
	{"20k-10", cpuPerPacket, "us of CPU"},
	{"20k-200", cpuPerPacket, "us of CPU"},
	{"light", p50, "us p50"},
	{"storm", cpuPerLogin, "ms of CPU"},
	{"stun", cpuPerAnswer, "us of CPU"},
}

// crossTolerance is the difference between generators, as a share, above which
// the table points at a figure.
const crossTolerance = 0.1

func renderCross(b *bytes.Buffer, d, other *dataset) {
	fmt.Fprintf(b, "## Two generators\n\nThe same list for the same relay, measured by %s and by %s (%s, commit %s).\n\n",
		d.meta.Generator, other.meta.Generator, other.meta.Date, other.meta.Commit)
	fmt.Fprintf(b, "| run | relay | unit | %s | %s | difference of the medians |\n|---|---|---|---|---|---|\n",
		d.meta.Generator, other.meta.Generator)
	for _, c := range crossed {
		for _, server := range []string{derper, detour} {
			x, y := d.all(c.run, server, c.metric), other.all(c.run, server, c.metric)
			if len(x) == 0 || len(y) == 0 {
				continue
			}
			apart := (x.median() - y.median()) / cmp.Or(y.median(), math.Inf(1))
			mark := ""
			if math.Abs(apart) > crossTolerance {
				mark = " (!)"
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %+.0f %%%s |\n", c.run, server, c.unit, x, y, 100*apart, mark)
		}
	}
	b.WriteString("\n")
}

func renderRepeat(b *bytes.Buffer, d *dataset) {
	commands := []string{
		"make bench                                                       # about 20 minutes; best on a quiet machine",
		"ROUNDS=1 DURATION=2 PEERS=500 bench/compare.sh                   # a first look",
		"GENERATOR=/path/to/derpload bench/compare.sh                     # with an independent generator",
	}
	fmt.Fprintf(b, "## Do it again\n\n    %s\n\n", strings.Join(commands, "\n    "))
	fmt.Fprintf(b, `bench/compare.sh builds both relays, derper as tailscale.com/cmd/derper@%s from the Go module proxy, and says at its top
what it takes. It leaves every result as a line of JSON in bench/out/. CPU time is the kernel's, in steps of 10 ms, and
includes the system's part; memory is resident memory. How the path works that is measured here, and what else was tried:
[data-path.md](data-path.md).
`, d.meta.Derper)
}

// present returns those of runs that were measured for both relays.
func (d *dataset) present(m metric, runs ...string) []string {
	return slices.DeleteFunc(runs, func(run string) bool {
		return len(d.all(run, derper, m)) == 0 || len(d.all(run, detour, m)) == 0
	})
}
