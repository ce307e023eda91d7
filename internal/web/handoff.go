package web

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/detour-relay/detour/internal/link"
)

// The limits of net/http, as derper has them. The whole exchange is small.
const (
	headerLimit = 10 * time.Second // one request's header
	readLimit   = 30 * time.Second // one request
	writeLimit  = 30 * time.Second // one response
	idleLimit   = 30 * time.Second // between two requests
)

// maxHTTP is how many connections net/http serves at once. Each may be silent for
// idleLimit, and strangers open them: those beyond are closed.
const maxHTTP = 4096

// backend is a net/http server for connections that others accepted. Whoever
// accepted one lends it, and waits until it ends or comes back.
type backend struct {
	server *http.Server
	door   *handoff

	mu     sync.Mutex
	ended  bool           // guarded by mu
	places int            // guarded by mu; connections that are net/http's, at most maxHTTP
	full   uint64         // guarded by mu; connections that found no place
	guests sync.WaitGroup // raised under mu and only before ended
}

func newBackend(h http.Handler, logger *slog.Logger) *backend {
	return &backend{
		server: &http.Server{
			Handler:           h,
			ReadHeaderTimeout: headerLimit,
			ReadTimeout:       readLimit,
			WriteTimeout:      writeLimit,
			IdleTimeout:       idleLimit,
			ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
			ConnContext:       withHanded,
		},
		door: &handoff{conns: make(chan *handed), closed: make(chan struct{})},
	}
}

// serve answers requests until ctx is done, and returns once every connection
// that was lent has ended, those that came back included.
func (b *backend) serve(ctx context.Context) error {
	// Close and not Shutdown: no answer takes long enough to be waited for.
	stop := context.AfterFunc(ctx, func() { _ = b.server.Close() }) // all of it ends anyway
	defer stop()
	err := b.server.Serve(b.door)
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	b.guests.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// enter reports whether another connection may come.
func (b *backend) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return false
	}
	if b.places >= maxHTTP {
		b.full++
		return false
	}
	b.places++
	b.guests.Add(1)
	return true
}

// refused returns how many connections found no place.
func (b *backend) refused() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.full
}

// leave frees the place of a connection that is net/http's no more.
func (b *backend) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.places--
}

// lend gives c to net/http until it has ended and is closed, or until ctx is
// done. When a handler takes it over, lend runs serve with what that handler
// left, on this goroutine: net/http's is then free of its stack and buffers.
// The caller closes c afterwards, in any case.
func (b *backend) lend(ctx context.Context, c *link.Conn, serve func(*handed, takeover)) {
	if !b.enter() {
		return
	}
	defer b.guests.Done()
	h := &handed{Conn: c, back: make(chan takeover), closed: make(chan struct{}), leave: sync.OnceFunc(b.leave)}
	defer h.leave()
	defer func() { _ = h.Close() }() // also frees a handler that is giving it back
	select {
	case b.door.conns <- h:
	case <-b.door.closed:
		return
	case <-ctx.Done():
		return
	}
	select {
	case t := <-h.back:
		serve(h, t)
	case <-h.closed:
	case <-ctx.Done():
		h.Doom() // net/http may have it just too late for its own Close
	}
}

// handed is a connection lent to net/http.
type handed struct {
	*link.Conn
	back   chan takeover
	closed chan struct{}
	once   sync.Once
	leave  func() // frees its place; may be called again
}

type handedKey struct{}

// withHanded lets a handler find the connection of its request.
func withHanded(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, handedKey{}, c)
}

// handedOf returns the connection that a request came on, or nil.
func handedOf(ctx context.Context) *handed {
	h, _ := ctx.Value(handedKey{}).(*handed) // nil otherwise
	return h
}

// takeover is how a handler leaves a connection that it took from net/http.
type takeover struct {
	upgrade   upgrade
	webSocket *websocket.Conn // nil: raw
}

// giveBack returns once the lender has it, or does not want it any more.
func (h *handed) giveBack(t takeover) {
	select {
	case h.back <- t:
	case <-h.closed:
	}
}

// Close closes the connection and tells the lender. Later calls do nothing.
func (h *handed) Close() error {
	err := net.ErrClosed
	h.once.Do(func() {
		err = h.Conn.Close()
		close(h.closed)
	})
	return err
}

// CloseWrite lets net/http say goodbye before it closes on unread data, so that
// its answer is not lost in a reset.
func (h *handed) CloseWrite() error {
	if half, ok := h.Conn.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// handoff is a net.Listener for connections that somebody else accepted.
type handoff struct {
	conns  chan *handed // without a buffer: nothing is left in it
	closed chan struct{}
	once   sync.Once
}

// Accept waits for the next connection.
func (l *handoff) Accept() (net.Conn, error) {
	select {
	case h := <-l.conns:
		return h, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. Later calls do nothing.
func (l *handoff) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr names no address: the connections come from several.
func (l *handoff) Addr() net.Addr { return &net.TCPAddr{} }
