package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// goal is how a target is judged.
type goal int

const (
	timesLess goal = iota // derper's figure over ours is at least bound
	timesMore             // ours over derper's is at least bound
	ofPeak                // ours over the most that we delivered in any run on one core is at least bound
	atMost                // ours is at most bound
	below                 // ours is less than bound
)

// target is one row of the table.
type target struct {
	what   string
	run    string
	metric metric
	unit   string
	goal   goal
	bound  float64
}

// targets returns the table; there is a row for each number of idle peers.
func targets(d *dataset) []target {
	t := []target{
		{"CPU per packet, saturated, full records", "w16-batched", cpuPerPacket, "us", timesLess, 3},
		{"CPU per packet, saturated, one record per packet", "w16-each", cpuPerPacket, "us", timesLess, 3},
		{"CPU per packet, 20,000 packets/s over 10 pairs", "20k-10", cpuPerPacket, "us", timesLess, 1.6},
		{"CPU per packet, 20,000 packets/s over 200 pairs", "20k-200", cpuPerPacket, "us", timesLess, 1.2},
		{"CPU per packet, two cores shared with the generator", "cores2", cpuPerPacket, "us", timesLess, 3},
		{"Heap allocations per packet, saturated, full records", "w16-batched", allocs, "", below, 0.2},
		{"Heap allocations per packet, saturated, one record per packet", "w16-each", allocs, "", below, 0.2},
	}
	for _, run := range idleRuns(d) {
		what := "Memory per idle peer, " + strings.TrimPrefix(run, idlePrefix) + " peers"
		t = append(t, target{what, run, rssPerPeer, "KB", timesLess, 3.3}, target{what, run, rssPerPeer, "KB", atMost, 20})
	}
	t = append(t,
		target{"CPU per login", "storm", cpuPerLogin, "ms", timesLess, 1.1},
		target{"Latency p99, saturated", "w16-each", p99, "us", timesLess, 2},
		target{"Latency p50, 3,000 packets/s", "light", p50, "us", timesLess, 1},
		target{"Latency p99, 3,000 packets/s", "light", p99, "us", timesLess, 1},
	)
	for _, o := range []struct{ run, what string }{
		{"overload-x2", "offered twice what saturates it"},
		{"overload-x10", "offered ten times that"},
		{"overload-open", "offered as fast as TCP takes it"},
	} {
		t = append(t,
			target{"Goodput, " + o.what, o.run, delivered, "kpps", timesMore, 50},
			target{"Goodput, " + o.what, o.run, delivered, "kpps", ofPeak, 0.9})
	}
	return append(t,
		target{"Latency p99 of a light pair beside the overload, two cores", "overload-beside", p99, "us", atMost, 5000},
		target{"Latency p99 of an unrelated pair beside a fan-in", fanin, p99, "us", timesLess, 1},
		target{"STUN: CPU per response", "stun", cpuPerAnswer, "us", timesLess, 1})
}

// Names of runs, as compare.sh has them.
const (
	idlePrefix = "idle-" // and the number of peers
	fanin      = "fanin"
)

// idleRuns returns the idle runs, fewest peers first.
func idleRuns(d *dataset) []string {
	var runs []string
	for _, run := range d.runs {
		if peersOf(run) > 0 {
			runs = append(runs, run)
		}
	}
	slices.SortFunc(runs, func(a, b string) int { return peersOf(a) - peersOf(b) })
	return runs
}

// peersOf returns the number of peers in an idle run's name, and 0 for any other run.
func peersOf(run string) int {
	var n int
	if _, err := fmt.Sscanf(run, idlePrefix+"%d", &n); err != nil {
		return 0
	}
	return n
}

// scores returns what the target judges, one figure a round in which it could be
// made out.
func (t target) scores(d *dataset) spread {
	var s spread
	for round := 1; round <= d.meta.Rounds; round++ {
		ours, ok := d.value(cell{t.run, detour, round}, t.metric)
		theirs, both := d.value(cell{t.run, derper, round}, t.metric)
		switch {
		case !ok || t.goal <= timesMore && !both:
		case t.goal == timesLess && d.disturbed(t.run, round):
		case t.goal == timesLess && ours > 0:
			s = append(s, theirs/ours)
		case t.goal == timesMore && theirs > 0:
			s = append(s, ours/theirs)
		case t.goal == ofPeak:
			if peak := d.peak(detour, round); peak > 0 {
				s = append(s, ours/peak)
			}
		case t.goal == atMost || t.goal == below:
			s = append(s, ours)
		}
	}
	return s
}

// pacedLoss is the share of packets, in %, that a relay with time to spare does
// not lose.
const pacedLoss = 5

// disturbed reports whether derper lost packets at a rate far below what it can
// carry. Something else had the machine then, and a ratio would flatter us; if
// it was us who lost them, it does not, and counts.
func (d *dataset) disturbed(run string, round int) bool {
	lost, ok := d.value(cell{run, derper, round}, loss)
	return ok && lost > pacedLoss && slices.Contains(paced, run)
}

// paced are the runs at a rate that either relay carries with ease.
var paced = []string{"20k-10", "20k-200", "light"}

// twoCores are the runs that move many packets and have two cores for it.
var twoCores = []string{"cores2", "overload-flood", "beside-idle-flood"}

// peak returns the most that a relay delivered on one core in a round, in kpps.
func (d *dataset) peak(server string, round int) float64 {
	var most float64
	for c, v := range maps.All(d.values) {
		if c.server == server && c.round == round && !slices.Contains(twoCores, c.run) {
			most = max(most, v[delivered])
		}
	}
	return most
}

func (t target) met(score float64) bool {
	switch t.goal {
	case atMost:
		return score <= t.bound
	case below:
		return score < t.bound
	default:
		return score >= t.bound
	}
}

// name is what is measured, with its unit.
func (t target) name() string {
	if t.unit == "" {
		return t.what
	}
	return t.what + " (" + t.unit + ")"
}

// String says what is asked for.
func (t target) String() string {
	switch t.goal {
	case timesLess:
		if t.bound == 1 {
			return "no more"
		}
		return fmt.Sprintf("%sx less", number(t.bound))
	case timesMore:
		return fmt.Sprintf("%sx more", number(t.bound))
	case ofPeak:
		return fmt.Sprintf("%.0f %% of its peak", 100*t.bound)
	case below:
		return strings.TrimSpace("below " + number(t.bound) + " " + t.unit)
	default:
		return fmt.Sprintf("at most %s %s", number(t.bound), t.unit)
	}
}

// score prints what was reached, in the words of the goal.
func (t target) score(s spread) string {
	if len(s) == 0 {
		return "-"
	}
	switch t.goal {
	case ofPeak:
		percent := slices.Clone(s)
		for i := range percent {
			percent[i] *= 100
		}
		return percent.String() + " %"
	case atMost, below:
		return strings.TrimSpace(number(s.median()) + " " + t.unit)
	default:
		return s.String() + "x"
	}
}

// verdict judges the median, and says how many rounds agree that it is met.
func (t target) verdict(s spread) string {
	if len(s) == 0 {
		return "not measured"
	}
	rounds := 0
	for _, v := range s {
		if t.met(v) {
			rounds++
		}
	}
	word := "no"
	if t.met(s.median()) {
		word = "yes"
	}
	return fmt.Sprintf("%s (%d of %d rounds)", word, rounds, len(s))
}
