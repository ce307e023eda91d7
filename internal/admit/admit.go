// Package admit decides who may use the relay. Sources answer for one peer at a
// time, and a Gate combines them, counts, and tells the operator about refusals
// without letting strangers fill the log.
package admit

import (
	"context"
	"net/netip"

	"github.com/detour-relay/detour/internal/key"
)

// Request is one peer that has proved that it holds Key and wants to be admitted.
type Request struct {
	Key key.Public
	// Addr is where the peer connects from. An IPv4 peer has an IPv4 address
	// here even when it came in on a dual-stack socket. It is invalid when the
	// peer has no IP address, as on a unix socket.
	Addr netip.Addr
}

// Answer is what one Source says about one Request.
type Answer int

// The answers of a Source. The zero value is Refuse, so that a forgotten answer
// admits nobody.
const (
	Refuse      Answer = iota // the source does not know this peer, or bars it
	Allow                     // the source vouches for this peer
	Unavailable               // the source cannot tell now
)

// String returns the answer as one lower-case word.
func (a Answer) String() string {
	switch a {
	case Refuse:
		return "refuse"
	case Allow:
		return "allow"
	case Unavailable:
		return "unavailable"
	default:
		return "unknown"
	}
}

// Source knows some peers. It is safe for concurrent use.
type Source interface {
	// Name is a short fixed word for logs and statistics.
	Name() string
	// Decide answers for one peer. It returns when ctx is done at the latest.
	// The error is nil except with Unavailable, where it says what failed.
	Decide(ctx context.Context, r Request) (Answer, error)
}

// Any returns the source that allows everybody.
func Any() Source { return anySource{} }

type anySource struct{}

func (anySource) Name() string { return "any" }

func (anySource) Decide(context.Context, Request) (Answer, error) { return Allow, nil }

// Keys returns the source that allows exactly these keys, from any address. The
// zero key is no key and is left out.
func Keys(keys ...key.Public) Source {
	s := make(keysSource, len(keys))
	for _, k := range keys {
		if !k.IsZero() {
			s[k] = struct{}{}
		}
	}
	return s
}

// keysSource is never written after Keys has returned it.
type keysSource map[key.Public]struct{}

func (keysSource) Name() string { return "keys" }

func (s keysSource) Decide(_ context.Context, r Request) (Answer, error) {
	if _, ok := s[r.Key]; ok {
		return Allow, nil
	}
	return Refuse, nil
}
