package bench

import (
	"fmt"
	"strconv"
	"time"

	"github.com/detour-relay/detour/internal/derp"
)

// Bounds of a Load. A relay off loopback has narrower ones.
const (
	MaxPairs    = 1000
	MinSize     = stampSize      // bytes
	MaxSize     = derp.MaxPacket // bytes
	MinRate     = 1              // packets per second, unless there is no limit
	MaxRate     = 10_000_000     // packets per second
	MaxWindow   = 10_000         // packets
	MaxDuration = 10 * time.Minute

	RemotePairs       = 100
	RemoteRate        = 1_000  // packets per second, unless a rate is given
	MaxRemoteRate     = 20_000 // packets per second
	MaxRemoteDuration = time.Minute
)

// Load is what pairs of clients exchange: each has one that sends and one that
// receives.
type Load struct {
	Pairs int
	// Size of a packet in bytes, without DERP's header and key.
	Size int
	// Rate is packets per second over all pairs. 0: as fast as windows and the relay
	// allow, and RemoteRate off loopback.
	Rate float64
	// Duration is the time measured, Warmup the time under load before it.
	Duration, Warmup time.Duration
	// Window is the most packets of a pair under way. 0: no limit.
	Window int
	// FlushEach makes every packet a TLS record of its own, as real nodes send.
	FlushEach bool
}

// bound returns the load for a relay, or an error that says what is too much.
func (l Load) bound(remote bool) (Load, error) {
	pairs, rate, duration := MaxPairs, float64(MaxRate), MaxDuration
	where := ""
	if remote {
		pairs, rate, duration = RemotePairs, MaxRemoteRate, MaxRemoteDuration
		where = " for a relay off loopback"
		if l.Rate == 0 {
			l.Rate = RemoteRate
		}
	}
	wrong := func(flag string, least, most any) error {
		return fmt.Errorf("bench: %s is out of bounds; hint: %v to %v can be given%s", flag, least, most, where)
	}
	switch {
	case l.Pairs < 1 || l.Pairs > pairs:
		return l, wrong("--pairs", 1, pairs)
	case l.Size < MinSize || l.Size > MaxSize:
		return l, wrong("--size", MinSize, MaxSize)
	case l.Rate != 0 && !(l.Rate >= MinRate && l.Rate <= rate): // written so that NaN is refused
		return l, wrong("--rate", "0 (no limit of its own) and "+strconv.Itoa(MinRate), int(rate))
	case l.Duration <= 0 || l.Duration > duration:
		return l, wrong("--duration", time.Millisecond, duration)
	case l.Warmup < 0 || l.Warmup > duration:
		return l, wrong("--warmup", 0, duration)
	case l.Window < 0 || l.Window > MaxWindow:
		return l, wrong("--window", 0, MaxWindow)
	}
	return l, nil
}
