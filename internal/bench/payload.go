package bench

import (
	"encoding/binary"
	"hash/crc32"
)

// A packet begins with 32 bytes, big-endian, and is filled up with a fixed
// pattern:
//
//	magic (4) | CRC-32C of all that follows (4) | flow (4) | flags (4) | number (8) | sent at, ns (8)
//
// The magic is none of disco's or WireGuard's.
const (
	stampSize = 32
	magic     = 0xb37c4c31

	atSum, atFlow, atFlags, atNumber, atSent = 4, 8, 12, 16, 24

	// flagMeasured marks packets sent during the measurement, not before it.
	flagMeasured = 1
)

// castagnoli is the polynomial that processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stamp is what a packet says of itself.
type stamp struct {
	flow     uint32
	measured bool
	number   uint64 // within its flow, from 0
	sent     int64  // ns since the run began
}

// fill writes the pattern behind where the stamp goes.
func fill(packet []byte) {
	for i := stampSize; i < len(packet); i++ {
		packet[i] = byte(i * 151)
	}
}

// put writes s and the checksum of the whole packet, of at least stampSize bytes.
func (s stamp) put(packet []byte) {
	var flags uint32
	if s.measured {
		flags = flagMeasured
	}
	binary.BigEndian.PutUint32(packet, magic)
	binary.BigEndian.PutUint32(packet[atFlow:], s.flow)
	binary.BigEndian.PutUint32(packet[atFlags:], flags)
	binary.BigEndian.PutUint64(packet[atNumber:], s.number)
	binary.BigEndian.PutUint64(packet[atSent:], uint64(s.sent))
	binary.BigEndian.PutUint32(packet[atSum:], crc32.Checksum(packet[atFlow:], castagnoli))
}

// parseStamp reads the stamp of a packet. It reports false for one that put did
// not write, or that has changed since.
func parseStamp(packet []byte) (s stamp, ok bool) {
	if len(packet) < stampSize || binary.BigEndian.Uint32(packet) != magic ||
		binary.BigEndian.Uint32(packet[atSum:]) != crc32.Checksum(packet[atFlow:], castagnoli) {
		return stamp{}, false
	}
	return stamp{
		flow:     binary.BigEndian.Uint32(packet[atFlow:]),
		measured: binary.BigEndian.Uint32(packet[atFlags:])&flagMeasured != 0,
		number:   binary.BigEndian.Uint64(packet[atNumber:]),
		sent:     int64(binary.BigEndian.Uint64(packet[atSent:])),
	}, true
}
