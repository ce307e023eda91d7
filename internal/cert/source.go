package cert

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// metaRenewAfter is the age, on either side, at which the meta certificate is
// made anew: long before its 30 days end, and also when the clock was set back.
const metaRenewAfter = 10 * 24 * time.Hour

// Options is what New needs.
type Options struct {
	// Certificate is served to every client. It must be set.
	Certificate *Certificate

	// ServerKeyHex is the relay's public key in 64 lower-case hex digits,
	// without a prefix, for the meta certificate. It must be the key that the
	// relay logs clients in with: they trust it.
	ServerKeyHex string

	// Logger hears of each new meta certificate. Nil logs nothing.
	Logger *slog.Logger

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Source gives crypto/tls the relay's current certificate. It may be used by
// any number of handshakes at once.
type Source struct {
	serverKeyHex string
	log          *slog.Logger
	now          func() time.Time

	// replacing is held by whoever makes the next value of current, so that
	// one such change cannot undo another. Handshakes never wait for it.
	replacing sync.Mutex
	current   atomic.Pointer[served]
}

// served is one state of a Source. It never changes once it is stored;
// handshakes under way keep the one they began with.
type served struct {
	certificate *Certificate
	tls         *tls.Certificate // its chain, then the meta certificate
	metaMade    time.Time
}

// New returns a Source that serves o.Certificate. It fails if the certificate
// is missing or the server key is malformed.
func New(o Options) (*Source, error) {
	if o.Certificate == nil {
		return nil, errors.New("serve a certificate: none is given")
	}
	s := &Source{serverKeyHex: o.ServerKeyHex, log: o.Logger, now: o.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	first, err := s.assemble(o.Certificate, s.wallNow())
	if err != nil {
		return nil, err
	}
	s.current.Store(first)
	return s, nil
}

// wallNow drops the monotonic reading, which stands still while the machine
// sleeps and would hide both that time and a clock that was set.
func (s *Source) wallNow() time.Time { return s.now().Round(0) }

// assemble makes the next state: c with a meta certificate of its own.
func (s *Source) assemble(c *Certificate, now time.Time) (*served, error) {
	meta, err := NewMeta(s.serverKeyHex, now)
	if err != nil {
		return nil, err
	}
	chain := c.withLast(meta)
	return &served{certificate: c, tls: &chain, metaMade: now}, nil
}

// TLSConfig returns a new server configuration, which the caller may change
// before its first use: TLS 1.2 and later, and the current certificate for any
// server name or none, as clients send none when they dial an IP address.
//
// It offers HTTP/1.1 alone because an upgrade cannot be had over HTTP/2;
// clients without ALPN, as DERP clients are, are served too. Session tickets
// are off: DERP clients do not resume sessions, so tickets are work for
// nothing. Records are full-sized from the start: small ones show a web page
// earlier, but only cost here.
func (s *Source) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		NextProtos:                  []string{"http/1.1"},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.fresh().tls, nil
		},
	}
}

// fresh returns the current state, after making a new meta certificate if that
// is due. One caller makes it; the others go on with the one there is, which
// is good for weeks yet.
func (s *Source) fresh() *served {
	current := s.current.Load()
	if !current.metaDue(s.wallNow()) || !s.replacing.TryLock() {
		return current
	}
	next, made, err := s.renewMeta()
	s.replacing.Unlock()
	switch {
	case err != nil:
		s.log.Error("cannot make a new meta certificate; the old one is still served", "err", err)
		return current
	case made:
		s.log.Debug("made a new meta certificate", "not_after", next.metaNotAfter())
	}
	return next
}

// renewMeta makes and stores a state with a new meta certificate, unless
// another caller has just done so, and returns the state there is then. The
// caller holds s.replacing; what it saw and the time it saw it at may be old.
func (s *Source) renewMeta() (v *served, made bool, err error) {
	current, now := s.current.Load(), s.wallNow()
	if !current.metaDue(now) {
		return current, false, nil
	}
	next, err := s.assemble(current.certificate, now)
	if err != nil {
		return nil, false, err
	}
	s.current.Store(next)
	return next, true, nil
}

func (v *served) metaDue(now time.Time) bool {
	return now.Sub(v.metaMade).Abs() >= metaRenewAfter
}

func (v *served) metaNotAfter() time.Time {
	return v.metaMade.Add(metaLife).UTC().Truncate(time.Second)
}

// Stats is what a Source serves, for people and for metrics.
type Stats struct {
	Mode         Mode      `json:"mode"`
	Names        []string  `json:"names"`     // subject alternative names, never null
	NotAfter     time.Time `json:"not_after"` // UTC, whole seconds
	DaysLeft     int       `json:"days_left"` // whole days, rounded down; below zero once expired
	SelfSigned   bool      `json:"self_signed"`
	Pin          string    `json:"pin,omitempty"`  // CertName for the DERP map, when SelfSigned
	MetaNotAfter time.Time `json:"meta_not_after"` // UTC, whole seconds
}

// Stats returns the present figures. Like a handshake it renews the meta
// certificate when due, so that a relay which nobody visits looks no staler
// than it would be to a visitor.
func (s *Source) Stats() Stats {
	v := s.fresh()
	c := v.certificate
	return Stats{
		Mode:         c.mode,
		Names:        c.Names(),
		NotAfter:     c.NotAfter(),
		DaysLeft:     int(math.Floor(c.NotAfter().Sub(s.now()).Hours() / 24)),
		SelfSigned:   c.selfSigned,
		Pin:          c.Pin(),
		MetaNotAfter: v.metaNotAfter(),
	}
}
