package acme

import (
	"crypto/tls"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	acmewire "github.com/mholt/acmez/v3/acme"
)

// challengePath begins the path of every HTTP-01 request (RFC 8555, 8.3).
const challengePath = "/.well-known/acme-challenge/"

// HTTPChallenge answers the authority's HTTP-01 requests for challenges that are
// under way, and leaves everything else to next.
func (m *Manager) HTTPChallenge(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, challengePath) {
			c, ok := m.underWay(r.Host, acmewire.ChallengeTypeHTTP01)
			if ok && r.URL.Path == c.HTTP01ResourcePath() {
				w.Header().Set("Content-Type", "application/octet-stream")
				_, _ = w.Write([]byte(c.KeyAuthorization)) // if it fails, the authority says so
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// IsTLSChallenge reports whether a handshake asks for TLS-ALPN-01 and for nothing
// else (RFC 8737, 3).
func IsTLSChallenge(hello *tls.ClientHelloInfo) bool {
	return slices.Equal(hello.SupportedProtos, []string{acmez.ACMETLS1Protocol})
}

// TLSChallenge returns the certificate that answers a TLS-ALPN-01 handshake for a
// challenge under way. It returns nil, and no error, for every other handshake.
func (m *Manager) TLSChallenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !IsTLSChallenge(hello) {
		return nil, nil
	}
	c, ok := m.underWay(hello.ServerName, acmewire.ChallengeTypeTLSALPN01)
	if !ok {
		return nil, nil
	}
	return acmez.TLSALPN01ChallengeCert(c)
}

// underWay finds the challenge of a host, with or without port, or of an address
// in its reverse form (RFC 8738, 6).
func (m *Manager) underWay(host, kind string) (acmewire.Challenge, bool) {
	c, ok := certmagic.GetACMEChallenge(strings.ToLower(host))
	if !ok || c.Type != kind {
		return acmewire.Challenge{}, false
	}
	_, ours := m.names[strings.ToLower(c.Identifier.Value)]
	return c.Challenge, ours
}
