package compat

import (
	"math"

	"github.com/detour-relay/detour/internal/config"
)

// maxAcceptRate is far above what a relay can accept, in connections a second.
const maxAcceptRate = 1_000_000_000

// acceptRate carries out -accept-connection-limit and -accept-connection-burst.
// derper's server ends at the first connection above them; here that connection is
// refused. A burst without an end, derper's default, leaves nothing to limit.
func (c *command) acceptRate(cfg *config.Config) {
	switch {
	case math.IsInf(c.acceptLimit, 1):
		return
	case !(c.acceptLimit > 0) || c.acceptBurst < 1: // no number is not above 0 either
		c.fail("%s and %s let nobody in; hint: give both a number of 1 or more, or neither",
			c.ref("accept-connection-limit"), c.ref("accept-connection-burst"))
	case c.acceptBurst > maxAcceptRate || c.acceptLimit > maxAcceptRate:
		c.warn("%s limits nothing without -accept-connection-burst, as in derper; hint: give both", c.ref("accept-connection-limit"))
	default:
		cfg.AcceptRate, cfg.AcceptBurst = int(math.Ceil(c.acceptLimit)), c.acceptBurst
		if float64(cfg.AcceptRate) > c.acceptLimit {
			c.warn("%s is rounded up to %d a second", c.ref("accept-connection-limit"), cfg.AcceptRate)
		}
	}
}
