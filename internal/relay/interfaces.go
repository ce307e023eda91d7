package relay

import (
	"context"
	"net/netip"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Link is one connection as the relay sees it: a codec over a socket. Fill is
// called by the one goroutine that owns the connection; Seal, Flush and
// WaitWritable by whoever is flushing, one at a time; Doom by anyone. All are
// called once a batch and not once a packet. The owner of the connection closes
// it, after Fill has returned.
type Link interface {
	// Fill reads until the connection ends or turn stops it. turn is given all
	// bytes not used so far, valid during the call, and returns how many it used.
	// What is left when turn stops is there at the next Fill.
	Fill(turn func(batch []byte) (used int, stop bool, err error)) error
	// Seal takes a copy of whole frames into what Flush writes.
	Seal(frames []byte) error
	// Flush writes what was sealed as far as that needs no waiting, and reports
	// whether nothing is left.
	Flush() (done bool, err error)
	// WaitWritable waits until Flush can make progress. It fails when the peer
	// took no byte for timeout; 0 is no limit.
	WaitWritable(timeout time.Duration) error
	// Check looks for an end of the connection that Fill may have missed, and makes
	// Fill return if there is one. It never blocks.
	Check()
	// Doom makes Fill and WaitWritable return soon, without blocking.
	Doom()
}

// Admitter decides who may log in. It may take its time: it is asked on the
// connection's own goroutine, before anything else knows the peer.
type Admitter interface {
	// Admit decides about a peer that has proved that it holds its key. addr is
	// invalid when unknown. It returns when ctx is done at the latest.
	Admit(ctx context.Context, peer key.Public, addr netip.Addr) Verdict
	// Seated tells that the peer of a verdict is now among Server.Members, so that
	// what has changed since the verdict can still reach it.
	Seated(v Verdict)
}

// Verdict is what an Admitter says of one peer.
type Verdict struct {
	Admitted bool
	Reason   string // of a refusal: short and fixed, for counters and logs
	// Lobby is what a refused peer is told while it waits, connected, for another
	// verdict. Empty: its connection is closed without a word.
	Lobby  string
	Tenant string // a label of an admitted peer
	Guest  bool   // admitted for a while, and no member
	Name   string // of an admitted peer, for people; may be empty
	// Realm parts peers: only those of one realm exchange packets. 0 is a realm
	// as any other.
	Realm uint32
	// Ticket is the Admitter's own; it comes back with Seated.
	Ticket uint64
}

// Conn is an upgraded connection on which the login comes next.
type Conn struct {
	Link     Link
	Addr     netip.AddrPort // of the client; invalid when unknown
	NotIdeal bool           // the client named another relay as its ideal one
	// LoggedIn, if set, is called when the login is over, and again when a peer that
	// waited is admitted, then by another goroutine: admitted is false for guests and for
	// a peer that waits for another verdict.
	LoggedIn func(admitted bool)
}
