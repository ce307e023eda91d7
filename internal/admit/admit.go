// Package admit decides who may use the relay, and goes on deciding for as long
// as they are connected. Sources answer for one peer at a time; tenants combine
// them; a Gate asks the tenants, keeps account of who was refused, tells the
// operator without letting strangers fill the log, and looks again at everyone who
// is connected or waits when something has changed and from time to time.
//
// The way of a login: Gate.Admit -> the operator's rules (rules.go) -> each
// tenant's sources (decide.go), those in memory first, the others at once and
// within a deadline -> a Decision. The way back: a source or rule changes ->
// Gate.recheck (recheck.go) -> the Roster promotes or dismisses.
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

// Member is what a source knows of a peer that it allows, for people to read. All
// of it may be empty.
type Member struct {
	Name string   `json:"name,omitempty"` // of the device
	User string   `json:"user,omitempty"` // whose it is
	Tags []string `json:"tags,omitempty"`
}

// Verdict is a source's answer.
type Verdict struct {
	Answer Answer
	Member Member // with Allow at most
	// Doubtful: a Refuse that stands for an answer that was none, as derper takes
	// it. It keeps out who comes, and is no reason to cut off who is in.
	Doubtful bool
}

// Source knows some peers. It is safe for concurrent use.
type Source interface {
	// Name is a short fixed word for logs and statistics: the kind, and with
	// several of one kind what tells them apart.
	Name() string
	// Decide answers for one peer. It returns when ctx is done at the latest.
	// The error is nil except with Unavailable, where it says what failed.
	Decide(ctx context.Context, r Request) (Verdict, error)
}

// Peeker is a Source that often knows its answer without waiting for anyone.
type Peeker interface {
	// Peek answers at once. It reports false when only Decide can tell.
	Peek(r Request) (v Verdict, known bool)
}

// Runner is a Source with work of its own.
type Runner interface {
	// Serve works until ctx is done and then returns nil. It calls changed after
	// answers may have become other ones, for whatever reason, as often as it likes.
	Serve(ctx context.Context, changed func()) error
}

// Reporter is a Source with figures of its own.
type Reporter interface {
	// Report returns a value for JSON, which the caller owns.
	Report() any
}

// Forwarder is a Source that may ask another relay.
type Forwarder interface {
	// Forwards reports whether it does.
	Forwards() bool
}

// Any returns the source that allows everybody.
func Any() Source { return anySource{} }

type anySource struct{}

func (anySource) Name() string { return "any" }

func (anySource) Decide(context.Context, Request) (Verdict, error) {
	return Verdict{Answer: Allow}, nil
}

func (anySource) Peek(Request) (Verdict, bool) { return Verdict{Answer: Allow}, true }

// Keys returns the source that allows exactly these keys, from any address. The
// zero key is no key and is left out.
func Keys(keys ...key.Public) Source {
	s := make(map[key.Public]Member, len(keys))
	for _, k := range keys {
		s[k] = Member{}
	}
	return Members(s)
}

// Members is Keys for keys of which something is known. It keeps a copy.
func Members(members map[key.Public]Member) Source {
	s := make(keysSource, len(members))
	for k, m := range members {
		if !k.IsZero() {
			s[k] = m
		}
	}
	return s
}

// keysSource is never written after Members has returned it.
type keysSource map[key.Public]Member

func (keysSource) Name() string { return "keys" }

func (s keysSource) Decide(_ context.Context, r Request) (Verdict, error) {
	v, _ := s.Peek(r)
	return v, nil
}

func (s keysSource) Peek(r Request) (Verdict, bool) {
	if m, ok := s[r.Key]; ok {
		return Verdict{Answer: Allow, Member: m}, true
	}
	return Verdict{}, true
}
