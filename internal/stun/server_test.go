package stun

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// read is what one receive of a script gives.
type read struct {
	data []byte
	from string
	err  error
}

// scriptSocket plays reads, then waits until it is closed. It records the replies.
type scriptSocket struct {
	reads    []read
	replyErr error
	closed   chan struct{}
	linger   time.Duration // from the close to the end of a waiting receive
	replies  []string
	times    []time.Time
}

func newScript(reads ...read) *scriptSocket {
	return &scriptSocket{reads: reads, closed: make(chan struct{})}
}

func (s *scriptSocket) receive(buf []byte) (int, netip.AddrPort, error) {
	s.times = append(s.times, time.Now())
	if len(s.reads) == 0 {
		<-s.closed
		time.Sleep(s.linger)
		return 0, netip.AddrPort{}, net.ErrClosed
	}
	next := s.reads[0]
	s.reads = s.reads[1:]
	if next.err != nil {
		return 0, netip.AddrPort{}, next.err
	}
	return copy(buf, next.data), netip.MustParseAddrPort(next.from), nil
}

func (s *scriptSocket) reply(b []byte, to netip.AddrPort) error {
	if s.replyErr != nil {
		return s.replyErr
	}
	_, seen, err := ParseResponse(b)
	s.replies = append(s.replies, to.String()+" told "+seen.String())
	return err
}

func (s *scriptSocket) addr() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:3478") }

func (s *scriptSocket) Close() error {
	select {
	case <-s.closed:
		return net.ErrClosed
	default:
		close(s.closed)
		return nil
	}
}

// play serves the script in a bubble until nothing is left to do, and returns the log.
func play(t *testing.T, s *Server, script *scriptSocket) string {
	t.Helper()
	var log bytes.Buffer
	s.logger = slog.New(slog.NewTextHandler(&log, nil))
	s.sockets = append(s.sockets, script)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	time.Sleep(time.Hour) // of the bubble's clock: every pause is over and the loop waits for a datagram
	synctest.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	return log.String()
}

func TestServeAnswersAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		request, plain := unhex(t, recordedRequest), message(typeBindingRequest)
		script := newScript(
			read{data: request, from: "192.0.2.7:1000"},
			read{data: []byte("hello"), from: "192.0.2.8:1000"},
			read{data: plain, from: "192.0.2.9:1000"},
			read{data: request, from: "[2001:db8::7]:1000"},
			read{data: nil, from: "192.0.2.8:1000"},
			read{data: request, from: "[::ffff:192.0.2.7]:1001"},
		)
		s := New(Options{})
		log := play(t, s, script)
		want := "192.0.2.7:1000 told 192.0.2.7:1000, [2001:db8::7]:1000 told [2001:db8::7]:1000, [::ffff:192.0.2.7]:1001 told 192.0.2.7:1001"
		if got := strings.Join(script.replies, ", "); got != want {
			t.Errorf("replies:\n got %s\nwant %s", got, want)
		}
		if got, want := s.Stats(), (Stats{Success: 3, NotSTUN: 3, IPv4: 2, IPv6: 1}); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
		if log != "" {
			t.Errorf("logged %s", log)
		}
	})
}

func TestServeRFCMode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := newScript(read{data: message(typeBindingRequest), from: "192.0.2.7:1000"})
		play(t, New(Options{Mode: RFC}), script)
		if len(script.replies) != 1 {
			t.Errorf("replies %v, want one", script.replies)
		}
	})
}

func TestReadErrorsDoNotEndServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := read{err: syscall.ENOBUFS}
		script := newScript(broken, broken, broken, read{data: unhex(t, recordedRequest), from: "192.0.2.7:1000"})
		s := New(Options{})
		log := play(t, s, script)
		if got, want := s.Stats(), (Stats{Success: 1, ReadError: 3, IPv4: 1}); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
		if n := strings.Count(log, "\n"); n != 1 || !strings.Contains(log, "level=WARN") || !strings.Contains(log, "addr=192.0.2.1:3478") {
			t.Errorf("three errors in a row logged %d lines, want one warning:\n%s", n, log)
		}
		for i, want := range []time.Duration{errorPause, errorPause, errorPause, 0} {
			if got := script.times[i+1].Sub(script.times[i]); got != want {
				t.Errorf("read %d came %v after the one before, want %v", i+1, got, want)
			}
		}
	})
}

func TestPauseEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		s.sockets = []socket{newScript(read{err: syscall.ENOBUFS}, read{err: syscall.ENOBUFS})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Serve(ctx) }()
		synctest.Wait() // the loop rests after the first error
		start := time.Now()
		cancel()
		if err := <-done; err != nil || time.Since(start) != 0 {
			t.Errorf("Serve returned %v after %v, want nil at once", err, time.Since(start))
		}
	})
}

func TestServeWaitsForItsLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quick, slow := newScript(), newScript()
		slow.linger = time.Minute
		s := New(Options{})
		s.sockets = []socket{quick, slow}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		if err := s.Serve(ctx); err != nil || time.Since(start) != slow.linger {
			t.Errorf("Serve returned %v after %v, want nil after %v", err, time.Since(start), slow.linger)
		}
	})
}

func TestWriteErrors(t *testing.T) {
	tests := []struct {
		err  error
		want string // in the log; empty for none
	}{
		{syscall.EPERM, "firewall"},
		{syscall.ENETUNREACH, ""},
	}
	for _, test := range tests {
		t.Run(test.err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				request := read{data: unhex(t, recordedRequest), from: "192.0.2.7:1000"}
				script := newScript(request, request)
				script.replyErr = &net.OpError{Op: "write", Err: test.err}
				s := New(Options{})
				log := play(t, s, script)
				if got, want := s.Stats(), (Stats{WriteError: 2, IPv4: 2}); got != want {
					t.Errorf("stats %+v, want %+v", got, want)
				}
				if (test.want == "") != (log == "") || !strings.Contains(log, test.want) || strings.Count(log, "\n") > 1 {
					t.Errorf("logged %q, want one line with %q", log, test.want)
				}
			})
		})
	}
}

func TestThrottle(t *testing.T) {
	var limit throttle
	start := time.Unix(1000, 0)
	for _, step := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, false}, {logEvery - 1, false}, {logEvery, true}, {logEvery + 1, false}, {2 * logEvery, true}} {
		if got := limit.pass(start.Add(step.after)); got != step.want {
			t.Errorf("after %v: pass = %v, want %v", step.after, got, step.want)
		}
	}
}

func TestServeWithoutListen(t *testing.T) {
	if err := New(Options{}).Serve(t.Context()); err == nil || !strings.Contains(err.Error(), "call Listen first") {
		t.Errorf("Serve gives %v", err)
	}
}

func TestStatsJSON(t *testing.T) {
	got, err := json.Marshal(Stats{1, 2, 3, 4, 5, 6})
	want := `{"success":1,"not_stun":2,"read_error":3,"write_error":4,"ipv4":5,"ipv6":6}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

// endless gives the same datagram n times, then the end.
type endless struct {
	*scriptSocket
	data []byte
	from netip.AddrPort
	left int
}

func (e *endless) receive(buf []byte) (int, netip.AddrPort, error) {
	if e.left == 0 {
		return 0, netip.AddrPort{}, net.ErrClosed
	}
	e.left--
	return copy(buf, e.data), e.from, nil
}

func (e *endless) reply([]byte, netip.AddrPort) error { return nil }

func TestLoopDoesNotAllocatePerRequest(t *testing.T) {
	s := New(Options{})
	sock := &endless{data: AppendRequest(nil, recordedTx), from: recordedAddr}
	perLoop := func(requests int) float64 {
		return testing.AllocsPerRun(5, func() {
			sock.left = requests
			s.answer(t.Context(), sock)
		})
	}
	if few, many := perLoop(1), perLoop(1000); many != few {
		t.Errorf("a loop of 1000 requests makes %v allocations, one of 1 makes %v", many, few)
	}
	if s.Stats().Success == 0 {
		t.Error("nothing was answered")
	}
}

// serve runs a server until the test ends.
func serve(t *testing.T, s *Server, addr string) {
	t.Helper()
	if err := s.Listen(addr); err != nil {
		t.Fatal(err)
	}
	run(t, s)
}

// run serves what is open until the test ends.
func run(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// dial returns a connected socket: it takes replies only from the address that it asks.
func dial(t *testing.T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ask makes one exchange and checks that the server saw this socket's own address.
func ask(t *testing.T, conn *net.UDPConn) (responseLen int) {
	t.Helper()
	if _, err := conn.Write(AppendRequest(nil, recordedTx)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatalf("no answer from %v: %v", conn.RemoteAddr(), err)
	}
	tx, addr, err := ParseResponse(buf[:n])
	if err != nil || tx != recordedTx || addr.String() != conn.LocalAddr().String() {
		t.Fatalf("answer to %v: id %x, address %v, %v", conn.LocalAddr(), tx, addr, err)
	}
	return n
}

func needIPv6(t *testing.T) {
	t.Helper()
	conn, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 loopback here: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestBothFamiliesOnWildcard(t *testing.T) {
	needIPv6(t)
	s := New(Options{})
	serve(t, s, ":0")
	addrs := s.Addrs()
	if len(addrs) != 2 || addrs[0].Port() != addrs[1].Port() || addrs[0].Addr().String() != "0.0.0.0" || addrs[1].Addr().String() != "::" {
		t.Fatalf("bound to %v, want both families on one port", addrs)
	}
	if n := ask(t, dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addrs[0].Port()))); n != 32 {
		t.Errorf("IPv4 answer has %d bytes, want 32", n)
	}
	if n := ask(t, dial(t, netip.AddrPortFrom(netip.IPv6Loopback(), addrs[1].Port()))); n != 44 {
		t.Errorf("IPv6 answer has %d bytes, want 44", n)
	}
}

// TestIPv6Wildcard: the port is free for another program over IPv4.
func TestIPv6Wildcard(t *testing.T) {
	needIPv6(t)
	s := New(Options{})
	serve(t, s, "[::]:0")
	addrs := s.Addrs()
	if len(addrs) != 1 || addrs[0].Addr() != netip.IPv6Unspecified() {
		t.Fatalf("bound to %v, want IPv6 alone", addrs)
	}
	if n := ask(t, dial(t, netip.AddrPortFrom(netip.IPv6Loopback(), addrs[0].Port()))); n != 44 {
		t.Errorf("IPv6 answer has %d bytes, want 44", n)
	}
}

// TestPassedSocket: one for both families, as systemd makes it, tells IPv4 clients
// their IPv4 address.
func TestPassedSocket(t *testing.T) {
	needIPv6(t)
	conn, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{})
	if err := s.ListenOn(conn); err != nil {
		t.Fatal(err)
	}
	port := s.Addrs()[0].Port()
	run(t, s)
	for addr, want := range map[string]int{"127.0.0.1": 32, "::1": 44} {
		if n := ask(t, dial(t, netip.AddrPortFrom(netip.MustParseAddr(addr), port))); n != want {
			t.Errorf("the answer to %s has %d bytes, want %d", addr, n, want)
		}
	}
	if err := s.ListenOn(nil); err == nil {
		t.Error("took nothing for a socket")
	}
}

func TestSpecificAddress(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"} {
		t.Run(listen, func(t *testing.T) {
			if listen == "[::1]:0" {
				needIPv6(t)
			}
			s := New(Options{})
			serve(t, s, listen)
			if len(s.Addrs()) != 1 {
				t.Fatalf("bound to %v, want one socket", s.Addrs())
			}
			ask(t, dial(t, s.Addrs()[0]))
		})
	}
}

// Over real sockets an exchange allocates nothing either, on both sides of it.
func TestExchangeDoesNotAllocate(t *testing.T) {
	s := New(Options{})
	serve(t, s, "0.0.0.0:0")
	conn := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.Addrs()[0].Port()))
	request, buf := AppendRequest(nil, recordedTx), make([]byte, 100)
	allocs := testing.AllocsPerRun(200, func() {
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(buf); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per exchange, want 0", allocs)
	}
}

func TestCloseInsteadOfServe(t *testing.T) {
	s := New(Options{})
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Errorf("Close: %v", err)
	}
	again := New(Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := again.Listen(s.Addrs()[0].String()); err != nil {
		t.Errorf("the port is still held: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
