package daemon

import (
	"fmt"
	"time"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/admit"
)

// maxProbeKeys is how many probes one request may let in: two exchange packets.
const maxProbeKeys = 2

// Probes lists the keys of probes that are let in.
func (c control) Probes() (list []admin.Probe) {
	for _, g := range c.d.gate.Guests() {
		list = append(list, admin.Probe{Key: g.Key, Until: g.Until.UTC(), Own: g.Own})
	}
	return list
}

// Probe lets keys of probes in, in memory alone.
func (c control) Probe(q admin.ProbeRequest) (admin.ProbeResult, error) {
	most := int64(admit.MaxGuestTime / time.Second)
	switch {
	case len(q.Keys) == 0 || len(q.Keys) > maxProbeKeys:
		return admin.ProbeResult{}, fmt.Errorf("%d keys are not one or two; hint: a probe exchanges packets between two", len(q.Keys))
	case q.Seconds <= 0 || q.Seconds > most:
		return admin.ProbeResult{}, fmt.Errorf("%d seconds are not how long a probe may be let in; hint: give 1 to %d", q.Seconds, most)
	}
	lasts := time.Duration(q.Seconds) * time.Second
	until := time.Now().Add(lasts).UTC().Truncate(time.Second)
	if err := c.d.gate.Invite(admit.Guests{Keys: q.Keys, For: lasts}); err != nil {
		return admin.ProbeResult{}, err
	}
	c.d.log.Info("probes are let in by the operator", "peers", q.Keys, "until", until)
	return admin.ProbeResult{Keys: q.Keys, Until: until, ServerKey: c.d.id.serverKey.String(), Open: c.d.cfg.AdmitsAll()}, nil
}

// EndProbes lets them in no more.
func (c control) EndProbes() admin.ProbesEnded {
	n := c.d.gate.EndGuests()
	if n > 0 {
		c.d.log.Info("probes are let in no more, by the operator", "peers", n)
	}
	return admin.ProbesEnded{Ended: n}
}
