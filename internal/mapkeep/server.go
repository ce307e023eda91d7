package mapkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of a Server. Its users are a control server or two.
const (
	maxConns    = 128 // open at once; further ones are closed unanswered
	maxHeader   = 16 << 10
	headerLimit = 5 * time.Second
	readLimit   = 10 * time.Second
	writeLimit  = 30 * time.Second
	idleLimit   = 30 * time.Second
)

// Server serves a map, and nothing else, over plain HTTP.
type Server struct {
	listener net.Listener
	http     *http.Server
	conns    sync.WaitGroup
	open     atomic.Int64
}

// Listen opens address, HOST:PORT, for requests for Path, which h answers. The caller
// runs the server, or closes it. Errors end in a hint.
func Listen(address string, h http.Handler, log *slog.Logger) (*Server, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("map_listen: %w; hint: another program has this port; choose another with --map-listen", err)
	case err != nil:
		return nil, fmt.Errorf("map_listen: %w; hint: choose another address with --map-listen", err)
	}
	s := &Server{listener: l}
	mux := http.NewServeMux()
	mux.Handle(Path, h)
	s.http = &http.Server{
		Handler: mux, MaxHeaderBytes: maxHeader, ReadHeaderTimeout: headerLimit, ReadTimeout: readLimit, WriteTimeout: writeLimit,
		IdleTimeout: idleLimit, ConnState: s.track, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close frees the port of a server that is not run.
func (s *Server) Close() error { return s.listener.Close() }

// Serve answers until ctx is done, and returns nil once all connections have ended.
// Call it once.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() }) // all of it ends anyway
	defer stop()
	err := s.http.Serve(s.listener)
	_ = s.http.Close() // the same
	s.conns.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("map_listen: accept on %s: %w", s.listener.Addr(), err)
}

// track counts connections, of which new ones are reported before they are read.
func (s *Server) track(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.conns.Add(1)
		if s.open.Add(1) > maxConns {
			_ = conn.Close() // that it fails says that it is closed
		}
	case http.StateClosed, http.StateHijacked:
		s.open.Add(-1)
		s.conns.Done()
	}
}
