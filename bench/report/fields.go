package main

import "strings"

// metric is one quantity that a run measures, with its unit in the comment.
type metric string

const (
	cpuPerPacket metric = "cpu"       // us of the relay per delivered packet
	delivered    metric = "delivered" // thousand packets/s
	offered      metric = "offered"   // thousand packets/s that the relay was sent
	loss         metric = "loss"      // % of those sent
	p50          metric = "p50"       // us, from before the sender's system call to the receiver
	p99          metric = "p99"       // us
	p999         metric = "p999"      // us
	rssPerPeer   metric = "rss"       // KB (1000 bytes) of resident memory for each peer more
	cpuPerLogin  metric = "login"     // ms of the relay
	cpuPerAnswer metric = "stun"      // us of the relay per STUN response
	grownRSS     metric = "grown"     // MB (1,000,000 bytes) by which the relay's memory grew
	allocs       metric = "allocs"    // of the whole process on the heap, for each packet that it sent
)

// field says where a metric stands in a generator's JSON: a dotted path, what to
// multiply it with to get the metric's unit, and the field to divide it by, if any.
type field struct {
	path  string
	scale float64
	per   string
}

// in returns the field's value in a result; ok is false when it is not there.
func (f field) in(result map[string]any) (v float64, ok bool) {
	if v, ok = lookup(result, f.path); !ok || f.per == "" {
		return v * f.scale, ok
	}
	per, ok := lookup(result, f.per)
	return v * f.scale / per, ok && per > 0
}

func lookup(object map[string]any, path string) (v float64, ok bool) {
	for {
		head, rest, nested := strings.Cut(path, ".")
		if !nested {
			v, ok = object[head].(float64)
			return v, ok
		}
		object, _ = object[head].(map[string]any)
		path = rest
	}
}

// tallied is what compare.sh itself adds to a result, whichever the generator.
var tallied = []field{{path: "relay_tally.mallocs", scale: 1, per: "relay_tally.sent_packets"}}

// generators lists, for each load generator, the fields to read. The first of
// several that is there counts.
var generators = map[string]map[metric][]field{
	"detour": {
		cpuPerPacket: {{path: "server.cpu_us_per_packet", scale: 1}},
		delivered:    {{path: "goodput_packets_per_second", scale: 1e-3}},
		offered:      {{path: "offered_packets_per_second", scale: 1e-3}},
		loss:         {{path: "lost_packets", scale: 100, per: "sent_packets"}, {path: "beside.lost_packets", scale: 100, per: "beside.sent_packets"}},
		p50:          {{path: "latency.p50_us", scale: 1}, {path: "beside.latency.p50_us", scale: 1}},
		p99:          {{path: "latency.p99_us", scale: 1}, {path: "beside.latency.p99_us", scale: 1}},
		p999:         {{path: "latency.p99_9_us", scale: 1}, {path: "beside.latency.p99_9_us", scale: 1}},
		rssPerPeer:   {{path: "server.rss_bytes_per_peer", scale: 1e-3}},
		cpuPerLogin:  {{path: "server.cpu_us_per_login", scale: 1e-3}},
		cpuPerAnswer: {{path: "server.cpu_us_per_response", scale: 1}},
		grownRSS:     {{path: "server.rss_growth_bytes", scale: 1e-6}},
		allocs:       tallied,
	},
	"derpload": {
		cpuPerPacket: {{path: "cpu_ns_per_packet", scale: 1e-3}},
		delivered:    {{path: "delivered_pps", scale: 1e-3}},
		offered:      {{path: "offered_pps", scale: 1e-3}},
		loss:         {{path: "loss_pct", scale: 1}, {path: "fanin_probe_loss_pct", scale: 1}},
		p50:          {{path: "lat_p50_us", scale: 1}, {path: "fanin_p50_us", scale: 1}},
		p99:          {{path: "lat_p99_us", scale: 1}, {path: "fanin_p99_us", scale: 1}},
		p999:         {{path: "lat_p999_us", scale: 1}, {path: "fanin_p999_us", scale: 1}},
		rssPerPeer:   {{path: "rss_per_conn_kb", scale: 1}},
		cpuPerLogin:  {{path: "cpu_ms_per_conn", scale: 1}},
		cpuPerAnswer: {{path: "cpu_ns_per_response", scale: 1e-3}},
		allocs:       tallied,
	},
}
