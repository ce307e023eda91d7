package client

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// Message is what Recv returns: one of the types below.
type Message interface{ isMessage() }

// Packet is a packet from a peer.
type Packet struct {
	From key.Public
	Data []byte // valid until the next Recv
}

// PeerGone says that a peer is gone: one that had sent packets, one that a
// packet was for, or (to a watcher) any.
type PeerGone struct {
	Peer   key.Public
	Reason derp.GoneReason
}

// PeerPresent tells a watcher that a peer is there.
type PeerPresent struct{ derp.Presence }

// KeepAlive says that the relay is there.
type KeepAlive struct{}

// Ping is the relay's question whether the client is there. It has been
// answered already if Options.CanAckPings is set.
type Ping struct{ Data derp.PingData }

// Pong answers a Ping. Client.Ping has seen it already.
type Pong struct{ Data derp.PingData }

// Health says what is wrong with the relay; an empty Problem, that nothing is
// any more.
type Health struct{ Problem string }

// Restarting says that the relay will hang up: reconnect after ReconnectIn, and
// keep trying for TryFor.
type Restarting struct{ ReconnectIn, TryFor time.Duration }

// ServerInfo is a change of what the relay said at the login.
type ServerInfo struct{ derp.ServerParams }

func (Packet) isMessage()      {}
func (PeerGone) isMessage()    {}
func (PeerPresent) isMessage() {}
func (KeepAlive) isMessage()   {}
func (Ping) isMessage()        {}
func (Pong) isMessage()        {}
func (Health) isMessage()      {}
func (Restarting) isMessage()  {}
func (ServerInfo) isMessage()  {}

// Recv returns the next message, passing over frames it does not know. It fails
// when nothing at all has arrived for 120 seconds, and after Close with
// net.ErrClosed. When the relay has hung up the error wraps io.EOF. Only one
// goroutine may be in Recv.
func (c *Client) Recv() (Message, error) {
	for {
		m, err := c.next()
		if err != nil {
			return nil, fmt.Errorf("client: receive: %w", c.fail(err))
		}
		if m != nil {
			return m, nil
		}
	}
}

// next reads one frame. It returns nil for one that is passed over.
func (c *Client) next() (Message, error) {
	t, n, err := c.readHeader()
	if err != nil {
		return nil, err
	}
	if !forClients(t) {
		return nil, c.skip(t, n)
	}
	body, err := c.readBody(t, n)
	if err != nil {
		return nil, err
	}
	switch t {
	case derp.RecvPacket:
		from, data := derp.ParsePacket(body)
		return Packet{from, data}, nil
	case derp.PeerGone:
		k, reason := derp.ParsePeerGone(body)
		return PeerGone{k, reason}, nil
	case derp.PeerPresent:
		return PeerPresent{derp.ParsePeerPresent(body)}, nil
	case derp.Ping:
		return c.gotPing(derp.ParsePing(body))
	case derp.Pong:
		d := derp.ParsePing(body)
		c.gotPong(d)
		return Pong{d}, nil
	case derp.Health:
		return Health{derp.ParseHealth(body)}, nil
	case derp.Restarting:
		in, tryFor := derp.ParseRestarting(body)
		return Restarting{in, tryFor}, nil
	case derp.ServerInfo:
		return c.gotServerInfo(body)
	}
	return KeepAlive{}, nil
}

// forClients reports whether a relay has any business sending t after the login.
func forClients(t derp.FrameType) bool {
	switch t {
	case derp.RecvPacket, derp.KeepAlive, derp.PeerGone, derp.PeerPresent, derp.Ping, derp.Pong,
		derp.Health, derp.Restarting, derp.ServerInfo:
		return true
	}
	return false
}

func (c *Client) gotPing(d derp.PingData) (Message, error) {
	if c.ackPings {
		if err := c.write(func(b []byte) []byte { return derp.AppendPong(b, d) }); err != nil {
			return nil, err
		}
	}
	return Ping{d}, nil
}

func (c *Client) gotServerInfo(body []byte) (Message, error) {
	info, err := derp.OpenServerInfo(c.shared, body)
	if err != nil {
		return nil, err
	}
	c.info.Store(&info)
	return ServerInfo{info}, nil
}

func (c *Client) readHeader() (t derp.FrameType, n uint32, err error) {
	var h [derp.HeaderSize]byte
	if _, err := io.ReadFull(c.in, h[:]); err != nil {
		return 0, 0, err
	}
	t, n, _ = derp.ParseHeader(h[:])
	return t, n, nil
}

// readBody reads the body that follows a header. It is valid until the next one
// is read.
func (c *Client) readBody(t derp.FrameType, n uint32) ([]byte, error) {
	if err := derp.CheckLength(t, n); err != nil {
		return nil, err
	}
	if cap(c.body) < int(n) || cap(c.body) > derp.MaxFrame {
		c.body = make([]byte, n)
	}
	c.body = c.body[:n]
	_, err := io.ReadFull(c.in, c.body)
	return c.body, midFrame(err)
}

// skip passes over a body of any type.
func (c *Client) skip(t derp.FrameType, n uint32) error {
	if n > derp.MaxSkip {
		return fmt.Errorf("%v of %d bytes, at most %d are passed over: %w", t, n, derp.MaxSkip, derp.ErrLength)
	}
	_, err := c.in.Discard(int(n))
	return midFrame(err)
}

// midFrame keeps a stream that breaks inside a frame from looking like one that
// has ended.
func midFrame(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// patient is a connection whose every read may take readLimit.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	_ = p.SetReadDeadline(time.Now().Add(readLimit)) // fails only when it is closed, and so does Read
	return p.Conn.Read(b)
}
