// Package relay is the core: it logs peers in and moves packets between them.
// It knows no sockets, TLS, HTTP or files; see the interfaces it declares.
//
// What happens to a packet, in order:
//
//  1. The sender's goroutine is inside Link.Fill, which hands a batch of bytes to
//     peer.turn (read.go).
//  2. turn cuts it into frames; for each SendPacket it looks up the destination,
//     in its cache or the directory (directory.go).
//  3. It appends a RecvPacket frame to the destination's outbox under that
//     outbox's lock (outbox.go). A full queue loses its oldest packet.
//  4. At the end of the batch it flushes each peer whose outbox it made
//     non-empty (flush.go): take everything, seal it, write without waiting.
//  5. If the socket takes no more, a goroutine that exists only then waits for it.
//
// No goroutine but the reader belongs to a peer at rest.
package relay

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// Times of the protocol. Clients give up a relay that is silent for 120 s, and
// official relays send a keepalive every 60 to 65 s whatever else they send.
const (
	loginTimeout    = 10 * time.Second
	keepAlivePeriod = 60 * time.Second
	keepAliveJitter = 5 * time.Second
	sweepPeriod     = time.Second
	// meshWriteTimeout replaces Options.WriteTimeout for sibling relays, whose
	// loss costs a whole region its links.
	meshWriteTimeout = 30 * time.Second
)

// errStopped ends the connections of a relay that is told to stop.
var errStopped = errors.New("the relay is stopping")

// Options are a Server's settings.
type Options struct {
	Key          key.Private   // the relay's own; required
	MeshKey      key.Mesh      // zero: nobody is a sibling
	LobbySize    int           // refused peers that may wait at once; 0: DefaultLobbySize
	LobbyTime    time.Duration // how long each may; 0: DefaultLobbyTime
	Admit        Admitter      // asked about every peer that does not prove the mesh key; nil: nobody is admitted
	WriteTimeout time.Duration // longest that a peer may take no byte; 0: no limit
	Logger       *slog.Logger  // nil: nothing is logged
}

// Server is one relay.
type Server struct {
	opts   Options
	log    *slog.Logger
	start  time.Time
	dir    directory
	watch  watchers
	lobby  lobby
	logins budget
	counts counters
	lastID atomic.Uint64 // of the newest peer
}

// New makes a Server. Serve must run while connections are served.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: o, log: o.Logger, start: time.Now()}
	s.dir.init()
	s.lobby.init(o.LobbySize)
	if s.opts.LobbyTime <= 0 {
		s.opts.LobbyTime = DefaultLobbyTime
	}
	return s
}

// PublicKey returns the relay's server key.
func (s *Server) PublicKey() key.Public { return s.opts.Key.Public() }

// Serve sends keepalives until ctx ends; then it dooms every connection and
// returns nil. The contexts of ServeConn calls must end with it.
func (s *Server) Serve(ctx context.Context) error {
	tick := time.NewTicker(sweepPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.sweep()
		case <-ctx.Done():
			s.each(func(p *peer) { p.end(errStopped) })
			return nil
		}
	}
}

// sweep does what is due for every peer. It is the only timer of a peer at rest.
func (s *Server) sweep() {
	now := time.Since(s.start)
	var beat []byte
	s.each(func(p *peer) {
		p.link.Check()
		s.tooLong(p)
		if now < p.nextBeat {
			return
		}
		p.nextBeat += p.beatPeriod
		beat = derp.AppendKeepAlive(beat[:0])
		if p.out.pushControl(beat) {
			s.counts.keepAlives.Add(1)
		}
		p.flush()
	})
}

// ServeConn logs one connection in and serves it until it ends, ctx ends, or the
// peer misbehaves; the error says which. It never closes the connection: the
// caller does, after ServeConn has returned.
func (s *Server) ServeConn(ctx context.Context, c Conn) error {
	s.counts.accepts.Add(1)
	var p *peer
	var err error
	Apart(func() { p, err = s.loginUntil(ctx, c) })
	if err != nil {
		s.counts.loginFailures.Add(1)
		return err
	}
	s.takeSeat(p, c.LoggedIn)
	defer s.remove(p)     // after a panic too: nobody must be routed to a dead connection
	if ctx.Err() != nil { // Serve may have missed the new peer
		p.end(errStopped)
	}
	if c.LoggedIn != nil {
		c.LoggedIn(p.mesh || p.verdict.Admitted && !p.verdict.Guest)
	}
	return p.why(p.read(ctx))
}

// newPeer makes the peer that a login has proved.
func (s *Server) newPeer(c Conn, k key.Public, info derp.ClientParams, mesh bool) *peer {
	p := &peer{
		server: s, id: s.lastID.Add(1), key: k, link: c.Link, addr: c.Addr, mesh: mesh, since: time.Now(),
		writeTimeout: s.opts.WriteTimeout,
		beatPeriod:   keepAlivePeriod + rand.N(keepAliveJitter),
	}
	if mesh {
		p.flags |= derp.PresentMesh
		if p.writeTimeout > 0 {
			p.writeTimeout = meshWriteTimeout
		}
	}
	if info.IsProber {
		p.flags |= derp.PresentProber
	}
	if c.NotIdeal {
		p.flags |= derp.PresentNotIdeal
	}
	if p.flags == 0 {
		p.flags = derp.PresentRegular
	}
	p.nextBeat = time.Since(s.start) + p.beatPeriod
	return p
}

// admitPeer makes p known to the others and sends what waits for it, its
// ServerInfo first.
func (s *Server) admitPeer(p *peer) {
	watching, second := s.dir.join(p, &s.watch)
	s.counts.joined(p, second)
	flushAll(watching)
	p.flush()
	s.log.Debug("peer present", "peer", p.key, "addr", p.addr, "app", p.app, "tenant", p.tenant)
}

// remove forgets p, once its read loop has ended, and tells those who care.
func (s *Server) remove(p *peer) {
	p.link.Doom()
	if s.leaveLobby(p) {
		p.shut()
		s.log.Debug("waiting peer gone", "peer", p.key, "addr", p.addr, "reason", p.why(nil))
		return
	}
	s.watch.remove(p)
	watching, last := s.dir.leave(p, &s.watch)
	p.shut()
	p.forgetContacts()
	s.counts.left(p)
	flushAll(watching)
	if last {
		s.tellGone(p)
	}
	s.log.Debug("peer gone", "peer", p.key, "addr", p.addr, "reason", p.why(nil))
}

func flushAll(peers []*peer) {
	for _, p := range peers {
		p.flush()
	}
}
