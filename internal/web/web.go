// Package web is the HTTP around the relay. It shakes hands, reads the first
// request of a connection, upgrades it to DERP on the spot, and leaves all
// other HTTP to net/http: WebSocket, probes, the captive-portal check and the
// front page.
//
// A connection goes this way:
//
//  1. accept.go: with a Router, the name that the client asks for may send the
//     connection elsewhere. TLS, then the request's header is looked at, within
//     greetLimit.
//  2. upgrade.go: decide says whether it asks for DERP. A raw upgrade is
//     answered and served right here, without net/http's buffers.
//  3. handoff.go: anything else goes, unread, to net/http, and site.go answers.
//  4. An upgrade that net/http comes to see (a WebSocket, or the second request
//     of a connection) is given back and served as in step 2.
//
// Behind proxies, forwarded.go finds the client's address in the request. With a
// fallback, fallback.go has the site answer what is not the relay's.
package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
)

const (
	// greetLimit is how long TLS and the first request's header may take
	// together.
	greetLimit = 10 * time.Second
	// farewell is how long it may take to end a connection with a last word.
	farewell = time.Second
	// siteLimit is how long the site behind fallback, or its client, may take no
	// byte.
	siteLimit = time.Minute
	// maxHead is the largest header in bytes, with its empty line, that is
	// served without net/http. Clients send some 200.
	maxHead = 8 << 10
)

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// Relay serves connections that are upgraded.
type Relay interface {
	// ServeConn logs one peer in and serves it until the connection ends. It
	// bounds the login itself, ends soon after ctx is done, and does not close
	// the connection. The error is why it ended.
	ServeConn(ctx context.Context, c relay.Conn) error
	// PublicKey is the server key. It never changes.
	PublicKey() key.Public
}

// Router shares the port with other servers, by the name in the ClientHello.
type Router interface {
	// Look reads the beginning of raw, within raw's deadline. When the connection
	// is another's, forward serves it until it ends or ctx is done, and calls ready
	// once it is bounded otherwise. If not, forward is nil, and ahead is what was
	// read.
	Look(raw net.Conn) (ahead []byte, forward func(ctx context.Context, ready func()))
}

// Options are what a Server needs.
type Options struct {
	Relay Relay       // must not be nil
	TLS   *tls.Config // nil: plain HTTP. NextProtos may hold http/1.1 and nothing else
	// FrontPage is what paths that mean nothing get: "neutral" or empty, "blank",
	// or the http or https URL to redirect to. What is none of these is taken
	// for neutral: the config checks it.
	FrontPage string
	Fallback  *Fallback // answers what is not the relay's, instead of the front page. nil: nobody does
	Proxies   Proxies   // believed about who the client is
	Router    Router    // nil: every connection is ours
	// Also may answer a request that is neither a client's nor a prober's, ahead of
	// Fallback and FrontPage. It reports whether it has. Nil: nothing does.
	Also   func(w http.ResponseWriter, r *http.Request) bool
	Logger *slog.Logger // hears of connections that fail, at debug. nil: nobody does
}

// Server upgrades connections to the relay and answers all other HTTP.
type Server struct {
	relay     Relay
	tls       *tls.Config
	front     frontPage
	also      func(http.ResponseWriter, *http.Request) bool
	fallback  *Fallback
	proxies   Proxies
	router    Router
	logger    *slog.Logger
	switching []byte // the whole 101 response
	heads     sync.Pool
	http      *backend
	counts    counts
}

// New returns a Server. Connections that net/http must answer wait until Serve
// runs.
func New(o Options) *Server {
	s := &Server{
		relay:     o.Relay,
		tls:       o.TLS,
		front:     newFrontPage(o.FrontPage),
		also:      o.Also,
		fallback:  o.Fallback,
		proxies:   o.Proxies,
		router:    o.Router,
		logger:    orSilent(o.Logger),
		switching: switchingProtocols(o.Relay.PublicKey()),
	}
	s.heads.New = func() any { return &head{reader: bufio.NewReaderSize(nil, 4<<10)} }
	s.http = newBackend(s, s.logger)
	return s
}

// Serve runs the net/http side until ctx is done, then closes its connections
// and waits until those that came to the relay through it have ended too. It
// may be called once.
func (s *Server) Serve(ctx context.Context) error {
	defer s.fallback.close()
	return s.http.serve(ctx)
}

func orSilent(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// head is what reading a request ahead needs. It is borrowed only meanwhile.
type head struct {
	buf    [maxHead]byte
	bytes  bytes.Reader
	reader *bufio.Reader
}

// counts are raised wherever the thing happens.
type counts struct {
	tlsFailures [numTLSFailures]atomic.Uint64
	tls12       atomic.Uint64
	tls13       atomic.Uint64
	noRequest   atomic.Uint64
	raw         atomic.Uint64
	fastStart   atomic.Uint64
	webSocket   atomic.Uint64
	httpConns   atomic.Uint64
	requests    atomic.Uint64
}

// Stats are a Server's counts since it was made.
type Stats struct {
	TLSFailures  TLSFailures  `json:"tls_failures"`
	TLSVersions  TLSVersions  `json:"tls_versions"`
	NoRequest    uint64       `json:"no_request"` // connections that ended or ran out of time before a whole request
	Upgrades     UpgradeStats `json:"upgrades"`
	HTTPConns    uint64       `json:"http_conns"`    // connections handed to net/http
	HTTPFull     uint64       `json:"http_full"`     // of those, closed because net/http had too many
	HTTPRequests uint64       `json:"http_requests"` // requests that net/http read, upgrades among them
	Fallback     *SiteStats   `json:"fallback,omitempty"`
}

// TLSFailures are handshakes that failed, by cause.
type TLSFailures struct {
	PlainHTTP  uint64 `json:"plain_http"`  // HTTP without TLS
	NotTLS     uint64 `json:"not_tls"`     // neither TLS nor HTTP
	WentAway   uint64 `json:"went_away"`   // the client closed or reset the connection
	Timeout    uint64 `json:"timeout"`     // not done in time
	NoVersion  uint64 `json:"no_version"`  // no TLS version in common
	NoProtocol uint64 `json:"no_protocol"` // no ALPN protocol in common
	Refused    uint64 `json:"refused"`     // the client sent an alert: most often it does not trust the certificate
	Other      uint64 `json:"other"`
}

// TLSVersions are handshakes that succeeded, by version.
type TLSVersions struct {
	TLS12 uint64 `json:"1.2"`
	TLS13 uint64 `json:"1.3"`
}

// UpgradeStats are connections given to the relay, by the way they came.
type UpgradeStats struct {
	Raw       uint64 `json:"raw"`        // with the 101 response
	FastStart uint64 `json:"fast_start"` // without it
	WebSocket uint64 `json:"websocket"`
}

// Stats returns the counts. Each is exact; together they are no snapshot.
func (s *Server) Stats() Stats {
	failed := func(f tlsFailure) uint64 { return s.counts.tlsFailures[f].Load() }
	return Stats{
		Fallback: s.fallback.stats(),
		TLSFailures: TLSFailures{
			PlainHTTP:  failed(plainHTTP),
			NotTLS:     failed(notTLS),
			WentAway:   failed(wentAway),
			Timeout:    failed(timedOut),
			NoVersion:  failed(noVersion),
			NoProtocol: failed(noProtocol),
			Refused:    failed(refused),
			Other:      failed(otherFailure),
		},
		TLSVersions: TLSVersions{TLS12: s.counts.tls12.Load(), TLS13: s.counts.tls13.Load()},
		NoRequest:   s.counts.noRequest.Load(),
		Upgrades: UpgradeStats{
			Raw:       s.counts.raw.Load(),
			FastStart: s.counts.fastStart.Load(),
			WebSocket: s.counts.webSocket.Load(),
		},
		HTTPConns:    s.counts.httpConns.Load(),
		HTTPFull:     s.http.refused(),
		HTTPRequests: s.counts.requests.Load(),
	}
}
