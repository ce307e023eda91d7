package web

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/detour-relay/detour/internal/link"
)

// HTTPOptions are what a CaptivePortal needs.
type HTTPOptions struct {
	// Before may answer requests ahead of the portal, as those of an ACME
	// authority. Nil: nothing does.
	Before func(next http.Handler) http.Handler

	Logger *slog.Logger // hears of connections that fail, at debug. nil: nobody does
}

// CaptivePortal is plain HTTP for port 80: it answers the check for captive
// portals, and sends everybody else to HTTPS. It never upgrades a connection.
type CaptivePortal struct {
	http  *backend
	conns atomic.Uint64
	asked atomic.Uint64
	sent  atomic.Uint64
}

// NewHTTP returns a CaptivePortal. Connections wait until Serve runs.
func NewHTTP(o HTTPOptions) *CaptivePortal {
	p := &CaptivePortal{}
	var handler http.Handler = p
	if o.Before != nil {
		handler = o.Before(p)
	}
	p.http = newBackend(handler, orSilent(o.Logger))
	return p
}

// Serve answers until ctx is done, then closes all connections. It may be
// called once.
func (p *CaptivePortal) Serve(ctx context.Context) error { return p.http.serve(ctx) }

// ServeConn serves one accepted connection until it ends or ctx is done, and
// closes it. It calls ready at once: net/http bounds the connection's time.
func (p *CaptivePortal) ServeConn(ctx context.Context, raw net.Conn, ready func(admitted bool)) {
	ready(false)
	p.conns.Add(1)
	c := link.Over(raw)
	defer func() { _ = c.Close() }() // there is nobody to tell
	// Nothing here takes a connection over, so none comes back.
	p.http.lend(ctx, c, func(*handed, takeover) {})
}

// ServeHTTP answers one request.
//
// A Host that is not plainly a name or address is refused and not sent back in
// a Location, where a browser might read something else into it. Otherwise the
// client's own Host is believed, port and all, as derper does.
func (p *CaptivePortal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	uri := r.URL.RequestURI() // without the host that an absolute request line names
	switch {
	case r.URL.Path == "/generate_204":
		p.asked.Add(1)
		noContent(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead, !plainHost(r.Host), !strings.HasPrefix(uri, "/"):
		w.Header().Set("Content-Type", plainType)
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "Use HTTPS\n") // if it fails, the client is gone
	default:
		p.sent.Add(1)
		http.Redirect(w, r, "https://"+r.Host+uri, http.StatusFound)
	}
}

// HTTPStats are a CaptivePortal's counts since it was made.
type HTTPStats struct {
	Conns      uint64 `json:"conns"`
	Full       uint64 `json:"full"`         // of those, closed because there were too many at once
	Challenges uint64 `json:"generate_204"` // captive-portal checks answered
	Redirects  uint64 `json:"redirects"`    // requests sent to HTTPS
}

// Stats returns the counts. Each is exact; together they are no snapshot.
func (p *CaptivePortal) Stats() HTTPStats {
	return HTTPStats{Conns: p.conns.Load(), Full: p.http.refused(), Challenges: p.asked.Load(), Redirects: p.sent.Load()}
}
