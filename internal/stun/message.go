// Package stun is the part of STUN that a relay and its clients need: a codec for binding requests and responses, and
// a UDP server that tells a client the address and port its packets come from.
//
// The codec is pure: bytes in, values out. The server is a plain loop per socket around it.
package stun

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A message is a header of 20 bytes and attributes up to the end of the datagram:
//
//	type (2) | length of the attributes (2) | magic cookie (4) | transaction id (12) | attributes
//
// and an attribute is
//
//	type (2) | length of the value (2) | value | zero to three bytes of padding to a multiple of 4
//
// All integers are big-endian. Source: RFC 8489, sections 5 and 14.
const (
	headerLen     = 20
	attrHeaderLen = 4
	magicCookie   = 0x2112a442

	typeBindingRequest  = 0x0001
	typeBindingResponse = 0x0101
)

// Attribute types. Those below firstOptional must be understood by whoever answers a message that holds them.
// Source: RFC 8489, section 18.3; the alternative XOR-MAPPED-ADDRESS is from drafts of RFC 5389 and still sent by old
// servers.
const (
	attrMappedAddress       = 0x0001
	attrUsername            = 0x0006
	attrMessageIntegrity    = 0x0008
	attrErrorCode           = 0x0009
	attrUnknownAttributes   = 0x000a
	attrRealm               = 0x0014
	attrNonce               = 0x0015
	attrMessageIntegritySHA = 0x001c
	attrPasswordAlgorithm   = 0x001d
	attrUserHash            = 0x001e
	attrXORMappedAddress    = 0x0020

	firstOptional = 0x8000

	attrXORMappedAddressAlt = 0x8020
	attrSoftware            = 0x8022
	attrFingerprint         = 0x8028
)

const (
	// tailscaleSoftware is the SOFTWARE value by which Tailscale clients mark their requests.
	// Source: observed in requests of Tailscale clients.
	tailscaleSoftware = "tailnode"

	fingerprintLen = 4
	// fingerprintMask tells a FINGERPRINT from a CRC of another protocol on the same port. Source: RFC 8489, section 14.7.
	fingerprintMask = 0x5354554e
)

var (
	errNotSTUN    = errors.New("stun: not a stun message")
	errAttributes = errors.New("stun: malformed attributes")
)

// TxID is a transaction id: 12 bytes that the asking side draws at random and the answering side repeats.
type TxID [12]byte

// parseHeader tells a STUN message from other datagrams and returns its type and transaction id. It does not look at
// the length field, of which requests and responses are judged differently.
func parseHeader(b []byte) (kind uint16, tx TxID, err error) {
	if len(b) < headerLen || b[0]&0xc0 != 0 || binary.BigEndian.Uint32(b[4:]) != magicCookie {
		return 0, TxID{}, errNotSTUN
	}
	return binary.BigEndian.Uint16(b), TxID(b[8:headerLen]), nil
}

func appendHeader(dst []byte, kind uint16, attributesLen int, tx TxID) []byte {
	dst = binary.BigEndian.AppendUint16(dst, kind)
	dst = binary.BigEndian.AppendUint16(dst, uint16(attributesLen))
	dst = binary.BigEndian.AppendUint32(dst, magicCookie)
	return append(dst, tx[:]...)
}

func appendAttrHeader(dst []byte, kind uint16, valueLen int) []byte {
	dst = binary.BigEndian.AppendUint16(dst, kind)
	return binary.BigEndian.AppendUint16(dst, uint16(valueLen))
}

// attribute is one attribute of a message; value lies in the message's own bytes, without the padding.
type attribute struct {
	kind  uint16
	value []byte
}

// cutAttribute takes the first attribute off b, which is not empty. Padding counts as part of the attribute: a message
// that ends before it is malformed.
func cutAttribute(b []byte) (a attribute, rest []byte, err error) {
	if len(b) < attrHeaderLen {
		return attribute{}, nil, errAttributes
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	end := attrHeaderLen + (length+3)&^3
	if end > len(b) {
		return attribute{}, nil, errAttributes
	}
	return attribute{binary.BigEndian.Uint16(b), b[attrHeaderLen:][:length]}, b[end:], nil
}

// fingerprint is the value of a FINGERPRINT attribute that follows the bytes in before.
func fingerprint(before []byte) uint32 {
	return crc32.ChecksumIEEE(before) ^ fingerprintMask
}
