// Package derp is the DERP wire: frame types, their bounds and bodies, and the
// login messages. Bytes go in, values come out: there is no socket, clock or
// goroutine here. All integers on the wire are big-endian.
//
// The protocol was first described by Tailscale's source; what is written here
// was checked against its clients and relays at version 1.102.
package derp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/detour-relay/detour/internal/key"
)

// ProtocolVersion is the only version of DERP in use. Clients that name
// another are served all the same.
const ProtocolVersion = 2

// Sizes in bytes.
const (
	HeaderSize    = 5       // type (1), body length (4)
	MaxPacket     = 1 << 16 // the opaque bytes of one packet, without keys
	MaxClientInfo = 1 << 14 // the body of ClientInfo; real ones have some 150, and derper takes 1 << 18
	MaxSkip       = 1 << 20 // the body of a frame that is skipped unread
	MaxServerBody = 1 << 20 // what clients accept from a relay in one body

	magicSize  = 8
	pingSize   = 8
	minDisco   = 62 // magic (6), disco key (32), nonce (24)
	presentMin = key.Size
	presentIP  = key.Size + 18
)

// MaxFrame is the largest whole frame that a relay must hold in memory at once.
// ClientInfo is larger, but comes only once, before the peer is logged in.
const MaxFrame = HeaderSize + 2*key.Size + MaxPacket

// FrameType is the first byte of every frame.
type FrameType byte

// The frame types. S is the relay, C a client, M a client that proved the mesh key.
const (
	ServerKey     FrameType = 0x01 // S→C magic(8) server key(32), perhaps more: the greeting
	ClientInfo    FrameType = 0x02 // C→S client key(32) nonce(24) box(JSON): only as first frame
	ServerInfo    FrameType = 0x03 // S→C nonce(24) box(JSON): the end of the login
	SendPacket    FrameType = 0x04 // C→S destination key(32) packet(0..65536)
	RecvPacket    FrameType = 0x05 // S→C source key(32) packet
	KeepAlive     FrameType = 0x06 // S→C empty
	NotePreferred FrameType = 0x07 // C→S one byte, zero: this is not my home region
	PeerGone      FrameType = 0x08 // S→C key(32) reason(1)
	PeerPresent   FrameType = 0x09 // S→M key(32) IP(16) port(2) flags(1)
	ForwardPacket FrameType = 0x0a // M→S source key(32) destination key(32) packet
	WatchConns    FrameType = 0x10 // M→S empty: tell me who comes and goes
	ClosePeer     FrameType = 0x11 // M→S key(32): cut this peer off
	Ping          FrameType = 0x12 // both ways, 8 bytes that the answer repeats
	Pong          FrameType = 0x13 // both ways, the 8 bytes of the Ping
	Health        FrameType = 0x14 // S→C text: what is wrong here, empty when nothing is
	Restarting    FrameType = 0x15 // S→C reconnect in ms(4), keep trying for ms(4)
)

var frameNames = map[FrameType]string{
	ServerKey: "ServerKey", ClientInfo: "ClientInfo", ServerInfo: "ServerInfo", SendPacket: "SendPacket",
	RecvPacket: "RecvPacket", KeepAlive: "KeepAlive", NotePreferred: "NotePreferred", PeerGone: "PeerGone",
	PeerPresent: "PeerPresent", ForwardPacket: "ForwardPacket", WatchConns: "WatchConns", ClosePeer: "ClosePeer",
	Ping: "Ping", Pong: "Pong", Health: "Health", Restarting: "Restarting",
}

// String returns the frame's name, or its number when it is unknown.
func (t FrameType) String() string {
	if name, ok := frameNames[t]; ok {
		return name
	}
	return fmt.Sprintf("frame 0x%02x", byte(t))
}

// span is the least and greatest length of a body.
type span struct{ least, most int }

// bounds states what each frame may measure, whoever reads it. A frame that is
// not here is skipped, as a client's KeepAlive and Pong are. Lengths that a
// later version may extend have room above.
var bounds = map[FrameType]span{
	ServerKey:     {magicSize + key.Size, 1024},
	ClientInfo:    {key.Size + key.Overhead, MaxClientInfo},
	ServerInfo:    {key.Overhead, key.NonceSize + 1<<20},
	SendPacket:    {key.Size, key.Size + MaxPacket},
	RecvPacket:    {key.Size, MaxServerBody},
	NotePreferred: {1, 1},
	PeerGone:      {key.Size, MaxServerBody},
	PeerPresent:   {presentMin, MaxServerBody},
	ForwardPacket: {2 * key.Size, 2*key.Size + MaxPacket},
	WatchConns:    {0, 0},
	ClosePeer:     {key.Size, key.Size},
	Ping:          {pingSize, 1000},
	Pong:          {pingSize, MaxServerBody},
	Restarting:    {8, MaxServerBody},
}

// ErrLength is wrapped by the error for a body outside the bounds of its frame.
var ErrLength = errors.New("frame length out of bounds")

// CheckLength returns an error that wraps ErrLength when a body of n bytes is
// outside the bounds of its frame. It must be asked before anything is
// allocated for the body.
func CheckLength(t FrameType, n uint32) error {
	b, known := bounds[t]
	if !known {
		b = span{0, MaxSkip}
	}
	if n < uint32(b.least) || n > uint32(b.most) {
		return fmt.Errorf("%v of %d bytes, want %d to %d: %w", t, n, b.least, b.most, ErrLength)
	}
	return nil
}

// ParseHeader reads the header at the start of b. It reports false when b is
// shorter than a header. The length is as claimed: see CheckLength.
func ParseHeader(b []byte) (t FrameType, bodyLen uint32, ok bool) {
	if len(b) < HeaderSize {
		return 0, 0, false
	}
	return FrameType(b[0]), binary.BigEndian.Uint32(b[1:HeaderSize]), true
}

// AppendHeader appends the header of a frame whose body has n bytes.
func AppendHeader(dst []byte, t FrameType, n int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, byte(t)), uint32(n))
}

// AppendFrame appends a whole frame.
func AppendFrame(dst []byte, t FrameType, body []byte) []byte {
	return append(AppendHeader(dst, t, len(body)), body...)
}

// discoMagic begins every disco packet: "TS" and a speech balloon in UTF-8.
var discoMagic = [6]byte{'T', 'S', 0xf0, 0x9f, 0x92, 0xac}

// IsDisco reports whether a packet looks like a disco packet, which is all that
// a relay may find out about it.
func IsDisco(packet []byte) bool {
	return len(packet) >= minDisco && [6]byte(packet) == discoMagic
}
