// Package key holds the Curve25519 keys of DERP: the public keys that name
// peers, the relay's own private key, and the secret that sibling relays share.
// Private and mesh keys redact themselves wherever they are printed or logged.
package key

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/crypto/nacl/box"
	"golang.org/x/crypto/salsa20/salsa"
)

// Sizes in bytes, fixed by NaCl's crypto_box, which DERP uses as it is.
const (
	Size      = 32 // a public, private or mesh key
	NonceSize = 24
	Overhead  = NonceSize + box.Overhead // what Seal adds to a message
)

const (
	publicPrefix  = "nodekey:"
	privatePrefix = "privkey:"
	redacted      = "[redacted]"
)

// Public is a node key or a server key: the name and address of its holder.
// It is comparable, and the zero value is no key.
type Public [Size]byte

// ParsePublic reads "nodekey:" and 64 hex digits, the form that Tailscale and
// Headscale print.
func ParsePublic(s string) (Public, error) {
	digits, ok := strings.CutPrefix(s, publicPrefix)
	if !ok {
		return Public{}, fmt.Errorf("key %q does not begin with %s", clip(s), publicPrefix)
	}
	return ParsePublicHex(digits)
}

// ParsePublicHex reads the 64 hex digits of a public key without a prefix, as
// they stand in a meta certificate.
func ParsePublicHex(digits string) (Public, error) {
	raw, err := decodeHex(digits)
	if err != nil {
		return Public{}, err
	}
	if raw == [Size]byte{} {
		return Public{}, errors.New("key is all zero")
	}
	return Public(raw), nil
}

// IsZero reports whether k is no key.
func (k Public) IsZero() bool { return k == Public{} }

// Hex returns the 64 lower-case hex digits of k without a prefix.
func (k Public) Hex() string { return hex.EncodeToString(k[:]) }

// String returns k as "nodekey:" and 64 lower-case hex digits.
func (k Public) String() string { return publicPrefix + k.Hex() }

// Short returns the abbreviation that Tailscale's logs use: the first five
// characters of the key's base64 in brackets. It is not unique.
func (k Public) Short() string {
	return "[" + base64.StdEncoding.EncodeToString(k[:])[:5] + "]"
}

// MarshalText returns the same text as String.
func (k Public) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what ParsePublic reads.
func (k *Public) UnmarshalText(b []byte) (err error) {
	*k, err = ParsePublic(string(b))
	return err
}

// Private is a private key. The zero value is no key: every use of it fails.
type Private struct {
	ecdh   *ecdh.PrivateKey
	public Public
}

// NewPrivate makes a key from the system's random source.
func NewPrivate() Private {
	var raw [Size]byte
	rand.Read(raw[:]) // never fails, by its documentation
	raw[0] &= 248
	raw[31] = raw[31]&127 | 64
	k, err := privateFrom(raw)
	if err != nil {
		panic("key: a clamped random scalar was refused: " + err.Error())
	}
	return k
}

// ParsePrivate reads "privkey:" and 64 hex digits, as in derper's key file. A
// key that is not clamped is accepted: X25519 clamps it at each use.
func ParsePrivate(s string) (Private, error) {
	digits, ok := strings.CutPrefix(s, privatePrefix)
	if !ok {
		return Private{}, fmt.Errorf("private key does not begin with %s", privatePrefix)
	}
	raw, err := decodeHex(digits)
	if err != nil {
		return Private{}, fmt.Errorf("private %w", err)
	}
	if raw == [Size]byte{} {
		return Private{}, errors.New("private key is all zero")
	}
	return privateFrom(raw)
}

func privateFrom(raw [Size]byte) (Private, error) {
	k, err := ecdh.X25519().NewPrivateKey(raw[:])
	if err != nil {
		return Private{}, fmt.Errorf("private key: %w", err)
	}
	return Private{ecdh: k, public: Public(k.PublicKey().Bytes())}, nil
}

// IsZero reports whether k is no key.
func (k Private) IsZero() bool { return k.ecdh == nil }

// Public returns the public half of k.
func (k Private) Public() Public { return k.public }

// Reveal returns "privkey:" and 64 hex digits, for writing to a key file.
func (k Private) Reveal() string {
	if k.IsZero() {
		return ""
	}
	return privatePrefix + hex.EncodeToString(k.ecdh.Bytes())
}

// String hides the key.
func (k Private) String() string { return redacted }

// GoString hides the key.
func (k Private) GoString() string { return redacted }

// LogValue hides the key.
func (k Private) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses: a private key leaves the process by Reveal alone.
func (k Private) MarshalText() ([]byte, error) {
	return nil, errors.New("key: refusing to encode a private key")
}

// Shared returns the box that k and peer share. It costs one X25519
// multiplication. It fails for a peer key of low order, which no honest peer has.
func (k Private) Shared(peer Public) (Shared, error) {
	if k.IsZero() {
		return Shared{}, errors.New("key: no private key")
	}
	pub, err := ecdh.X25519().NewPublicKey(peer[:])
	if err != nil {
		return Shared{}, fmt.Errorf("peer key: %w", err)
	}
	secret, err := k.ecdh.ECDH(pub)
	if err != nil {
		return Shared{}, fmt.Errorf("peer key: %w", err)
	}
	// crypto_box_beforenm: the X25519 secret through HSalsa20 with a zero input.
	var s Shared
	var zero [16]byte
	salsa.HSalsa20(&s.key, &zero, (*[Size]byte)(secret), &salsa.Sigma)
	return s, nil
}

// Shared seals and opens messages between two keys, in both directions.
type Shared struct{ key [Size]byte }

// Seal appends a random nonce and the sealed msg to dst.
func (s Shared) Seal(dst, msg []byte) []byte {
	var nonce [NonceSize]byte
	rand.Read(nonce[:])
	return s.SealNonce(dst, msg, nonce)
}

// SealNonce is Seal with a nonce of the caller's, for reproducible transcripts.
// A nonce must never serve twice for one pair of keys.
func (s Shared) SealNonce(dst, msg []byte, nonce [NonceSize]byte) []byte {
	dst = append(dst, nonce[:]...)
	return box.SealAfterPrecomputation(dst, msg, &nonce, &s.key)
}

// Open appends the message inside sealed (a nonce and a box) to dst. It
// reports false when sealed is too short or was not sealed between these keys.
func (s Shared) Open(dst, sealed []byte) ([]byte, bool) {
	if len(sealed) < Overhead {
		return nil, false
	}
	nonce := [NonceSize]byte(sealed)
	return box.OpenAfterPrecomputation(dst, sealed[NonceSize:], &nonce, &s.key)
}

// Mesh is the secret that the relays of one region share. The zero value is no
// key and equals nothing.
type Mesh struct{ raw [Size]byte }

// ParseMesh reads exactly 64 hex digits of either case.
func ParseMesh(s string) (Mesh, error) {
	raw, err := decodeHex(s)
	if err != nil {
		return Mesh{}, fmt.Errorf("mesh %w", err)
	}
	return Mesh{raw}, nil
}

// IsZero reports whether m is no key.
func (m Mesh) IsZero() bool { return m.raw == [Size]byte{} }

// Equal compares in constant time. No key equals nothing, not even itself.
func (m Mesh) Equal(o Mesh) bool {
	return subtle.ConstantTimeCompare(m.raw[:], o.raw[:]) == 1 && !m.IsZero()
}

// Reveal returns the 64 lower-case hex digits that go on the wire and into a
// mesh key file.
func (m Mesh) Reveal() string { return hex.EncodeToString(m.raw[:]) }

// String hides the key.
func (m Mesh) String() string { return redacted }

// GoString hides the key.
func (m Mesh) GoString() string { return redacted }

// LogValue hides the key.
func (m Mesh) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses: a mesh key leaves the process by Reveal alone.
func (m Mesh) MarshalText() ([]byte, error) {
	return nil, errors.New("key: refusing to encode a mesh key")
}

func decodeHex(s string) (raw [Size]byte, err error) {
	if len(s) != 2*Size {
		return raw, fmt.Errorf("key has %d characters, want %d hex digits", len(s), 2*Size)
	}
	if _, err := hex.Decode(raw[:], []byte(s)); err != nil {
		return raw, fmt.Errorf("key is not hex: %w", err)
	}
	return raw, nil
}

// clip keeps a mistyped key from filling a log line.
func clip(s string) string {
	if len(s) > 24 {
		return s[:24] + "…"
	}
	return s
}
