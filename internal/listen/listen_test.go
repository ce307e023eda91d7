package listen

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeListener gives out what a test feeds it.
type fakeListener struct {
	results chan any // net.Conn or error
	closed  chan struct{}
	once    sync.Once
	calls   []time.Time // of Accept; owned by the accept loop until it ends
}

func newFakeListener() *fakeListener {
	return &fakeListener{results: make(chan any, 100), closed: make(chan struct{})}
}

func (l *fakeListener) Accept() (net.Conn, error) {
	l.calls = append(l.calls, time.Now())
	select {
	case r := <-l.results:
		if err, ok := r.(error); ok {
			return nil, err
		}
		return r.(net.Conn), nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *fakeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *fakeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} }

// connect hands one end of a pipe to the listener and returns the other.
func (l *fakeListener) connect() net.Conn {
	client, server := net.Pipe()
	l.results <- server
	return client
}

func TestServeAndStop(t *testing.T) {
	d, err := Listen(t.Context(), "127.0.0.1:0", Options{UserTimeout: 15 * time.Second, KeepAlive: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if a := d.Addr(); a.Addr() != netip.MustParseAddr("127.0.0.1") || a.Port() == 0 {
		t.Fatalf("Addr() = %v", a)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	entered, handlerDone := make(chan struct{}), make(chan struct{})
	go func() {
		served <- d.Serve(ctx, func(ctx context.Context, c net.Conn, ready func(bool)) {
			defer c.Close()
			ready(false)
			ready(false) // again must not count twice
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Errorf("write: %v", err)
			}
			close(entered)
			<-ctx.Done()
			<-handlerDone
		})
	}()
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-entered
	if got, want := d.Stats(), (Stats{Accepted: 1, Open: 1}); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
	cancel()
	// It accepts no more, but still waits for the handler.
	if _, err := d.listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepting after the end: %v", err)
	}
	select {
	case <-served:
		t.Fatal("Serve returned before its handler")
	default:
	}
	close(handlerDone)
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if got, _ := io.ReadAll(c); string(got) != "hello" {
		t.Errorf("read %q", got)
	}
	if got, want := d.Stats(), (Stats{Accepted: 1}); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

func TestCloseEndsServe(t *testing.T) {
	d, err := Listen(t.Context(), "127.0.0.1:0", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Serve(t.Context(), nil); err != nil {
		t.Errorf("Serve after Close: %v", err)
	}
}

func TestMaxPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeListener()
		d := newDoor(l, Options{MaxPending: 2})
		ctx, cancel := context.WithCancel(t.Context())
		finish := make(chan struct{})
		served := make(chan error, 1)
		go func() {
			served <- d.Serve(ctx, func(ctx context.Context, c net.Conn, ready func(bool)) {
				defer c.Close()
				select {
				case <-finish:
					ready(false)
					<-ctx.Done()
				case <-ctx.Done():
				}
			})
		}()
		l.connect()
		l.connect()
		refused := l.connect()
		if _, err := refused.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("reading from the third connection: %v, want it closed", err)
		}
		if got, want := d.Stats(), (Stats{Accepted: 2, RefusedFull: 1, Pending: 2, Open: 2}); got != want {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}

		finish <- struct{}{} // one of them is ready: a place is free
		synctest.Wait()
		l.connect()
		synctest.Wait()
		if got, want := d.Stats(), (Stats{Accepted: 3, RefusedFull: 1, Pending: 2, Open: 3}); got != want {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}

		cancel() // handlers that were never ready free their place too
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if got, want := d.Stats(), (Stats{Accepted: 3, RefusedFull: 1}); got != want {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}
	})
}

func TestAcceptErrorsBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeListener()
		var logs bytes.Buffer
		d := newDoor(l, Options{Logger: slog.New(slog.NewTextHandler(&logs, nil))})
		emfile := &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
		for range 11 {
			l.results <- emfile
		}
		l.results <- &net.OpError{Op: "accept", Net: "tcp", Err: syscall.ENOBUFS}
		client := l.connect()
		l.results <- emfile

		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() {
			served <- d.Serve(ctx, func(_ context.Context, c net.Conn, _ func(bool)) { c.Close() })
		}()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("the connection after the errors was not served: %v", err)
		}
		time.Sleep(time.Minute) // on the bubble's clock
		l.results <- emfile
		synctest.Wait()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if got := d.Stats().AcceptErrors; got != 14 {
			t.Errorf("accept_errors = %d, want 14", got)
		}

		want := []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000, 0, 5}
		for i, w := range want {
			if got := l.calls[i+1].Sub(l.calls[i]); got != w*time.Millisecond {
				t.Errorf("pause %d is %v, want %v", i, got, w*time.Millisecond)
			}
		}
		lines := strings.Split(strings.TrimSpace(logs.String()), "\n")
		if len(lines) != 3 || !strings.Contains(lines[0], "times=1") || !strings.Contains(lines[0], "LimitNOFILE") ||
			!strings.Contains(lines[1], "no buffer space") || !strings.Contains(lines[2], "times=12") {
			t.Errorf("logs:\n%s", logs.String())
		}
	})
}

func TestStopDuringBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeListener()
		for range 20 {
			l.results <- errors.New("odd")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5500*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := newDoor(l, Options{}).Serve(ctx, nil); err != nil {
			t.Errorf("Serve: %v", err)
		}
		if took := time.Since(began); took != 5500*time.Millisecond {
			t.Errorf("Serve took %v to notice", took)
		}
	})
}

func TestBindErrors(t *testing.T) {
	taken, err := Listen(t.Context(), "127.0.0.1:0", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, test := range []struct{ addr, want string }{
		{taken.Addr().String(), "choose another port with --listen"},
		{"443", "write --listen as HOST:PORT"},
		{"192.0.2.77:0", "no interface has this address"},
	} {
		_, err := Listen(t.Context(), test.addr, Options{Flag: "--listen"})
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.addr) {
			t.Errorf("Listen(%q): %v, want a hint with %q", test.addr, err, test.want)
		}
	}
	denied := bindError(":443", "", &net.OpError{Op: "listen", Err: syscall.EACCES})
	if !errors.Is(denied, syscall.EACCES) || !strings.Contains(denied.Error(), "setcap") {
		t.Errorf("privileged port: %v", denied)
	}
}

func TestPanicEndsOneConnectionOnly(t *testing.T) {
	var log bytes.Buffer
	d, err := Listen(t.Context(), "127.0.0.1:0", Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- d.Serve(ctx, func(_ context.Context, c net.Conn, _ func(bool)) {
			if d.Stats().Accepted == 1 {
				panic("a bug")
			}
			c.Write([]byte("fine"))
			c.Close()
		})
	}()
	for i, want := range []string{"", "fine"} {
		c, err := net.Dial("tcp", d.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if string(got) != want || err != nil {
			t.Errorf("connection %d: %q, %v; want %q", i, got, err, want)
		}
		c.Close()
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if st := d.Stats(); st.Panics != 1 || st.Open != 0 || st.Pending != 0 {
		t.Errorf("stats %+v", st)
	}
	if !strings.Contains(log.String(), "a bug") || !strings.Contains(log.String(), "stack=") {
		t.Errorf("log %q", log.String())
	}
}
