package stun

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxDatagram is the size of a receive buffer in bytes: no UDP payload is longer, so none is read cut short.
	maxDatagram = 1 << 16

	// errorPause is how long a loop rests after a failed read, so that a socket which fails at once each time does not
	// take a whole CPU.
	errorPause = 100 * time.Millisecond

	// logEvery is the least time between two lines about one kind of error on one socket.
	logEvery = time.Minute
)

// Options are the settings of a Server. The zero value is a good choice.
type Options struct {
	Mode   Mode         // which requests are answered
	Logger *slog.Logger // nil for silence
	// OneSource is called once, by the loop that answers, when the first requests, as many as tell, have all come from one
	// private address: a translator of addresses stands before the server, or nobody else has come yet. nil: nobody asks.
	OneSource func(netip.Addr)
}

// Server answers binding requests over UDP. On Linux an answer leaves from the address that the request was sent to.
//
// Use it in this order: New, Listen once or more, Serve. Listen must have returned before Serve, Addrs or Close is
// called; Addrs and Stats may then be called from any goroutine at any time.
type Server struct {
	mode   Mode
	logger *slog.Logger
	bind   bindFunc
	count  counters
	first  firstSources

	// Written by Listen alone, only read afterwards.
	sockets []socket
}

// socket is a UDP socket as the loop uses it. Only one goroutine receives and replies.
type socket interface {
	// receive reads one datagram into buf. An error that matches net.ErrClosed is the last.
	receive(buf []byte) (n int, from netip.AddrPort, err error)
	// reply sends b to the given address, from the one that the last received datagram was sent to.
	reply(b []byte, to netip.AddrPort) error
	// addr is the address the socket is bound to.
	addr() netip.AddrPort
	Close() error
}

// counters are the live form of Stats, shared by the loops.
type counters struct {
	success, notSTUN, readError, writeError, ipv4, ipv6 atomic.Uint64
}

// Stats are counts since New.
type Stats struct {
	Success    uint64 `json:"success"`     // requests answered
	NotSTUN    uint64 `json:"not_stun"`    // datagrams left unanswered, for whatever reason
	ReadError  uint64 `json:"read_error"`  // failed reads
	WriteError uint64 `json:"write_error"` // requests whose answer could not be sent
	IPv4       uint64 `json:"ipv4"`        // accepted requests from an IPv4 address, answered or not
	IPv6       uint64 `json:"ipv6"`        // the same from an IPv6 address
}

// New returns a server that listens nowhere yet.
func New(o Options) *Server {
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Server{mode: o.Mode, logger: logger, bind: bindUDP, first: firstSources{tell: o.OneSource}}
}

// Addrs returns the bound addresses, one for each socket, in the order in which they were opened.
func (s *Server) Addrs() []netip.AddrPort {
	addrs := make([]netip.AddrPort, 0, len(s.sockets))
	for _, sock := range s.sockets {
		addrs = append(addrs, sock.addr())
	}
	return addrs
}

// Stats returns the counts at this moment. They are read one by one, so their sums may be off by requests in flight.
func (s *Server) Stats() Stats {
	return Stats{
		Success:    s.count.success.Load(),
		NotSTUN:    s.count.notSTUN.Load(),
		ReadError:  s.count.readError.Load(),
		WriteError: s.count.writeError.Load(),
		IPv4:       s.count.ipv4.Load(),
		IPv6:       s.count.ipv6.Load(),
	}
}

// Serve answers requests on all sockets until ctx ends, closes the sockets, and returns nil once nothing of it runs any
// more. No datagram and no socket error ends it earlier. It must be called once at most; before Listen it is an error.
func (s *Server) Serve(ctx context.Context) error {
	if len(s.sockets) == 0 {
		return errors.New("stun: serve without a socket; hint: call Listen first")
	}
	var loops sync.WaitGroup
	for _, sock := range s.sockets {
		loops.Go(func() { s.answer(ctx, sock) })
	}
	<-ctx.Done()
	err := s.Close()
	loops.Wait()
	return err
}

// Close closes the sockets of a server that will not be served after all. Serve does it by itself.
func (s *Server) Close() error {
	var errs []error
	for _, sock := range s.sockets {
		if err := sock.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// answer is the loop of one socket. It allocates its buffers once and nothing per request.
func (s *Server) answer(ctx context.Context, sock socket) {
	var reads, writes throttle
	in := make([]byte, maxDatagram)
	out := make([]byte, 0, MaxResponseLen)
	for {
		n, from, err := sock.receive(in)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.count.readError.Add(1)
			s.logError(&reads, slog.LevelWarn, "stun: cannot read from socket", sock, err)
			pause(ctx, errorPause)
			continue
		}
		tx, err := ParseRequest(in[:n], s.mode)
		if err != nil {
			s.count.notSTUN.Add(1)
			continue
		}
		s.countFamily(from.Addr())
		s.first.note(from.Addr())
		if err := sock.reply(AppendResponse(out, tx, from), from); err != nil {
			if ctx.Err() != nil {
				return
			}
			s.count.writeError.Add(1)
			level, text := describeWriteError(err)
			s.logError(&writes, level, text, sock, err)
			continue
		}
		s.count.success.Add(1)
	}
}

func (s *Server) countFamily(ip netip.Addr) {
	if ip.Unmap().Is4() {
		s.count.ipv4.Add(1)
	} else {
		s.count.ipv6.Add(1)
	}
}

// describeWriteError tells what an operator can mend, a firewall that forbids answers, from what any forged source
// address brings about.
func describeWriteError(err error) (slog.Level, string) {
	if errors.Is(err, os.ErrPermission) {
		return slog.LevelWarn, "stun: not allowed to send answers; hint: let outgoing UDP from this port through the firewall"
	}
	return slog.LevelDebug, "stun: cannot send answer"
}

// logError logs err unless t holds it back. How often it happened is in Stats.
func (s *Server) logError(t *throttle, level slog.Level, text string, sock socket, err error) {
	if s.logger.Enabled(context.Background(), level) && t.pass(time.Now()) {
		s.logger.Log(context.Background(), level, text, "addr", sock.addr(), "err", err)
	}
}

// throttle lets one line pass each logEvery. The zero value lets the first pass at once.
type throttle struct {
	next time.Time
}

// pass reports whether a line may be logged now.
func (t *throttle) pass(now time.Time) bool {
	if now.Before(t.next) {
		return false
	}
	t.next = now.Add(logEvery)
	return true
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
