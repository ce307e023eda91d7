package stun

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Mode says which binding requests are answered.
type Mode uint8

const (
	// Tailscale answers only requests in the dialect of Tailscale clients: a SOFTWARE attribute of exactly "tailnode",
	// and a correct FINGERPRINT as the last attribute. A stranger who scans for reflectors hears nothing.
	// It is the zero value, and what any unknown Mode means.
	Tailscale Mode = iota

	// RFC also answers every other binding request that is well-formed by RFC 8489. It answers all that Tailscale does.
	RFC
)

// ParseMode returns the mode named by s: "tailscale" or "rfc". Any other name is an error that lists both.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "tailscale":
		return Tailscale, nil
	case "rfc":
		return RFC, nil
	}
	return Tailscale, fmt.Errorf("stun: unknown mode %q; hint: use tailscale or rfc", s)
}

// String returns the name that ParseMode takes.
func (m Mode) String() string {
	if m == RFC {
		return "rfc"
	}
	return "tailscale"
}

const (
	// requestLen is the length in bytes of the request that AppendRequest makes.
	requestLen = headerLen + attrHeaderLen + len(tailscaleSoftware) + attrHeaderLen + fingerprintLen

	// minRequestLen is the length in bytes of the least request that any mode accepts: a header alone.
	minRequestLen = headerLen
)

var (
	errNotRequest      = errors.New("stun: not a binding request")
	errNotTailscale    = errors.New("stun: software is not a tailscale client")
	errFingerprint     = errors.New("stun: missing or wrong fingerprint")
	errLength          = errors.New("stun: length field differs from the datagram")
	errUnknownRequired = errors.New("stun: unknown attribute that must be understood")
)

// AppendRequest appends a binding request in the form that Tailscale clients send, 40 bytes, and which servers of
// either mode answer:
//
//	header | SOFTWARE "tailnode" | FINGERPRINT
//
// SOFTWARE comes first because a server that reads at fixed offsets is in use. Source: observed requests of Tailscale
// clients; Tailscale's in-kernel STUN server.
func AppendRequest(dst []byte, tx TxID) []byte {
	start := len(dst)
	dst = appendHeader(dst, typeBindingRequest, requestLen-headerLen, tx)
	dst = appendAttrHeader(dst, attrSoftware, len(tailscaleSoftware))
	dst = append(dst, tailscaleSoftware...)
	sum := fingerprint(dst[start:])
	dst = appendAttrHeader(dst, attrFingerprint, fingerprintLen)
	return binary.BigEndian.AppendUint32(dst, sum)
}

// ParseRequest returns the transaction id of the binding request that fills b, a whole datagram of any length, or an
// error that says why a server of this mode leaves it unanswered. It keeps nothing of b and allocates nothing.
func ParseRequest(b []byte, mode Mode) (TxID, error) {
	kind, tx, err := parseHeader(b)
	if err != nil {
		return TxID{}, err
	}
	if kind != typeBindingRequest {
		return TxID{}, errNotRequest
	}
	seen, err := scanRequest(b)
	if err != nil {
		return TxID{}, err
	}
	if err = seen.checkTailscale(); err != nil && mode == RFC {
		err = seen.checkRFC()
	}
	if err != nil {
		return TxID{}, err
	}
	return tx, nil
}

// requestFacts is what one pass over the attributes of a request finds.
type requestFacts struct {
	tailnode         bool // some SOFTWARE is exactly that of Tailscale clients
	sealed           bool // the last attribute is a correct FINGERPRINT
	wrongFingerprint bool // some FINGERPRINT is not last, not 4 bytes or not correct
	unknownRequired  bool // some attribute must be understood and is not
	wrongLength      bool // the header's length field is not that of the attributes
}

// scanRequest reads the attributes of b, which holds a whole header. It computes one checksum at most, however many
// FINGERPRINT attributes a hostile datagram repeats.
func scanRequest(b []byte) (requestFacts, error) {
	seen := requestFacts{wrongLength: int(binary.BigEndian.Uint16(b[2:])) != len(b)-headerLen}
	for rest := b[headerLen:]; len(rest) > 0; {
		before := b[:len(b)-len(rest)]
		a, next, err := cutAttribute(rest)
		if err != nil {
			return requestFacts{}, err
		}
		rest = next
		switch {
		case a.kind == attrSoftware:
			seen.tailnode = seen.tailnode || string(a.value) == tailscaleSoftware
		case a.kind == attrFingerprint:
			last := len(rest) == 0
			seen.sealed = last && len(a.value) == fingerprintLen && binary.BigEndian.Uint32(a.value) == fingerprint(before)
			seen.wrongFingerprint = seen.wrongFingerprint || !seen.sealed
		case a.kind < firstOptional && !isKnownRequired(a.kind):
			seen.unknownRequired = true
		}
	}
	return seen, nil
}

// checkTailscale holds a request against the dialect of Tailscale clients. The length field is not looked at: the
// fingerprint covers it, and derper does not either. Source: behaviour of derper, observed.
func (f requestFacts) checkTailscale() error {
	if !f.tailnode {
		return errNotTailscale
	}
	if !f.sealed {
		return errFingerprint
	}
	return nil
}

// checkRFC holds a request against RFC 8489, section 6.3. The RFC would have an unknown attribute answered with error
// 420; a public server does better to be silent.
func (f requestFacts) checkRFC() error {
	switch {
	case f.wrongLength:
		return errLength
	case f.wrongFingerprint:
		return errFingerprint
	case f.unknownRequired:
		return errUnknownRequired
	}
	return nil
}

// isKnownRequired reports whether an attribute that must be understood is one of RFC 8489 itself. Those for
// authentication are known and ignored: this server asks nobody who they are. Attributes that change what or whence a
// server answers, as CHANGE-REQUEST and RESPONSE-PORT of RFC 5780, are left unknown on purpose.
func isKnownRequired(kind uint16) bool {
	switch kind {
	case attrMappedAddress, attrUsername, attrMessageIntegrity, attrErrorCode, attrUnknownAttributes, attrRealm, attrNonce,
		attrMessageIntegritySHA, attrPasswordAlgorithm, attrUserHash, attrXORMappedAddress:
		return true
	}
	return false
}
