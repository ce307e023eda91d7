package web

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// maxUnread is how many bytes of a request that came without TLS are waited for.
const maxUnread = 64 << 10

// tlsFailure is why a handshake failed.
type tlsFailure int

const (
	otherFailure tlsFailure = iota
	plainHTTP
	notTLS
	wentAway
	timedOut
	noVersion
	noProtocol
	refused
	numTLSFailures
)

// wantsHTTPS answers plain HTTP on a TLS port, where the client sees it.
const wantsHTTPS = "HTTP/1.0 400 Bad Request\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\n" +
	"Connection: close\r\n" +
	"\r\n" +
	"400 Bad Request: use https\n"

// handshakeFailed counts a failed handshake, and answers if it was HTTP.
func (s *Server) handshakeFailed(raw net.Conn, err error) {
	f := classify(err)
	s.counts.tlsFailures[f].Add(1)
	if f == plainHTTP {
		sayWantsHTTPS(raw)
	}
}

// sayWantsHTTPS answers and lets the client read it: closing at once, with a
// part of the request unread, would reset the connection and lose the answer.
// No error matters here; the client is only gone sooner.
func sayWantsHTTPS(raw net.Conn) {
	_ = raw.SetDeadline(time.Now().Add(farewell))
	_, _ = io.WriteString(raw, wantsHTTPS)
	if half, ok := raw.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		_, _ = io.Copy(io.Discard, io.LimitReader(raw, maxUnread))
	}
}

func classify(err error) tlsFailure {
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		// Conn is set only while nothing but the first record was looked at.
		if e.Conn != nil && beginsHTTP(e.RecordHeader) {
			return plainHTTP
		}
		return notTLS
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return refused // so crypto/tls marks an alert from the other side
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return timedOut
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, io.ErrClosedPipe), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return wentAway
	// crypto/tls has no type for these two; a test holds the words to it.
	case strings.Contains(err.Error(), "only unsupported versions"):
		return noVersion
	case strings.Contains(err.Error(), "unsupported application protocols"):
		return noProtocol
	}
	return otherFailure
}

// beginsHTTP reports whether the first bytes of a connection are a method: upper
// case, then perhaps a space and the path.
func beginsHTTP(b [5]byte) bool {
	method, rest, _ := strings.Cut(string(b[:]), " ")
	if len(method) < len("GET") {
		return false
	}
	for _, c := range method {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return rest == "" || rest[0] == '/' || rest[0] == '*' || rest[0] == 'h'
}
