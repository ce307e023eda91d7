package cert

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// metaRenewAfter is the age, on either side, at which the meta certificate is
// made anew: long before its 30 days end, and also when the clock was set back.
const metaRenewAfter = 10 * 24 * time.Hour

// Options is what New needs.
type Options struct {
	// Certificate is the default: served to clients that name no server, or one
	// that no certificate covers. It must be set.
	Certificate *Certificate

	// More are served to clients that name a server which they cover.
	More []*Certificate

	// StrictSNI refuses clients that would get the default for want of a better
	// one: the handshake ends with the alert unrecognized_name. Whoever dials an
	// IP address names no server, so such clients are refused too.
	StrictSNI bool

	// Challenge answers a validating ACME server. When it is set, a client whose
	// only ALPN protocol is "acme-tls/1" is served what it returns, in a handshake
	// of its own kind (RFC 8737); it is called by any number at once. Nil: such a
	// client is refused, as it offers no protocol of ours.
	Challenge func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// ServerKeyHex is the relay's public key in 64 lower-case hex digits,
	// without a prefix, for the meta certificate. It must be the key that the
	// relay logs clients in with: they trust it.
	ServerKeyHex string

	// Logger hears of each new meta certificate. Nil logs nothing.
	Logger *slog.Logger

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Source gives crypto/tls the relay's current certificates. It may be used by
// any number of handshakes at once.
type Source struct {
	serverKeyHex string
	strict       bool
	challenge    func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	log          *slog.Logger
	now          func() time.Time

	refused atomic.Uint64 // clients turned away by strict

	// replacing is held by whoever makes the next value of current, so that
	// one such change cannot undo another. Handshakes never wait for it.
	replacing sync.Mutex
	current   atomic.Pointer[served]
}

// served is one state of a Source. It never changes once it is stored;
// handshakes under way keep the one they began with.
type served struct {
	certificates []*Certificate // the default first
	index        index
	chains       []*tls.Certificate // beside certificates: the chain of each, then the meta certificate
	metaMade     time.Time
}

// New returns a Source that serves the certificates of o. It fails if there is
// none or the server key is malformed.
func New(o Options) (*Source, error) {
	s := &Source{serverKeyHex: o.ServerKeyHex, strict: o.StrictSNI, challenge: o.Challenge, log: o.Logger, now: o.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.Replace(append([]*Certificate{o.Certificate}, o.More...)); err != nil {
		return nil, err
	}
	return s, nil
}

// Replace serves these certificates from the next handshake on, the first as the
// default. Handshakes under way and connections are not touched. With an error,
// which is one of the caller (no certificate, or a nil one), what was served stays.
func (s *Source) Replace(certs []*Certificate) error {
	if len(certs) == 0 || slices.Contains(certs, nil) {
		return errors.New("serve a certificate: none is given")
	}
	s.replacing.Lock()
	defer s.replacing.Unlock()
	next, err := s.assemble(slices.Clone(certs), s.wallNow())
	if err != nil {
		return err
	}
	s.current.Store(next)
	return nil
}

// Certificates returns what is served, the default first. The slice is the caller's.
func (s *Source) Certificates() []*Certificate {
	return slices.Clone(s.current.Load().certificates)
}

// wallNow drops the monotonic reading, which stands still while the machine
// sleeps and would hide both that time and a clock that was set.
func (s *Source) wallNow() time.Time { return s.now().Round(0) }

// assemble makes the next state: the certificates, each chain ending in one new
// meta certificate that all of them share.
func (s *Source) assemble(certs []*Certificate, now time.Time) (*served, error) {
	meta, err := NewMeta(s.serverKeyHex, now)
	if err != nil {
		return nil, err
	}
	v := &served{certificates: certs, index: newIndex(certs), metaMade: now}
	for _, c := range certs {
		chain := c.withLast(meta)
		v.chains = append(v.chains, &chain)
	}
	return v, nil
}

// challengeProtocol is the ALPN protocol of a validating ACME server (RFC 8737).
const challengeProtocol = "acme-tls/1"

// TLSConfig returns a new server configuration, which the caller may change
// before its first use: TLS 1.2 and later, and the certificate that covers the
// client's server name, or the default, as clients name none when they dial an
// IP address.
//
// It offers HTTP/1.1 alone because an upgrade cannot be had over HTTP/2;
// clients without ALPN, as DERP clients are, are served too. Session tickets
// are off: DERP clients do not resume sessions, so tickets are work for
// nothing. Records are full-sized from the start: small ones show a web page
// earlier, but only cost here.
func (s *Source) TLSConfig() *tls.Config {
	c := &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		NextProtos:                  []string{"http/1.1"},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		GetCertificate:              s.choose,
	}
	if s.challenge == nil {
		return c
	}
	challenge := &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{challengeProtocol},
		SessionTicketsDisabled: true,
		GetCertificate:         s.challenge,
	}
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == challengeProtocol {
			return challenge, nil
		}
		return nil, nil
	}
	return c
}

// choose is tls.Config.GetCertificate. To return neither certificate nor error
// is how crypto/tls is told to answer with the alert unrecognized_name.
func (s *Source) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	v := s.fresh()
	fits, known := v.index.lookup(hello.ServerName)
	if !known && s.strict {
		s.refused.Add(1)
		s.log.Debug("refused a client that names no server of ours (strict_sni)", "name", hello.ServerName)
		return nil, nil
	}
	if len(fits) > 1 {
		for _, i := range fits {
			if hello.SupportsCertificate(v.chains[i]) == nil {
				return v.chains[i], nil
			}
		}
	}
	return v.chains[fits[0]], nil
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
	next, err := s.assemble(current.certificates, now)
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
