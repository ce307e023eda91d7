package bench

import (
	"fmt"
	"sync/atomic"

	"github.com/detour-relay/detour/internal/key"
)

// AttackReport is the outcome of Attack.
type AttackReport struct {
	Common
	Rate    int         `json:"connections_per_second"` // of each attack
	Attacks []AttackRow `json:"attacks"`                // the first is the pair alone
}

// AttackRow is the quiet pair beside one attack.
type AttackRow struct {
	Name        string `json:"attack"`
	Connections uint64 `json:"connections"` // that the attackers made
	HungUp      uint64 `json:"hung_up"`     // of those, that ended before the measurement: by the relay, or when done
	Probe
	P50Ratio float64 `json:"p50_ratio"` // to the pair alone
	P99Ratio float64 `json:"p99_ratio"`
}

// compare fills in the ratios.
func (r *AttackReport) compare() {
	for i := range r.Attacks {
		a, alone := &r.Attacks[i], r.Attacks[0].Latency
		a.P50Ratio, a.P99Ratio = ratio(a.Latency.P50, alone.P50), ratio(a.Latency.P99, alone.P99)
	}
}

func (r AttackReport) rows() []row {
	out := r.Common.rows()
	for _, a := range r.Attacks {
		text := fmt.Sprintf("p50 %s (%.2f)  p99 %s (%.2f)  lost %d of %d", short(a.Latency.P50), a.P50Ratio, short(a.Latency.P99), a.P99Ratio, a.Lost, a.Sent)
		if a.Connections > 0 {
			text += fmt.Sprintf("  %d connections, %d over", a.Connections, a.HungUp)
		}
		out = append(out, row{a.Name, text})
	}
	return join(out, r.Server.rows())
}

// ring hands out the keys of a pair in turn.
type ring struct {
	keys [2]key.Private
	next atomic.Uint64
}

func newRing(keys [2]key.Private) *ring { return &ring{keys: keys} }

func (r *ring) take() key.Private { return r.keys[(r.next.Add(1)-1)%uint64(len(r.keys))] }
