// Package admin is the relay's control API: HTTP on a listener of its own, a unix
// socket or a loopback port, and the client that detour's commands use to ask it.
// It renders values that it is handed and knows no other part of the relay.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of the server. Its users are the operator and a monitoring agent or two.
const (
	maxConns          = 64 // open at once; further ones are closed unanswered
	maxHeaderBytes    = 16 << 10
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = time.Minute
	shutdownGrace     = 2 * time.Second // for answers under way when the relay stops
)

// Health says whether the relay does its work, as GET /healthz and
// Client.Health hand it on.
type Health struct {
	OK       bool     `json:"ok"`
	Problems []string `json:"problems,omitempty"` // one sentence each, for the operator
}

// Options configure a Server.
type Options struct {
	Listener net.Listener  // required; from Listen or inherited; the server closes it
	Health   func() Health // safe for concurrent use, quick; nil: always well
	Stats    func() any    // safe for concurrent use, quick; encoded as JSON; nil: {}
	Map      http.Handler  // answers /derpmap.json, nil: nothing does
	Control  Control       // nil: there is nothing under /v1/
	Token    string        // a secret that opens /v1/ and /verify on TCP; empty: nothing does
	Logger   *slog.Logger  // nil: silent
}

// Server answers the control API.
type Server struct {
	listener *ownersOnly
	open     bool // any user and any web page of this machine can reach the listener
	health   func() Health
	stats    func() any
	derpMap  http.Handler
	control  Control
	token    string
	logger   *slog.Logger

	requests        atomic.Uint64
	refusedRequests atomic.Uint64

	conns    sync.WaitGroup // connections that net/http still holds
	numConns atomic.Int64   // the same as a number, for maxConns
}

// New returns a server that does nothing until Serve. Until then the listener is
// the caller's to close.
//
// On a unix socket, connections from users other than root and the process's own
// are closed and reported, at most one line a minute. Where the system cannot tell
// the user (other than Linux, macOS and FreeBSD), the socket's mode alone decides.
func New(o Options) *Server {
	s := &Server{health: o.Health, stats: o.Stats, derpMap: o.Map, control: o.Control, token: o.Token, logger: o.Logger}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.health == nil {
		s.health = func() Health { return Health{OK: true} }
	}
	if s.stats == nil {
		s.stats = func() any { return struct{}{} }
	}
	s.listener = &ownersOnly{Listener: o.Listener, logger: s.logger, peerUID: peerUID}
	s.open = o.Listener.Addr().Network() != networkUnix
	return s
}

// Serve answers requests until ctx is done, lets those under way finish for two
// seconds, closes the rest, and returns nil when all connections have ended and the
// listener is closed. A Health or Stats function that does not return holds it up.
// It returns an error when the listener fails before that. Call it once.
func (s *Server) Serve(ctx context.Context) error {
	server := &http.Server{
		Handler:           s.handler(),
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		ConnState:         s.trackConn,
		// "OPTIONS *" gets the same checks as everything else.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(s.listener) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		s.shutdown(ctx, server)
		err = <-ended
	}
	server.Close()
	// net/http does not wait for what Close cuts off, and a request under way
	// still reads the parts that its owner is about to take down.
	s.conns.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("admin: accept on %s: %w", s.listener.Addr(), err)
}

// shutdown stops accepting and lets requests under way finish, within the grace.
func (s *Server) shutdown(ctx context.Context, server *http.Server) {
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		s.logger.Debug("admin: shutdown did not finish by itself", "err", err)
	}
}

// trackConn counts connections. New ones are reported by the goroutine that
// accepts, before their own starts.
func (s *Server) trackConn(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.conns.Add(1)
		if s.numConns.Add(1) > maxConns {
			conn.Close()
		}
	case http.StateClosed, http.StateHijacked:
		s.numConns.Add(-1)
		s.conns.Done()
	}
}

// Stats are the server's own counts since it was made.
type Stats struct {
	Connections     int64  `json:"connections"`      // open now
	Requests        uint64 `json:"requests"`         // all, refused ones among them
	RefusedRequests uint64 `json:"refused_requests"` // from a web page or under a foreign host name
	RefusedPeers    uint64 `json:"refused_peers"`    // unix connections of other users
}

// Stats returns the counts; it may run at any time.
func (s *Server) Stats() Stats {
	return Stats{
		Connections:     s.numConns.Load(),
		Requests:        s.requests.Load(),
		RefusedRequests: s.refusedRequests.Load(),
		RefusedPeers:    s.listener.refused.Load(),
	}
}
