package sni

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// maxHello bounds, in bytes, what is read to find a name: crypto/tls takes no
// handshake message above 64 KiB, which its records make a little longer.
const maxHello = 66 << 10

// errSeen ends the handshake once the name is known.
var errSeen = errors.New("sni: seen")

// peek reads the beginning of c up to the end of a ClientHello, and returns the
// name that it asks for, in lower case, with all bytes that were read. The name
// is empty when there is none, when the bytes are no ClientHello, or when c ends
// or fails first: what TLS itself makes of ahead and the rest of c then tells.
// It writes nothing. The deadline of c bounds its time.
func peek(c io.Reader) (name string, ahead []byte) {
	r := &recorder{from: c}
	// The config's only use is the callback: crypto/tls parses, and never answers.
	t := tls.Server(r, &tls.Config{
		MinVersion: tls.VersionTLS10, // what may be behind a route is not for us to judge
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name = normal(hello.ServerName)
			return nil, errSeen
		},
	})
	_ = t.HandshakeContext(context.Background()) // always fails, with errSeen at best
	return name, r.read
}

// recorder is a connection for crypto/tls that keeps what is read and drops what
// is written.
type recorder struct {
	from io.Reader
	read []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	left := maxHello - len(r.read)
	if left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := r.from.Read(p[:min(len(p), left)])
	r.read = append(r.read, p[:n]...)
	return n, err
}

func (r *recorder) Write(p []byte) (int, error)      { return len(p), nil }
func (r *recorder) Close() error                     { return nil }
func (r *recorder) LocalAddr() net.Addr              { return nil }
func (r *recorder) RemoteAddr() net.Addr             { return nil }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
