package derp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// The parsers below take the body of one frame whose length CheckLength has
// passed. Slices in their results share memory with the body.

// ParsePacket splits the body of SendPacket or RecvPacket into the key of the
// other end and the packet.
func ParsePacket(body []byte) (peer key.Public, packet []byte) {
	return key.Public(body), body[key.Size:]
}

// AppendSendPacket appends a SendPacket frame.
func AppendSendPacket(dst []byte, to key.Public, packet []byte) []byte {
	return appendKeyed(dst, SendPacket, to, packet)
}

// AppendRecvPacket appends a RecvPacket frame.
func AppendRecvPacket(dst []byte, from key.Public, packet []byte) []byte {
	return appendKeyed(dst, RecvPacket, from, packet)
}

func appendKeyed(dst []byte, t FrameType, k key.Public, rest []byte) []byte {
	dst = AppendHeader(dst, t, key.Size+len(rest))
	return append(append(dst, k[:]...), rest...)
}

// ParseForwardPacket splits the body of ForwardPacket.
func ParseForwardPacket(body []byte) (from, to key.Public, packet []byte) {
	return key.Public(body), key.Public(body[key.Size:]), body[2*key.Size:]
}

// AppendForwardPacket appends a ForwardPacket frame.
func AppendForwardPacket(dst []byte, from, to key.Public, packet []byte) []byte {
	dst = AppendHeader(dst, ForwardPacket, 2*key.Size+len(packet))
	dst = append(append(dst, from[:]...), to[:]...)
	return append(dst, packet...)
}

// AppendKeepAlive appends a KeepAlive frame.
func AppendKeepAlive(dst []byte) []byte { return AppendHeader(dst, KeepAlive, 0) }

// AppendWatchConns appends a WatchConns frame.
func AppendWatchConns(dst []byte) []byte { return AppendHeader(dst, WatchConns, 0) }

// AppendNotePreferred appends a NotePreferred frame.
func AppendNotePreferred(dst []byte, home bool) []byte {
	var b byte
	if home {
		b = 1
	}
	return append(AppendHeader(dst, NotePreferred, 1), b)
}

// ParseNotePreferred reads the body of NotePreferred: any byte but zero means home.
func ParseNotePreferred(body []byte) (home bool) { return body[0] != 0 }

// AppendClosePeer appends a ClosePeer frame.
func AppendClosePeer(dst []byte, k key.Public) []byte { return appendKeyed(dst, ClosePeer, k, nil) }

// ParseClosePeer reads the body of ClosePeer.
func ParseClosePeer(body []byte) key.Public { return key.Public(body) }

// PingData is what a Ping carries and its Pong repeats.
type PingData [pingSize]byte

// ParsePing reads the body of Ping or Pong. What follows the first 8 bytes is
// ignored, as relays always did.
func ParsePing(body []byte) PingData { return PingData(body) }

// AppendPing appends a Ping frame.
func AppendPing(dst []byte, d PingData) []byte { return AppendFrame(dst, Ping, d[:]) }

// AppendPong appends a Pong frame.
func AppendPong(dst []byte, d PingData) []byte { return AppendFrame(dst, Pong, d[:]) }

// GoneReason says why a peer is gone.
type GoneReason byte

// The reasons on the wire.
const (
	GoneDisconnected GoneReason = 0x00 // it left the region
	GoneNotHere      GoneReason = 0x01 // it was not here when a disco packet was sent to it
)

// String returns the reason in the words of the protocol.
func (r GoneReason) String() string {
	switch r {
	case GoneDisconnected:
		return "disconnected"
	case GoneNotHere:
		return "not here"
	}
	return fmt.Sprintf("reason 0x%02x", byte(r))
}

// AppendPeerGone appends a PeerGone frame.
func AppendPeerGone(dst []byte, k key.Public, r GoneReason) []byte {
	return appendKeyed(dst, PeerGone, k, []byte{byte(r)})
}

// ParsePeerGone reads the body of PeerGone. Old relays sent no reason, which
// means that the peer has disconnected.
func ParsePeerGone(body []byte) (k key.Public, r GoneReason) {
	if len(body) > key.Size {
		r = GoneReason(body[key.Size])
	}
	return key.Public(body), r
}

// PresentFlags tells a watcher what kind of peer has come.
type PresentFlags byte

// The flags of PeerPresent. PresentRegular stands only where no other does.
const (
	PresentRegular  PresentFlags = 0x01
	PresentMesh     PresentFlags = 0x02 // it proved the mesh key
	PresentProber   PresentFlags = 0x04 // it said that it measures the relay
	PresentNotIdeal PresentFlags = 0x08 // it would rather be on another relay of the region
)

// Presence is one peer's arrival as a watcher hears of it.
type Presence struct {
	Key   key.Public
	Addr  netip.AddrPort // invalid when unknown
	Flags PresentFlags
}

// AppendPeerPresent appends a PeerPresent frame of 51 bytes: key(32), IPv6 or
// IPv4-mapped address(16), port(2), flags(1).
func AppendPeerPresent(dst []byte, p Presence) []byte {
	dst = AppendHeader(dst, PeerPresent, presentIP+1)
	dst = append(dst, p.Key[:]...)
	var ip [16]byte
	if p.Addr.IsValid() {
		ip = p.Addr.Addr().As16()
	}
	dst = append(dst, ip[:]...)
	dst = binary.BigEndian.AppendUint16(dst, p.Addr.Port())
	return append(dst, byte(p.Flags))
}

// ParsePeerPresent reads the body of PeerPresent. Address and flags are missing
// from old relays; Flags is zero then.
func ParsePeerPresent(body []byte) Presence {
	p := Presence{Key: key.Public(body)}
	if len(body) >= presentIP {
		if ip := netip.AddrFrom16([16]byte(body[key.Size:])); ip != netip.IPv6Unspecified() {
			p.Addr = netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(body[key.Size+16:]))
		}
	}
	if len(body) > presentIP {
		p.Flags = PresentFlags(body[presentIP])
	}
	return p
}

// AppendHealth appends a Health frame. Official clients show the text as a
// warning for the region; an empty text clears it.
func AppendHealth(dst []byte, problem string) []byte {
	return AppendFrame(dst, Health, []byte(problem))
}

// ParseHealth reads the body of Health.
func ParseHealth(body []byte) (problem string) { return string(body) }

// AppendRestarting appends a Restarting frame: when to reconnect, and for how
// long to keep trying. Both are cut to whole milliseconds. Current clients
// parse it and do nothing.
func AppendRestarting(dst []byte, reconnectIn, tryFor time.Duration) []byte {
	dst = AppendHeader(dst, Restarting, 8)
	dst = binary.BigEndian.AppendUint32(dst, uint32(reconnectIn.Milliseconds()))
	return binary.BigEndian.AppendUint32(dst, uint32(tryFor.Milliseconds()))
}

// ParseRestarting reads the body of Restarting.
func ParseRestarting(body []byte) (reconnectIn, tryFor time.Duration) {
	ms := func(b []byte) time.Duration { return time.Duration(binary.BigEndian.Uint32(b)) * time.Millisecond }
	return ms(body), ms(body[4:])
}
