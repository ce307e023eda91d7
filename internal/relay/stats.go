package relay

import (
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/derp"
)

// dropReason says why a packet was not delivered.
type dropReason uint8

const (
	dropUnknown          dropReason = iota // nobody here has the key
	dropUnknownForwarded                   // the same, for a packet from a sibling
	dropGone                               // the receiver left before the packet was sent
	dropQueueHead                          // the receiver's queue was full: its oldest packet
	dropWriteError                         // the receiver's connection failed while it was sent
	dropOtherTenant                        // sender and receiver are of tenants that are kept apart
	dropNotAdmitted                        // the sender waits in the lobby
	dropReasons                            // how many there are
)

// String returns the reason as it stands in statistics, in the words that
// derper's metrics use.
func (r dropReason) String() string {
	return [dropReasons]string{"unknown_dest", "unknown_dest_on_fwd", "gone_disconnected", "queue_head", "write_error", "other_tenant", "not_admitted"}[r]
}

// homeSettled is how long after the login a change of home counts as a move.
const homeSettled = 5 * time.Second

// counters are the relay's figures since its start.
type counters struct {
	accepts, loginFailures, refused  atomic.Uint64
	lobbyEvicted, promoted           atomic.Uint64
	lobbyFloods, loginNoRoom         atomic.Uint64
	keepAlives, pings, pongs         atomic.Uint64
	goneDisconnected, goneNotHere    atomic.Uint64
	unknownFrames, writeTimeouts     atomic.Uint64
	homeMovesIn, homeMovesOut        atomic.Uint64
	forwardedIn                      atomic.Uint64
	dupConnsTotal                    atomic.Uint64
	connections, home, notIdeal      atomic.Int64
	packetsIn, bytesIn               [classes]atomic.Uint64
	packetsOut, bytesOut             [classes]atomic.Uint64
	droppedPackets, droppedByteCount [dropReasons][classes]atomic.Uint64
}

// tally gathers a batch's figures, so that shared counters are touched once.
type tally struct {
	packets   [classes]load
	forwarded uint64
}

func (c *counters) received(t *tally) {
	for k := range classes {
		if l := t.packets[k]; l.packets > 0 {
			c.packetsIn[k].Add(l.packets)
			c.bytesIn[k].Add(l.bytes)
		}
	}
	if t.forwarded > 0 {
		c.forwardedIn.Add(t.forwarded)
	}
	*t = tally{}
}

func (c *counters) delivered(l *[classes]load) {
	for k := range classes {
		if l[k].packets > 0 {
			c.packetsOut[k].Add(l[k].packets)
			c.bytesOut[k].Add(l[k].bytes)
		}
	}
	*l = [classes]load{}
}

// dropped is the one place that counts drops, with drop and dropOne as its short forms.
func (c *counters) dropped(r dropReason, l *[classes]load) {
	for k := range classes {
		if l[k].packets > 0 {
			c.droppedPackets[r][k].Add(l[k].packets)
			c.droppedByteCount[r][k].Add(l[k].bytes)
		}
	}
	*l = [classes]load{}
}

func (c *counters) drop(r dropReason, k class, l load) {
	var all [classes]load
	all[k] = l
	c.dropped(r, &all)
}

func (c *counters) dropOne(r dropReason, k class, bytes int) {
	c.drop(r, k, load{1, uint64(bytes)})
}

func (c *counters) joined(p *peer, second bool) {
	c.connections.Add(1)
	if second {
		c.dupConnsTotal.Add(1)
	}
	if p.flags&derp.PresentNotIdeal != 0 {
		c.notIdeal.Add(1)
	}
}

func (c *counters) left(p *peer) {
	c.connections.Add(-1)
	if p.flags&derp.PresentNotIdeal != 0 {
		c.notIdeal.Add(-1)
	}
	if p.home && !p.uncounted {
		c.home.Add(-1)
	}
}

func (c *counters) homeChanged(p *peer, home bool) {
	moved := time.Since(p.since) > homeSettled
	switch {
	case home:
		c.home.Add(1)
		if moved {
			c.homeMovesIn.Add(1)
		}
	default:
		c.home.Add(-1)
		if moved {
			c.homeMovesOut.Add(1)
		}
	}
}

// Traffic counts packets and the bytes inside them, without keys and headers.
type Traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Stats are a relay's figures at one moment. Maps are keyed by class, "disco" or
// "other", and drops by reason first. All but the gauges count since the start.
type Stats struct {
	// Gauges.
	Connections      int64  `json:"connections"`      // logged in now
	Peers            int    `json:"peers"`            // distinct keys among them
	HomeConnections  int64  `json:"home_connections"` // that call this their home region
	NotIdeal         int64  `json:"not_ideal"`        // that would rather be on another relay
	DuplicateKeys    int    `json:"duplicate_keys"`   // keys with several connections
	DuplicateConns   int    `json:"duplicate_conns"`  // connections of those keys
	Watchers         int    `json:"watchers"`         // sibling relays that asked for presence
	Waiting          int    `json:"waiting"`          // refused peers in the lobby, which are no connections above
	UptimeSeconds    int64  `json:"uptime_seconds"`
	Accepts          uint64 `json:"accepts"`           // upgraded connections
	LoginFailures    uint64 `json:"login_failures"`    // of those, refusals included
	LoginNoRoom      uint64 `json:"login_no_room"`     // of those, closed because too many sent a large ClientInfo at once
	Refused          uint64 `json:"refused"`           // logins of peers that were not admitted, those that wait included
	LobbyEvicted     uint64 `json:"lobby_evicted"`     // peers that lost their place in the lobby to another
	LobbyFloods      uint64 `json:"lobby_floods"`      // peers that sent too much while they waited and were cut off
	Promoted         uint64 `json:"promoted"`          // peers that were admitted while they waited
	KeepAlives       uint64 `json:"keepalives"`        // sent
	Pings            uint64 `json:"pings"`             // received
	Pongs            uint64 `json:"pongs"`             // sent
	GoneDisconnected uint64 `json:"gone_disconnected"` // PeerGone frames sent
	GoneNotHere      uint64 `json:"gone_not_here"`     // the same, to senders of disco packets for nobody
	UnknownFrames    uint64 `json:"unknown_frames"`    // passed over
	WriteTimeouts    uint64 `json:"write_timeouts"`    // peers cut off because they took no byte
	HomeMovesIn      uint64 `json:"home_moves_in"`
	HomeMovesOut     uint64 `json:"home_moves_out"`
	ForwardedIn      uint64 `json:"forwarded_in"`     // packets from sibling relays
	DuplicatesTotal  uint64 `json:"duplicates_total"` // logins with a key that was here already

	Received map[string]Traffic            `json:"received"` // from peers, by class
	Sent     map[string]Traffic            `json:"sent"`     // to peers, by class
	Dropped  map[string]map[string]Traffic `json:"dropped"`  // by reason and class
}

// Stats returns the relay's figures. Each is exact; together they may be a
// moment apart.
func (s *Server) Stats() Stats {
	c := &s.counts
	st := Stats{
		Connections: c.connections.Load(), HomeConnections: c.home.Load(), NotIdeal: c.notIdeal.Load(),
		Watchers: s.watch.count(), Waiting: s.lobby.size(), LobbyEvicted: c.lobbyEvicted.Load(),
		LobbyFloods: c.lobbyFloods.Load(), LoginNoRoom: c.loginNoRoom.Load(), Promoted: c.promoted.Load(), UptimeSeconds: int64(time.Since(s.start).Seconds()),
		Accepts: c.accepts.Load(), LoginFailures: c.loginFailures.Load(), Refused: c.refused.Load(),
		KeepAlives: c.keepAlives.Load(), Pings: c.pings.Load(), Pongs: c.pongs.Load(),
		GoneDisconnected: c.goneDisconnected.Load(), GoneNotHere: c.goneNotHere.Load(),
		UnknownFrames: c.unknownFrames.Load(), WriteTimeouts: c.writeTimeouts.Load(),
		HomeMovesIn: c.homeMovesIn.Load(), HomeMovesOut: c.homeMovesOut.Load(),
		ForwardedIn: c.forwardedIn.Load(), DuplicatesTotal: c.dupConnsTotal.Load(),
		Received: make(map[string]Traffic), Sent: make(map[string]Traffic), Dropped: make(map[string]map[string]Traffic),
	}
	st.Peers, st.DuplicateKeys, st.DuplicateConns = s.dir.size()
	for k := range classes {
		st.Received[k.String()] = Traffic{c.packetsIn[k].Load(), c.bytesIn[k].Load()}
		st.Sent[k.String()] = Traffic{c.packetsOut[k].Load(), c.bytesOut[k].Load()}
	}
	for r := range dropReasons {
		byClass := make(map[string]Traffic)
		for k := range classes {
			byClass[k.String()] = Traffic{c.droppedPackets[r][k].Load(), c.droppedByteCount[r][k].Load()}
		}
		st.Dropped[r.String()] = byClass
	}
	return st
}
