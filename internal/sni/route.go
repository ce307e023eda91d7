// Package sni shares a TLS port by name: it looks at the name that a client asks
// for before TLS is spoken, and hands connections for other names on, untouched,
// to whoever serves those.
//
// A connection goes this way:
//
//  1. hello.go: the ClientHello is read, by crypto/tls, over a connection that
//     cannot be written to.
//  2. route.go: its name is looked up. Without a route the bytes go back to the
//     caller, whose TLS reads them again.
//  3. splice.go: with a route, the target is dialled, and given those bytes.
//  4. join.go: it is joined with the client until both are done or idle.
package sni

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	dialLimit = 10 * time.Second // for the target to take the connection
	logEvery  = time.Minute      // for targets that fail, and connections that are too many
	mostOpen  = 4096             // connections that are handed on at once
)

// Route says where connections for one name go.
type Route struct {
	Name string // DNS name, or "*." and the rest for every name with one more label
	// Network and Addr are the target, as net.Dial takes them: "tcp" and HOST:PORT
	// or "unix" and a path.
	Network, Addr string
	ProxyV2       bool // the target is told the client's address by a PROXY v2 header
}

// Options are what a Router needs.
type Options struct {
	Routes []Route
	// Own is the relay's own name, which no route with a wildcard takes away. May
	// be empty.
	Own    string
	Most   int          // connections that are handed on at once, of which each holds two sockets; 0: 4,096
	Logger *slog.Logger // hears of targets that fail. nil: nobody does
}

// Router hands connections on by name.
type Router struct {
	exact    map[string]*Route
	wildcard map[string]*Route // by what follows the "*"
	own      string
	most     int64
	logger   *slog.Logger
	failing  rate.Sometimes

	routed, failed, full, idle, toClients, toTargets atomic.Uint64
	open                                             atomic.Int64
}

// New returns a Router. Of two routes for one name the first counts.
func New(o Options) *Router {
	r := &Router{
		exact: map[string]*Route{}, wildcard: map[string]*Route{}, own: normal(o.Own), most: int64(o.Most), logger: o.Logger,
		failing: rate.Sometimes{First: 1, Interval: logEvery},
	}
	if r.most == 0 {
		r.most = mostOpen
	}
	if r.logger == nil {
		r.logger = slog.New(slog.DiscardHandler)
	}
	for _, route := range o.Routes {
		name, table := normal(route.Name), r.exact
		if rest, ok := strings.CutPrefix(name, "*"); ok {
			name, table = rest, r.wildcard
		}
		if table[name] == nil {
			table[name] = &route
		}
	}
	return r
}

// Look reads the beginning of raw, within the deadline that raw has. When the
// name that it asks for has a route, forward serves the connection until it ends
// or ctx is done: it clears the deadline, calls ready once the target is there (or ends at once when too
// many are open),
// and leaves it to the caller to close raw. Otherwise forward is nil, and ahead is
// what was read.
func (r *Router) Look(raw net.Conn) (ahead []byte, forward func(ctx context.Context, ready func())) {
	name, first := peek(raw)
	route := r.lookup(name)
	if route == nil {
		return first, nil
	}
	r.routed.Add(1)
	return nil, func(ctx context.Context, ready func()) {
		defer r.open.Add(-1)
		if r.open.Add(1) > r.most {
			r.full.Add(1)
			r.failing.Do(func() {
				r.logger.Warn("too many connections are handed on by sni_route; further ones are closed", "most", r.most, "closed", r.full.Load())
			})
			return
		}
		r.forward(ctx, raw, first, route, ready)
	}
}

// lookup returns the route of a normal name, or nil.
func (r *Router) lookup(name string) *Route {
	if name == "" {
		return nil
	}
	if route := r.exact[name]; route != nil {
		return route
	}
	dot := strings.IndexByte(name, '.')
	if dot < 1 || name == r.own {
		return nil
	}
	return r.wildcard[name[dot:]]
}

// normal returns a DNS name as it is compared.
func normal(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Stats are a Router's counts since it was made, and what is there now.
type Stats struct {
	Routed       uint64 `json:"routed"`           // connections whose name has a route
	Failed       uint64 `json:"failed"`           // of them, those whose target could not be reached
	RefusedFull  uint64 `json:"refused_full"`     // of them, those that were closed because too many were open
	Idle         uint64 `json:"idle"`             // ended because nothing moved for too long
	BytesClients uint64 `json:"bytes_to_clients"` // of connections that have ended
	BytesTargets uint64 `json:"bytes_to_targets"` // the same
	Open         int64  `json:"open"`             // connections now
}

// Stats returns the counts. Each is exact; together they are no snapshot.
func (r *Router) Stats() Stats {
	return Stats{
		Routed: r.routed.Load(), Failed: r.failed.Load(), RefusedFull: r.full.Load(), Idle: r.idle.Load(), Open: r.open.Load(),
		BytesClients: r.toClients.Load(), BytesTargets: r.toTargets.Load(),
	}
}
