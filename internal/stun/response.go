package stun

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// An address attribute's value: zero (1) | family (1) | port (2) | address (4 or 16). In the XOR forms the port and the
// address are masked with the bytes of the magic cookie and the transaction id, so that a NAT which rewrites addresses
// wherever it finds them does not find these. Source: RFC 8489, sections 14.1 and 14.2.
const (
	addressHeaderLen = 4

	familyIPv4 = 1
	familyIPv6 = 2
)

// MaxResponseLen is the length in bytes of the longest response that AppendResponse makes, the one to an IPv6 address.
// It stays under three times the least request, so that the server is of no use as an amplifier.
const MaxResponseLen = headerLen + attrHeaderLen + addressHeaderLen + 16

// That bound holds, or this does not compile.
const _ = uint(3*minRequestLen - MaxResponseLen)

var (
	errNotResponse = errors.New("stun: not a binding response")
	errCut         = errors.New("stun: response is shorter than its length field says")
	errAddress     = errors.New("stun: malformed address")
	errNoAddress   = errors.New("stun: response holds no address")
)

// AppendResponse appends the answer to request tx from addr, which must be valid: a header and XOR-MAPPED-ADDRESS alone,
// 32 bytes for IPv4 and 44 for IPv6. An IPv4 address in IPv6 form is written as IPv4, and a zone is left out.
func AppendResponse(dst []byte, tx TxID, addr netip.AddrPort) []byte {
	ip := addr.Addr().Unmap()
	family, size := byte(familyIPv6), 16
	if ip.Is4() {
		family, size = familyIPv4, 4
	}
	dst = appendHeader(dst, typeBindingResponse, attrHeaderLen+addressHeaderLen+size, tx)
	dst = appendAttrHeader(dst, attrXORMappedAddress, addressHeaderLen+size)
	mask := addressMask(tx)
	dst = append(dst, 0, family)
	dst = binary.BigEndian.AppendUint16(dst, addr.Port()^mask.port())
	raw := ip.As16()
	masked := raw[16-size:] // of an IPv4 address As16 holds the four bytes last
	mask.apply(masked)
	return append(dst, masked...)
}

// ParseResponse reads a binding response: the transaction id, by which the caller must find its request, and the
// address that the server saw. That is the first XOR-MAPPED-ADDRESS (of either number) or else the first
// MAPPED-ADDRESS; an IPv4 address in IPv6 form comes back as IPv4. Bytes after the length that the header states are
// ignored. Anything else than a well-formed binding response with an address is an error. It keeps nothing of b.
func ParseResponse(b []byte) (TxID, netip.AddrPort, error) {
	kind, tx, err := parseHeader(b)
	if err != nil {
		return TxID{}, netip.AddrPort{}, err
	}
	if kind != typeBindingResponse {
		return TxID{}, netip.AddrPort{}, errNotResponse
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	if length > len(b)-headerLen {
		return TxID{}, netip.AddrPort{}, errCut
	}
	addr, err := findAddress(b[headerLen:][:length], tx)
	if err != nil {
		return TxID{}, netip.AddrPort{}, err
	}
	return tx, addr, nil
}

// findAddress picks the address out of a response's attributes.
func findAddress(attributes []byte, tx TxID) (netip.AddrPort, error) {
	var xored, plain netip.AddrPort
	for len(attributes) > 0 {
		a, rest, err := cutAttribute(attributes)
		if err != nil {
			return netip.AddrPort{}, err
		}
		attributes = rest
		switch {
		case (a.kind == attrXORMappedAddress || a.kind == attrXORMappedAddressAlt) && !xored.IsValid():
			xored, err = parseAddress(a.value, addressMask(tx))
		case a.kind == attrMappedAddress && !plain.IsValid():
			plain, err = parseAddress(a.value, mask{})
		}
		if err != nil {
			return netip.AddrPort{}, err
		}
	}
	if xored.IsValid() {
		return xored, nil
	}
	if plain.IsValid() {
		return plain, nil
	}
	return netip.AddrPort{}, errNoAddress
}

// parseAddress reads the value of an address attribute that was masked with m.
func parseAddress(value []byte, m mask) (netip.AddrPort, error) {
	if len(value) < addressHeaderLen {
		return netip.AddrPort{}, errAddress
	}
	port := binary.BigEndian.Uint16(value[2:]) ^ m.port()
	family, ip := value[1], value[addressHeaderLen:]
	switch {
	case family == familyIPv4 && len(ip) == 4:
		raw := [4]byte(ip)
		m.apply(raw[:])
		return netip.AddrPortFrom(netip.AddrFrom4(raw), port), nil
	case family == familyIPv6 && len(ip) == 16:
		raw := [16]byte(ip)
		m.apply(raw[:])
		return netip.AddrPortFrom(netip.AddrFrom16(raw).Unmap(), port), nil
	}
	return netip.AddrPort{}, errAddress
}

// mask is what an address is combined with by exclusive or: the magic cookie, then the transaction id. Its zero value
// changes nothing.
type mask [16]byte

func addressMask(tx TxID) mask {
	var m mask
	binary.BigEndian.PutUint32(m[:], magicCookie)
	copy(m[4:], tx[:])
	return m
}

// port is the mask of the port: the upper half of the magic cookie.
func (m mask) port() uint16 { return binary.BigEndian.Uint16(m[:]) }

// apply masks or unmasks ip, of 4 or 16 bytes, in place.
func (m mask) apply(ip []byte) {
	for i := range ip {
		ip[i] ^= m[i]
	}
}
