package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/detour-relay/detour/internal/crowd"
	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// The lobby is where refused peers wait, logged in and told why, for another
// verdict. They can send and receive nothing, but hear keepalives and get their
// pings answered, since clients would reconnect otherwise.

// Bounds of the lobby.
const (
	DefaultLobbySize = 1024      // peers, when Options.LobbySize is zero
	DefaultLobbyTime = time.Hour // for each, when Options.LobbyTime is zero
	lobbyPerSource   = 8         // of them from one IPv4 address or IPv6 /64
	// Clients that think they are connected send some disco packets to find each
	// other. What is beyond this is not theirs.
	lobbyRate  = 16 << 10  // bytes a second from one peer
	lobbyBurst = 128 << 10 // bytes
	// lobbyTurns is how many times a second, and at once, the relay attends to those
	// who wait, all together. What they send beyond it stays with them, however it is
	// cut into records. So the last of them waits for the next turn a second.
	lobbyTurns = DefaultLobbySize
	// maxHealth bounds the text for a client, in bytes.
	maxHealth = 1000
)

var (
	errLobbyFull  = errors.New("lost its place in the lobby to another")
	errLobbyFlood = fmt.Errorf("sent more than %d bytes a second in the lobby", lobbyRate)
	errLobbyTime  = errors.New("waited in the lobby for too long")
)

// seat says where a peer is: in the lobby, in the directory, or nowhere any more.
// Its lock comes before those of the lobby and the directory.
type seat struct {
	waiting atomic.Bool // in the lobby. Written under mu, read without.
	mu      sync.Mutex
	gone    bool   // Guarded by mu.
	text    string // Guarded by mu. What the peer was told last.
}

// lobby holds the peers that wait.
type lobby struct {
	mu     sync.Mutex
	peers  map[uint64]waiting // Guarded by mu. By id.
	places *crowd.Set[uint64] // Guarded by mu. The same ids.
	turns  *rate.Limiter      // locks itself
}

func (l *lobby) init(size int) {
	if size <= 0 {
		size = DefaultLobbySize
	}
	l.peers = make(map[uint64]waiting)
	l.places = crowd.New[uint64](size, lobbyPerSource)
	l.turns = rate.NewLimiter(lobbyTurns, lobbyTurns)
}

func (l *lobby) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.peers)
}

// waiting is a peer in the lobby.
type waiting struct {
	*peer
	loggedIn func(admitted bool) // nil: nobody wants to know
}

// add gives p a place, and returns who lost one for it, or nil.
func (l *lobby) add(p waiting) *peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.peers[p.id] = p
	evicted, some := l.places.Add(p.id, crowd.Source(p.addr.Addr()))
	if !some {
		return nil
	}
	loser := l.peers[evicted]
	delete(l.peers, evicted)
	return loser.peer
}

func (l *lobby) remove(p *peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.peers, p.id)
	l.places.Remove(p.id)
}

func (l *lobby) get(id uint64) waiting {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peers[id]
}

func (l *lobby) all() []*peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*peer, 0, len(l.peers))
	for _, p := range l.peers {
		list = append(list, p.peer)
	}
	return list
}

// each calls f once for every connection, those in the lobby included, holding no
// lock. The lobby comes first, as that is the way a promotion goes.
func (s *Server) each(f func(*peer)) {
	seen := make(map[*peer]bool)
	for _, p := range s.lobby.all() {
		seen[p] = true
		f(p)
	}
	s.dir.each(func(p *peer) {
		if !seen[p] {
			f(p)
		}
	})
}

// takeSeat puts a peer that has logged in where its verdict says, and sends what
// waits for it, its ServerInfo first.
func (s *Server) takeSeat(p *peer, loggedIn func(admitted bool)) {
	if p.mesh || p.verdict.Admitted {
		s.admitPeer(p)
	} else {
		p.seat.waiting.Store(true)
		p.uncounted = true
		p.tell(p.verdict.Lobby)
		if loser := s.lobby.add(waiting{p, loggedIn}); loser != nil {
			s.evict(loser)
		}
		p.flush()
		s.log.Debug("peer waits", "peer", p.key, "addr", p.addr, "reason", p.verdict.Reason)
	}
	if !p.mesh {
		s.opts.Admit.Seated(p.verdict)
	}
}

// evict ends a peer that has lost its place, unless it was just promoted.
func (s *Server) evict(p *peer) {
	p.seat.mu.Lock()
	waits := p.seat.waiting.Load()
	p.seat.mu.Unlock()
	if waits {
		s.counts.lobbyEvicted.Add(1)
		p.end(errLobbyFull)
	}
}

// leaveLobby reports whether p was in the lobby, and takes it out. After it nobody
// can promote p.
func (s *Server) leaveLobby(p *peer) bool {
	p.seat.mu.Lock()
	defer p.seat.mu.Unlock()
	p.seat.gone = true
	if !p.seat.waiting.Load() {
		return false
	}
	s.lobby.remove(p)
	return true
}

// tooLong ends a peer that has waited for longer than it may. Its client comes
// again, which costs little, and a place is not held for ever.
func (s *Server) tooLong(p *peer) {
	if p.seat.waiting.Load() && time.Since(p.since) > s.opts.LobbyTime {
		p.end(errLobbyTime)
	}
}

// tell queues a Health frame, unless the peer was told the same last. The caller
// flushes.
func (p *peer) tell(text string) {
	if len(text) > maxHealth {
		text = strings.ToValidUTF8(text[:maxHealth], "")
	}
	if p.seat.text == text {
		return
	}
	p.seat.text = text
	p.out.pushControl(derp.AppendHealth(nil, text))
}

// loiter bounds what a waiting peer sends, and says when its next turn is.
func (p *peer) loiter(bytes int) error {
	p.pause = p.server.lobby.turns.Reserve().Delay() // it has one turn at a time, so about a second at most
	if p.idle == nil {
		p.idle = rate.NewLimiter(lobbyRate, lobbyBurst)
	}
	if !p.idle.AllowN(time.Now(), bytes) {
		p.server.counts.lobbyFloods.Add(1)
		return errLobbyFlood
	}
	return nil
}

// read serves p until its connection ends. Between the turns of a waiting peer the
// link holds no buffer for it.
func (p *peer) read(ctx context.Context) error {
	for {
		err := p.link.Fill(p.turn)
		if err != nil || p.pause <= 0 {
			return err
		}
		timer := time.NewTimer(p.pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		p.pause = 0
	}
}

// lobbyPeek is how much of a packet from the lobby is looked at, in bytes: enough to
// tell its class. The rest is passed over, so that nobody who waits has it kept.
const lobbyPeek = key.Size + 128

// passOver counts the packet whose frame begins b, of size bytes without its header,
// and has the rest of it skipped. It returns how many bytes it has used; 0 when too
// few are there.
func (p *peer) passOver(b []byte, size int) int {
	n := derp.HeaderSize + min(size, lobbyPeek)
	if len(b) < n {
		return 0
	}
	_, packet := derp.ParsePacket(b[derp.HeaderSize:n])
	c, length := classOf(packet), size-key.Size
	p.tally.packets[c].packets++
	p.tally.packets[c].bytes += uint64(length)
	p.server.counts.dropOne(dropNotAdmitted, c, length)
	p.skip = derp.HeaderSize + size - n
	return n
}

// handleWaiting acts on one checked frame of a peer in the lobby.
func (p *peer) handleWaiting(t derp.FrameType, body []byte) {
	switch t {
	case derp.NotePreferred:
		p.home = derp.ParseNotePreferred(body)
	case derp.Ping:
		p.server.counts.pings.Add(1)
		if p.out.pushPong(derp.ParsePing(body)) {
			p.server.counts.pongs.Add(1)
			p.touch(p)
		}
	default: // packets are passed over, and the rest needs the mesh key
	}
}

// countHome puts into the figures what a peer has said in the lobby, once it has
// left that.
func (p *peer) countHome() {
	if !p.uncounted {
		return
	}
	p.uncounted = false
	if p.home {
		p.server.counts.home.Add(1)
	}
}

// Member is one logged-in connection as it is told outside.
type Member struct {
	ID       uint64 // of the connection, unique in this Server
	Key      key.Public
	Addr     netip.AddrPort // invalid when unknown
	Tenant   string
	Name     string    // for people; may be empty
	App      string    // as the client named it
	Since    time.Time // of the login
	Waiting  bool      // in the lobby
	Mesh     bool      // proved the mesh key: admission does not apply
	NotIdeal bool
}

// Members returns every connection, in no order.
func (s *Server) Members() []Member {
	var list []Member
	s.each(func(p *peer) {
		tenant, name := p.label()
		list = append(list, Member{
			ID: p.id, Key: p.key, Addr: p.addr, Tenant: tenant, Name: name, App: p.app, Since: p.since,
			Waiting: p.seat.waiting.Load(), Mesh: p.mesh, NotIdeal: p.flags&derp.PresentNotIdeal != 0,
		})
	})
	return list
}

// label is what a promotion may just be setting.
func (p *peer) label() (tenant, name string) {
	p.seat.mu.Lock()
	defer p.seat.mu.Unlock()
	return p.tenant, p.name
}

// Judge gives a peer that waits another verdict: it is admitted where it is, told
// another text, or, with no text, cut off. It reports false when no such peer waits.
func (s *Server) Judge(id uint64, v Verdict) bool {
	p := s.lobby.get(id)
	if p.peer == nil {
		return false
	}
	if !v.Admitted {
		if v.Lobby == "" {
			p.end(&RefusedError{Peer: p.key, Reason: v.Reason})
			return true
		}
		p.seat.mu.Lock()
		p.tell(v.Lobby)
		p.seat.mu.Unlock()
		p.flush()
		return true
	}
	return s.promote(p, v)
}

// promote moves p from the lobby to the directory. Its reader finds out at its
// next batch.
func (s *Server) promote(p waiting, v Verdict) bool {
	p.seat.mu.Lock()
	if p.seat.gone || !p.seat.waiting.Load() {
		p.seat.mu.Unlock()
		return false
	}
	p.tenant, p.name, p.realm = v.Tenant, v.Name, v.Realm
	p.tell("") // all is well
	watching, second := s.dir.join(p.peer, &s.watch)
	s.lobby.remove(p.peer) // it is in one of the two at any time
	s.counts.joined(p.peer, second)
	p.seat.waiting.Store(false)
	p.seat.mu.Unlock()
	if p.loggedIn != nil {
		p.loggedIn(!v.Guest)
	}
	s.counts.promoted.Add(1)
	flushAll(watching)
	p.flush()
	s.log.Debug("peer promoted", "peer", p.key, "addr", p.addr, "tenant", v.Tenant)
	return true
}

// DismissedError ends a connection that Dismiss has ended.
type DismissedError struct{ Reason string }

// Error says why.
func (e *DismissedError) Error() string { return "dismissed: " + e.Reason }

// Dismiss ends the connections of k, or of everybody for the zero key, for which
// match says true; a nil match is true for all. Connections of sibling relays stay.
// It returns how many there were.
func (s *Server) Dismiss(k key.Public, reason string, match func(Member) bool) (n int) {
	end := func(p *peer) {
		if p.mesh || (!k.IsZero() && p.key != k) {
			return
		}
		tenant, name := p.label()
		m := Member{ID: p.id, Key: p.key, Addr: p.addr, Tenant: tenant, Name: name, Since: p.since, Waiting: p.seat.waiting.Load()}
		if match == nil || match(m) {
			p.end(&DismissedError{Reason: reason})
			n++
		}
	}
	if k.IsZero() {
		s.each(end)
		return n
	}
	waited := s.lobby.all()
	for _, p := range waited {
		end(p)
	}
	for _, p := range s.dir.of(k) {
		if !slices.Contains(waited, p) {
			end(p)
		}
	}
	return n
}
