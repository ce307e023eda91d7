package listen

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// free returns an address with a port that is free now.
func free(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("this machine has no %s: %v", host, err)
	}
	defer l.Close()
	return l.Addr().String()
}

// serveHello greets who connects, and leaves the connection open until stop.
func serveHello(t *testing.T, d *Door) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- d.Serve(ctx, func(ctx context.Context, c net.Conn, ready func(bool)) {
			defer c.Close()
			ready(true)
			_, _ = io.WriteString(c, "hello")
			_, _ = io.Copy(c, c) // until the client goes
		})
	}()
	return func() {
		t.Helper()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

func hello(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRestAndWake(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) { restAndWake(t, free(t, host)) })
	}
}

func restAndWake(t *testing.T, addr string) {
	t.Helper()
	d, err := Listen(t.Context(), addr, Options{UserTimeout: 15 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	stop := serveHello(t, d)
	veteran := hello(t, addr)
	for range 3 {
		if err := errors.Join(d.Rest(), d.Rest()); err != nil {
			t.Fatal(err)
		}
		if c, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dialled while it rests: %v, %v", c, err)
		}
		if err := d.Wake(); err != nil {
			t.Fatal(err)
		}
		if err := d.Wake(); err == nil {
			t.Error("woken twice")
		}
		hello(t, addr).Close()
	}
	if _, err := io.WriteString(veteran, "still"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(veteran, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	veteran.Close()
	raw, err := d.listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		low, errLow := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
		if got != 15000 || low != notSentLowAt || err != nil || errLow != nil {
			t.Errorf("afterwards the options are %d, %d, %v, %v", got, low, err, errLow)
		}
	})
	if s := d.Stats(); s.AcceptErrors != 0 || s.Accepted != 4 {
		t.Errorf("%+v", s)
	}
	stop()
}

// A Door that rests ends like any other.
func TestEndAtRest(t *testing.T) {
	for _, end := range []string{"context", "Close"} {
		d, err := Listen(t.Context(), free(t, "127.0.0.1"), Options{})
		if err != nil {
			t.Fatal(err)
		}
		stop := serveHello(t, d)
		hello(t, d.Where()).Close() // it serves
		if err := d.Rest(); err != nil {
			t.Fatal(err)
		}
		if end == "Close" {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		stop()
	}
}

func TestCannotWake(t *testing.T) {
	addr := free(t, "127.0.0.1")
	d, err := Listen(t.Context(), addr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Rest(); err != nil {
		t.Fatal(err)
	}
	thief, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Wake(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("woken where another listens: %v", err)
	}
	thief.Close()
	if err := d.Wake(); err != nil {
		t.Error(err)
	}

	// The port is not kept where the system has chosen it.
	d, err = Listen(t.Context(), "127.0.0.1:0", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Rest(); err != nil {
		t.Fatal(err)
	}
	if err := d.Wake(); err != nil && !strings.Contains(err.Error(), "another port") {
		t.Error(err)
	}

	unixDoor, err := Listen(t.Context(), "unix:"+filepath.Join(t.TempDir(), "s"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer unixDoor.Close()
	if err := unixDoor.Rest(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a unix socket: %v", err)
	}
}
