package bench

import "fmt"

// FanInReport is the outcome of FanIn. Common is about the time under the
// fan-in, but that Server.RSSBefore is from before it.
type FanInReport struct {
	Common
	TLS       string  `json:"tls,omitempty"` // version; missing without TLS
	Senders   int     `json:"senders"`
	SizeBytes int     `json:"size_bytes"`
	RateLimit float64 `json:"rate_limit_packets_per_second"` // of all senders; 0: none
	FlushEach bool    `json:"flush_each"`

	OfferedRate float64      `json:"offered_packets_per_second"` // by all senders
	Receiver    SlowReceiver `json:"slow_receiver"`
	Corrupted   uint64       `json:"corrupted_packets"` // of all packets of all phases

	Quiet  Probe `json:"quiet"`  // the unrelated pair before the fan-in
	Beside Probe `json:"beside"` // and under it
}

// SlowReceiver is what became of the one to which everybody sends. What it is
// not given is no loss: nobody could take it all.
type SlowReceiver struct {
	Connected   bool    `json:"connected"` // still, at the end
	Received    uint64  `json:"received_packets"`
	ReceiveRate float64 `json:"received_bytes_per_second"`
}

// Probe is what the unrelated pair met with.
type Probe struct {
	Sent    uint64  `json:"sent_packets"`
	Lost    uint64  `json:"lost_packets"`
	Latency Latency `json:"latency"`
}

func (r FanInReport) rows() []row {
	load := fmt.Sprintf("%d senders, %d-byte packets", r.Senders, r.SizeBytes)
	if r.RateLimit > 0 {
		load += fmt.Sprintf(", %.0f packets/s", r.RateLimit)
	}
	if r.FlushEach {
		load += ", a record each"
	}
	if r.TLS != "" {
		load += ", " + r.TLS
	}
	state := "still connected"
	if !r.Receiver.Connected {
		state = "not connected"
	}
	return join(r.Common.rows(), []row{
		{"load", load},
		line("sent", "%.0f packets/s", r.OfferedRate),
		line("slow receiver", "%s, took %d packets, %.1f KB/s", state, r.Receiver.Received, r.Receiver.ReceiveRate/1e3),
	}, r.Quiet.rows("quiet"), r.Beside.rows("fan-in"), []row{line("corrupted", "%d", r.Corrupted)}, r.Server.rows())
}

// rows are those of one phase of the unrelated pair.
func (p Probe) rows(phase string) []row {
	return []row{
		{"pair, " + phase, p.Latency.String()},
		line("lost, "+phase, "%d of %d (%.3f %%)", p.Lost, p.Sent, 100*ratio(float64(p.Lost), float64(p.Sent))),
	}
}
