package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/key"
)

// Peer is a probe's client at a relay, and reads what the relay sends it.
type Peer struct {
	c       *client.Client
	packets chan client.Packet // what came and was not asked for is dropped
	done    chan struct{}      // closed when the reader ends

	mu     sync.Mutex
	health string // the relay's last complaint
	alive  int    // keepalives heard
	err    error  // why the reader ended
}

// maxUnread bounds the packets that wait for Exchange.
const maxUnread = 64

// DialPeer connects and logs in as a client of o. The Peer must be closed.
func DialPeer(ctx context.Context, o client.Options) (*Peer, error) {
	c, err := client.Dial(ctx, o)
	if err != nil {
		return nil, err
	}
	p := &Peer{c: c, packets: make(chan client.Packet, maxUnread), done: make(chan struct{})}
	go p.read()
	return p, nil
}

// Client is the connection itself. Only Peer may Recv from it.
func (p *Peer) Client() *client.Client { return p.c }

// Key is whom the peer is logged in as.
func (p *Peer) Key() key.Public { return p.c.PublicKey() }

// Health is the last complaint that the relay sent, "" when it has none: so says
// a relay to whom it lets in but does not relay for.
func (p *Peer) Health() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.health
}

// KeepAlives is how many keepalives came so far.
func (p *Peer) KeepAlives() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alive
}

// Done is closed when the connection has ended; Err says why.
func (p *Peer) Done() <-chan struct{} { return p.done }

// Err is why the connection ended, nil while it lives.
func (p *Peer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close hangs up and waits for the reader.
func (p *Peer) Close() error {
	err := p.c.Close()
	<-p.done
	return err
}

func (p *Peer) read() {
	defer close(p.done)
	for {
		m, err := p.c.Recv()
		if err != nil {
			p.mu.Lock()
			p.err = err
			p.mu.Unlock()
			return
		}
		p.take(m)
	}
}

func (p *Peer) take(m client.Message) {
	switch m := m.(type) {
	case client.Packet:
		m.Data = bytes.Clone(m.Data) // Recv's buffer is used again
		select {
		case p.packets <- m:
		default:
		}
	case client.Health:
		p.mu.Lock()
		p.health = m.Problem
		p.mu.Unlock()
	case client.KeepAlive:
		p.mu.Lock()
		p.alive++
		p.mu.Unlock()
	}
}

// Errors of Exchange that callers tell apart.
var (
	// ErrNotRelayed: the packet did not come in time, though both connections live.
	ErrNotRelayed = errors.New("the packet did not come through")
	// ErrCorrupt: a packet came from the right peer with other content.
	ErrCorrupt = errors.New("the packet came through with other content")
)

// Exchange sends size random bytes (1 to derp.MaxPacket) from a to b, and
// returns how long they took. It ends with ctx, with ErrNotRelayed then.
func Exchange(ctx context.Context, a, b *Peer, size int) (time.Duration, error) {
	packet := make([]byte, size)
	rand.Read(packet)
	return Pass(ctx, a, b, packet)
}

// Pass is Exchange with a packet of the caller's. After an error the two are of
// no more use.
func Pass(ctx context.Context, a, b *Peer, packet []byte) (time.Duration, error) {
	for len(b.packets) > 0 {
		<-b.packets // came too late for an earlier Pass
	}
	start := time.Now()
	if err := a.c.Send(b.Key(), packet); err != nil {
		return 0, err
	}
	select {
	case got := <-b.packets:
		took := time.Since(start)
		switch {
		case got.From != a.Key(): // nobody else knows b's key
			return 0, fmt.Errorf("%w: it claims to be from %v, who is not the sender", ErrCorrupt, got.From)
		case len(got.Data) != len(packet):
			return 0, fmt.Errorf("%w: %d bytes of %d", ErrCorrupt, len(got.Data), len(packet))
		case !bytes.Equal(got.Data, packet):
			return 0, ErrCorrupt
		}
		return took, nil
	case <-a.done:
		return 0, fmt.Errorf("the sender's connection ended: %w", a.Err())
	case <-b.done:
		return 0, fmt.Errorf("the receiver's connection ended: %w", b.Err())
	case <-ctx.Done():
		return 0, ErrNotRelayed
	}
}
