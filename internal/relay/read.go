package relay

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// PeerGone answers to packets for nobody, for each sender.
const (
	notHereEvery = time.Second
	notHereBurst = 3
)

// route remembers where the last packet went, so that a flow is looked up once.
type route struct {
	key   key.Public
	entry *entry // nil: none
	id    uint64 // of the last peer that got a packet, and is in entry.heard; a pointer would keep it alive
}

// turn handles one batch of bytes from the peer. It runs on the peer's own
// goroutine, inside Link.Fill, and never waits for anyone.
func (p *peer) turn(batch []byte) (used int, stop bool, err error) {
	defer p.flushTouched()
	switch {
	case p.seat.waiting.Load():
		if err := p.loiter(len(batch)); err != nil {
			return 0, false, err
		}
	default:
		p.server.dir.spoke(p)
		p.countHome()
	}
	for used < len(batch) {
		var n int
		if n, err = p.frame(batch[used:]); n == 0 || err != nil {
			break
		}
		used += n
	}
	return used, p.pause > 0, err
}

// flushTouched ends a batch: what it has queued is sent.
func (p *peer) flushTouched() {
	p.server.counts.received(&p.tally)
	for i, dst := range p.touched {
		dst.flush()
		p.touched[i] = nil
	}
	p.touched = p.touched[:0]
}

// touch notes that this batch made dst's outbox non-empty, or may have.
func (p *peer) touch(dst *peer) { p.touched = append(p.touched, dst) }

var errNoMeshKey = errors.New("needs the mesh key")

// frame handles the frame at the start of b and returns its length, or 0 when it
// is not all there. Frames that mean nothing here are passed over: clients get
// new types, and old ones send odd things.
func (p *peer) frame(b []byte) (n int, err error) {
	if p.skip > 0 {
		n = min(p.skip, len(b))
		p.skip -= n
		return n, nil
	}
	t, size, ok := derp.ParseHeader(b)
	if !ok {
		return 0, nil
	}
	switch t {
	case derp.SendPacket, derp.NotePreferred, derp.Ping:
	case derp.ForwardPacket, derp.WatchConns, derp.ClosePeer:
		if !p.mesh {
			return 0, fmt.Errorf("%v: %w", t, errNoMeshKey)
		}
	default:
		if size > derp.MaxSkip {
			return 0, fmt.Errorf("%v of %d bytes: %w", t, size, derp.ErrLength)
		}
		p.server.counts.unknownFrames.Add(1)
		p.skip = int(size)
		return derp.HeaderSize, nil
	}
	if err := derp.CheckLength(t, size); err != nil {
		return 0, err
	}
	waiting := p.seat.waiting.Load()
	if waiting && t == derp.SendPacket {
		return p.passOver(b, int(size)), nil
	}
	n = derp.HeaderSize + int(size)
	if len(b) < n {
		return 0, nil
	}
	if waiting {
		p.handleWaiting(t, b[derp.HeaderSize:n])
		return n, nil
	}
	p.handle(t, b[derp.HeaderSize:n])
	return n, nil
}

// handle acts on one checked frame.
func (p *peer) handle(t derp.FrameType, body []byte) {
	switch t {
	case derp.SendPacket:
		to, packet := derp.ParsePacket(body)
		c := classOf(packet)
		p.tally.packets[c].packets++
		p.tally.packets[c].bytes += uint64(len(packet))
		p.send(to, packet, c)
	case derp.ForwardPacket:
		from, to, packet := derp.ParseForwardPacket(body)
		p.tally.forwarded++
		p.forward(from, to, packet)
	case derp.NotePreferred:
		p.notePreferred(derp.ParseNotePreferred(body))
	case derp.Ping:
		p.server.counts.pings.Add(1)
		if p.out.pushPong(derp.ParsePing(body)) {
			p.server.counts.pongs.Add(1)
			p.touch(p)
		}
	case derp.WatchConns:
		p.server.addWatcher(p)
	case derp.ClosePeer:
		p.closePeer(derp.ParseClosePeer(body))
	}
}

// send queues a packet of the peer's own for whoever holds the key to.
func (p *peer) send(to key.Public, packet []byte, c class) {
	if p.last.entry == nil || p.last.key != to {
		p.last = route{key: to, entry: p.server.dir.lookup(to)}
	}
	dst := p.active(to)
	if dst == nil {
		p.server.counts.dropOne(dropUnknown, c, len(packet))
		p.sayNotHere(to, c)
		return
	}
	if dst.realm != p.realm {
		p.server.counts.dropOne(dropOtherTenant, c, len(packet))
		p.sayNotHere(to, c)
		return
	}
	if dst.id != p.last.id {
		meet(p.entry, dst)
		p.last.id = dst.id
	}
	p.queue(dst, p.key, packet, c)
}

// active returns the connection that receives for the remembered route, looking
// its key up again when it has left meanwhile.
func (p *peer) active(to key.Public) *peer {
	if p.last.entry == nil {
		return nil
	}
	if dst := p.last.entry.active.Load(); dst != nil {
		return dst
	}
	p.last = route{key: to, entry: p.server.dir.lookup(to)}
	if p.last.entry == nil {
		return nil
	}
	return p.last.entry.active.Load()
}

// forward queues a packet that a sibling relay passes on. It is for a local peer
// or for nobody: packets cross the mesh once.
func (p *peer) forward(from, to key.Public, packet []byte) {
	c := classOf(packet)
	var dst *peer
	if e := p.server.dir.lookup(to); e != nil {
		dst = e.active.Load()
	}
	if dst == nil {
		p.server.counts.dropOne(dropUnknownForwarded, c, len(packet))
		p.sayNotHere(to, c)
		return
	}
	if dst.realm != 0 { // whose packet it is cannot be told here
		p.server.counts.dropOne(dropOtherTenant, c, len(packet))
		p.sayNotHere(to, c)
		return
	}
	p.queue(dst, from, packet, c)
}

func (p *peer) queue(dst *peer, from key.Public, packet []byte, c class) {
	r := dst.out.push(p.id, from, packet, c)
	if r.closed {
		p.server.counts.dropOne(dropGone, c, len(packet))
		return
	}
	if r.dropped.packets > 0 {
		p.server.counts.drop(dropQueueHead, c, r.dropped)
	}
	if r.flush {
		p.touch(dst)
	}
}

// sayNotHere tells the sender of a disco packet that its receiver is not here,
// so that it forgets a stale route. Official clients expect no more than this.
func (p *peer) sayNotHere(to key.Public, c class) {
	if c != classDisco {
		return
	}
	if p.notHere == nil {
		p.notHere = rate.NewLimiter(rate.Every(notHereEvery), notHereBurst)
	}
	if !p.notHere.Allow() {
		return
	}
	if p.out.pushControl(derp.AppendPeerGone(nil, to, derp.GoneNotHere)) {
		p.server.counts.goneNotHere.Add(1)
		p.touch(p)
	}
}

func (p *peer) notePreferred(home bool) {
	if home == p.home {
		return
	}
	p.home = home
	p.server.counts.homeChanged(p, home)
}

// closePeer cuts off every connection of a key, at a sibling's word.
func (p *peer) closePeer(k key.Public) {
	for _, victim := range p.server.dir.of(k) {
		victim.end(errors.New("closed by a sibling relay"))
	}
}
