package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Report is the outcome of a run. Its JSON is one object whose keys name their
// units.
type Report interface{ rows() []row }

// row is one line of a table.
type row struct{ name, value string }

// Common is in every report.
type Common struct {
	Mode  string `json:"mode"` // pairs, fanin, idle, storm, stun or attack
	Relay string `json:"relay"`
	// Complete is false when the run was stopped before its end.
	Complete bool    `json:"complete"`
	Seconds  float64 `json:"duration_seconds"` // of what was measured
	// Server is missing unless the server's process was named.
	Server *Server `json:"server,omitempty"`
}

// Server is what the server's process used during the run. Of the costs after
// RSSAfter only the one of the run's mode is there.
type Server struct {
	CPUTime    float64 `json:"cpu_seconds"`
	CPUPercent float64 `json:"cpu_percent"` // of one core
	RSSBefore  int64   `json:"rss_before_bytes"`
	RSSAfter   int64   `json:"rss_after_bytes"`

	CPUPerPacket   float64 `json:"cpu_us_per_packet,omitempty"`
	CPUPerLogin    float64 `json:"cpu_us_per_login,omitempty"`
	CPUPerResponse float64 `json:"cpu_us_per_response,omitempty"`
	RSSPerPeer     float64 `json:"rss_bytes_per_peer,omitempty"`
	RSSGrowth      int64   `json:"rss_growth_bytes,omitempty"` // since before the fan-in
}

// PairsReport is the outcome of Pairs. Counts are of the packets sent while
// measuring, apart from Reordered, Duplicated and Corrupted, which also cover
// the warm-up. Rates are those of arrivals while measuring.
type PairsReport struct {
	Common
	TLS       string  `json:"tls,omitempty"` // version; missing without TLS
	Pairs     int     `json:"pairs"`
	SizeBytes int     `json:"size_bytes"`
	RateLimit float64 `json:"rate_limit_packets_per_second"` // 0: none
	Window    int     `json:"window_packets"`                // 0: none
	FlushEach bool    `json:"flush_each"`

	Sent       uint64 `json:"sent_packets"`
	Delivered  uint64 `json:"delivered_packets"`
	Lost       uint64 `json:"lost_packets"` // neither delivered nor corrupted
	Reordered  uint64 `json:"reordered_packets"`
	Duplicated uint64 `json:"duplicated_packets"`
	Corrupted  uint64 `json:"corrupted_packets"` // changed, or delivered to the wrong peer

	OfferedRate float64 `json:"offered_packets_per_second"`
	GoodputRate float64 `json:"goodput_packets_per_second"`
	GoodputMbit float64 `json:"goodput_megabits_per_second"`

	Latency Latency `json:"latency"`
}

// Latency is the time from before a batch is written to when a packet of it is
// read, in microseconds and 3 % too long at most. Senders wait for their windows,
// so time spent waiting to send is not in it.
type Latency struct {
	P50  float64 `json:"p50_us"`
	P90  float64 `json:"p90_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p99_9_us"`
	Max  float64 `json:"max_us"`
}

// IdleReport is the outcome of Idle.
type IdleReport struct {
	Common
	Peers     int     `json:"peers"`
	Lost      int     `json:"lost_peers"` // the relay hung up on them
	LoginRate float64 `json:"logins_per_second"`
}

// StormReport is the outcome of Storm.
type StormReport struct {
	Common
	Logins     int     `json:"logins"`
	Failed     int     `json:"failed_logins"`
	FirstError string  `json:"first_error,omitempty"` // of those that failed
	LoginRate  float64 `json:"logins_per_second"`
	Latency    Latency `json:"latency"` // of one login, from dialling to admitted
}

// STUNReport is the outcome of STUN.
type STUNReport struct {
	Common
	Requests     int     `json:"requests"`
	Responses    int     `json:"responses"`
	Wrong        int     `json:"wrong_responses"` // no response to a request of ours
	ResponseRate float64 `json:"responses_per_second"`
}

// common fills what all reports share.
func (t Target) common(mode string, before, after usage) Common {
	scheme := "https://"
	if t.Client.Plain {
		scheme = "http://"
	}
	c := Common{Mode: mode, Relay: scheme + hostPort(t.Client.Host, t.port()), Seconds: after.at.Sub(before.at).Seconds()}
	if t.ServerPID != 0 {
		cpu := (after.cpu - before.cpu).Seconds()
		c.Server = &Server{CPUTime: cpu, CPUPercent: ratio(100*cpu, c.Seconds), RSSBefore: before.rss, RSSAfter: after.rss}
	}
	return c
}

// ratio is a/b, and 0 where there is nothing to divide by: JSON knows no NaN.
func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

func latencies(h *histogram) Latency {
	us := func(q float64) float64 { return float64(h.quantile(q)) / float64(time.Microsecond) }
	return Latency{us(.5), us(.9), us(.99), us(.999), us(1)}
}

// WriteTable writes a report for people.
func WriteTable(w io.Writer, r Report) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range r.rows() {
		fmt.Fprintf(table, "%s\t%s\n", line.name, line.value)
	}
	return table.Flush()
}

// WriteJSON writes a report as one indented object and a line feed.
func WriteJSON(w io.Writer, r Report) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("bench: encode the report: %w", err)
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

func line(name, format string, args ...any) row { return row{name, fmt.Sprintf(format, args...)} }

func (c Common) rows() []row {
	out := []row{{"relay", c.Relay}, line("measured", "%.2f s", c.Seconds)}
	if !c.Complete {
		out[1].value += ", stopped before the end"
	}
	return out
}

func (r PairsReport) rows() []row {
	load := fmt.Sprintf("%d pairs, %d-byte packets", r.Pairs, r.SizeBytes)
	if r.RateLimit > 0 {
		load += fmt.Sprintf(", %.0f packets/s", r.RateLimit)
	}
	if r.Window > 0 {
		load += fmt.Sprintf(", window %d", r.Window)
	}
	if r.FlushEach {
		load += ", a record each"
	}
	if r.TLS != "" {
		load += ", " + r.TLS
	}
	return join(r.Common.rows(), []row{
		{"load", load},
		line("sent", "%d packets, %.0f/s", r.Sent, r.OfferedRate),
		line("delivered", "%d", r.Delivered),
		line("lost", "%d (%.3f %%)", r.Lost, 100*ratio(float64(r.Lost), float64(r.Sent))),
		line("reordered", "%d", r.Reordered),
		line("duplicated", "%d", r.Duplicated),
		line("corrupted", "%d", r.Corrupted),
		line("goodput", "%.0f packets/s, %.1f Mbit/s", r.GoodputRate, r.GoodputMbit),
	}, r.Latency.rows(), r.Server.rows())
}

func (l Latency) rows() []row {
	return []row{{"latency", l.String()}}
}

// String has all figures on one line.
func (l Latency) String() string {
	return fmt.Sprintf("p50 %s  p90 %s  p99 %s  p99.9 %s  max %s", short(l.P50), short(l.P90), short(l.P99), short(l.P999), short(l.Max))
}

// short prints microseconds with three digits or so.
func short(us float64) string {
	switch {
	case us >= 1e6:
		return fmt.Sprintf("%.2f s", us/1e6)
	case us >= 1e3:
		return fmt.Sprintf("%.2f ms", us/1e3)
	}
	return fmt.Sprintf("%.0f µs", us)
}

// rows has no line when the server was not watched.
func (s *Server) rows() []row {
	if s == nil {
		return nil
	}
	cpu := fmt.Sprintf("%.0f %% of a core", s.CPUPercent)
	for _, cost := range []struct {
		us   float64
		unit string
	}{{s.CPUPerPacket, "packet"}, {s.CPUPerLogin, "login"}, {s.CPUPerResponse, "response"}} {
		if cost.us > 0 {
			cpu += fmt.Sprintf(", %.2f µs per %s", cost.us, cost.unit)
		}
	}
	memory := fmt.Sprintf("%.1f MB before, %.1f MB after", float64(s.RSSBefore)/1e6, float64(s.RSSAfter)/1e6)
	if s.RSSGrowth != 0 {
		memory += fmt.Sprintf(", %+.1f MB", float64(s.RSSGrowth)/1e6)
	}
	if s.RSSPerPeer > 0 {
		memory += fmt.Sprintf(", %.1f KB per idle peer", s.RSSPerPeer/1e3)
	}
	return []row{{"server CPU", cpu}, {"server RSS", memory}}
}

func (r IdleReport) rows() []row {
	return join(r.Common.rows(), []row{
		line("peers", "%d, of which the relay hung up on %d", r.Peers, r.Lost),
		line("logins", "%.0f/s", r.LoginRate),
	}, r.Server.rows())
}

func (r StormReport) rows() []row {
	out := join(r.Common.rows(), []row{
		line("logins", "%d, %.0f/s", r.Logins, r.LoginRate),
		line("failed", "%d", r.Failed),
	})
	if r.FirstError != "" {
		out = append(out, row{"first error", r.FirstError})
	}
	return join(out, r.Latency.rows(), r.Server.rows())
}

func (r STUNReport) rows() []row {
	return join(r.Common.rows(), []row{
		line("requests", "%d", r.Requests),
		line("responses", "%d, %.0f/s", r.Responses, r.ResponseRate),
		line("wrong", "%d", r.Wrong),
	}, r.Server.rows())
}

func join(parts ...[]row) (out []row) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
