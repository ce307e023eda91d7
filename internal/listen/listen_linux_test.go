package listen

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSocketOptions(t *testing.T) {
	for _, test := range []struct {
		options Options
		want    map[int]int // TCP option: value; -1: do not care
	}{
		{
			Options{UserTimeout: 15 * time.Second, KeepAlive: 10 * time.Minute},
			map[int]int{unix.TCP_USER_TIMEOUT: 15000, unix.TCP_KEEPIDLE: 600, unix.TCP_NODELAY: 1, unix.TCP_NOTSENT_LOWAT: notSentLowAt},
		},
		{Options{}, map[int]int{unix.TCP_USER_TIMEOUT: 0, unix.TCP_NODELAY: 1}},
	} {
		c := acceptOne(t, test.options)
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = raw.Control(func(fd uintptr) {
			for option, want := range test.want {
				if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); err != nil || got != want {
					t.Errorf("%+v: option %d = %d, %v, want %d", test.options, option, got, err, want)
				}
			}
			if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || got != unix.IPPROTO_TCP {
				t.Errorf("protocol %d, %v, want TCP and not MPTCP", got, err)
			}
			if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || got != 1 {
				t.Errorf("SO_KEEPALIVE = %d, %v", got, err)
			}
		})
		if err != nil {
			t.Error(err)
		}
		c.Close()
	}
}

// acceptOne returns the accepted end of one connection.
func acceptOne(t *testing.T, o Options) net.Conn {
	t.Helper()
	d, err := Listen(t.Context(), "127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	accepted := make(chan net.Conn, 1)
	served := make(chan error, 1)
	go func() {
		served <- d.Serve(ctx, func(_ context.Context, c net.Conn, _ func(bool)) { accepted <- c })
	}()
	client, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	c := <-accepted
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	return c
}
