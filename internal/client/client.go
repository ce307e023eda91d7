// Package client is the dialling side of DERP: connect to a relay, upgrade, log
// in, send, receive, ping. It behaves on the wire as official clients do, and
// keeps no goroutine: what it does, it does in the caller's.
//
// One goroutine calls Recv in a loop; it is what answers Pings and hears Pongs.
// All other methods may be called at any time by anyone.
package client

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

const (
	// writeLimit is how long the relay may take to accept one write. It reads
	// without pause, so a line that stands still for so long is dead.
	writeLimit = 10 * time.Second
	// readLimit is how long nothing may arrive. Relays send a KeepAlive every 60
	// to 65 seconds; official clients wait for two.
	readLimit = 120 * time.Second
	// readBuffer holds a few packets of usual size, or one TLS record, in bytes.
	readBuffer = 16 << 10
)

// Client is one connection to a relay, logged in. After the first error of a
// method (but Ping's ctx, and a packet that is too large) it is of no further
// use but to be closed.
type Client struct {
	key      key.Private
	server   key.Public
	shared   key.Shared
	raw      net.Conn             // the socket
	conn     net.Conn             // the socket, TLS, or a WebSocket over either
	tls      *tls.ConnectionState // nil: none
	fast     bool
	ackPings bool

	info atomic.Pointer[derp.ServerParams]

	// Owned by the goroutine that calls Recv; by Dial before.
	in   *bufio.Reader
	body []byte // of the last frame

	writing sync.Mutex
	frames  []byte // Guarded by writing. What is being written.

	ending sync.Once
	done   chan struct{} // closed when the connection is of no use
	cause  error         // why; written before done is closed

	waiting sync.Mutex
	pings   map[derp.PingData]chan<- time.Time // Guarded by waiting. Each has room for one value.
}

// PublicKey is the node key that the client has logged in with.
func (c *Client) PublicKey() key.Public { return c.key.Public() }

// ServerKey is the relay's key. The login has proved that the relay holds it.
func (c *Client) ServerKey() key.Public { return c.server }

// ServerInfo is what the relay last said of itself. Its token bucket is for the
// caller to obey: Send does not.
func (c *Client) ServerInfo() derp.ServerParams { return *c.info.Load() }

// FastStarted reports whether the login went out with the request, without
// waiting for an HTTP response.
func (c *Client) FastStarted() bool { return c.fast }

// TLS is the state of the TLS connection after its handshake; ok is false on a
// plain one.
func (c *Client) TLS() (state tls.ConnectionState, ok bool) {
	if c.tls == nil {
		return tls.ConnectionState{}, false
	}
	return *c.tls, true
}

// LocalAddr is this end of the TCP connection.
func (c *Client) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr is the relay's end of the TCP connection, or that of a proxy.
func (c *Client) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// Send sends a packet of at most derp.MaxPacket bytes to a peer. That it
// succeeds says nothing about the packet's arrival.
func (c *Client) Send(to key.Public, packet []byte) error {
	if err := checkPacket(packet); err != nil {
		return err
	}
	return c.send(func(b []byte) []byte { return derp.AppendSendPacket(b, to, packet) })
}

// Forward sends a packet that a peer here has for a peer there. The relay hangs
// up unless the client has the mesh key.
func (c *Client) Forward(from, to key.Public, packet []byte) error {
	if err := checkPacket(packet); err != nil {
		return err
	}
	return c.send(func(b []byte) []byte { return derp.AppendForwardPacket(b, from, to, packet) })
}

func checkPacket(packet []byte) error {
	if len(packet) > derp.MaxPacket {
		return fmt.Errorf("client: send: packet has %d bytes, at most %d can be sent", len(packet), derp.MaxPacket)
	}
	return nil
}

// NotePreferred tells the relay whether it is in the client's home region.
func (c *Client) NotePreferred(home bool) error {
	return c.send(func(b []byte) []byte { return derp.AppendNotePreferred(b, home) })
}

// WatchConns asks for a PeerPresent and a PeerGone for every peer, those that
// are there already first. The relay hangs up unless the client has the mesh key.
func (c *Client) WatchConns() error { return c.send(derp.AppendWatchConns) }

// ClosePeer makes the relay hang up on a peer. The relay hangs up on the client
// instead unless it has the mesh key.
func (c *Client) ClosePeer(peer key.Public) error {
	return c.send(func(b []byte) []byte { return derp.AppendClosePeer(b, peer) })
}

// SendRaw writes frames as they are: several at once, or such as no honest
// client sends.
func (c *Client) SendRaw(frames []byte) error {
	return c.send(func(b []byte) []byte { return append(b, frames...) })
}

// Ping measures one round trip to the relay. It works only while another
// goroutine is in Recv, and ends when ctx is done: a relay answers one Ping at a
// time and drops what comes too fast, so ctx needs a limit.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	var d derp.PingData
	rand.Read(d[:]) // never fails, by its documentation
	came := make(chan time.Time, 1)
	c.waiting.Lock()
	if c.pings == nil {
		c.pings = make(map[derp.PingData]chan<- time.Time)
	}
	c.pings[d] = came
	c.waiting.Unlock()
	defer c.forgetPing(d)

	sent := time.Now()
	if err := c.send(func(b []byte) []byte { return derp.AppendPing(b, d) }); err != nil {
		return 0, err
	}
	select {
	case at := <-came:
		return at.Sub(sent), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("client: wait for a pong: %w", ctx.Err())
	case <-c.done:
		return 0, fmt.Errorf("client: wait for a pong: %w", c.cause)
	}
}

func (c *Client) forgetPing(d derp.PingData) {
	c.waiting.Lock()
	defer c.waiting.Unlock()
	delete(c.pings, d)
}

// gotPong tells the Ping that waits for d, if any does.
func (c *Client) gotPong(d derp.PingData) {
	c.waiting.Lock()
	defer c.waiting.Unlock()
	if came, ok := c.pings[d]; ok {
		came <- time.Now()
		delete(c.pings, d) // a second Pong would find no room
	}
}

// send is write for exported methods.
func (c *Client) send(fill func(b []byte) []byte) error {
	if err := c.write(fill); err != nil {
		return fmt.Errorf("client: send: %w", err)
	}
	return nil
}

// write sends what fill appends. A failed write may have sent a part of it, so
// nothing can follow.
func (c *Client) write(fill func(b []byte) []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	select {
	case <-c.done:
		return c.cause
	default:
	}
	c.frames = fill(c.frames[:0])
	_ = c.conn.SetWriteDeadline(time.Now().Add(writeLimit)) // fails only when it is closed, and so does Write
	_, err := c.conn.Write(c.frames)
	if cap(c.frames) > 2*derp.MaxFrame { // append may have doubled
		c.frames = nil
	}
	if err != nil {
		return c.fail(err)
	}
	return nil
}

// fail records why the connection is of no use. The first reason stays and is
// returned: what comes after it is its consequence.
func (c *Client) fail(err error) error {
	c.ending.Do(func() {
		c.cause = err
		close(c.done)
	})
	<-c.done
	return c.cause
}

// Close hangs up. Recv and Ping end with net.ErrClosed, if they have not ended
// before. Closing again does nothing.
func (c *Client) Close() error {
	_ = c.fail(net.ErrClosed) // unless it has failed already
	_ = c.conn.Close()        // a farewell that may fail; the relay sees the end either way
	_ = c.raw.Close()
	return nil
}
