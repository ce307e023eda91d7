package listen

import (
	"context"
	"fmt"
	"net"
	"testing"
)

// TestFamilies: each form of a wildcard takes what it says and no more.
func TestFamilies(t *testing.T) {
	probe, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("this host has no IPv6")
	}
	probe.Close()
	for _, tt := range []struct {
		host         string
		want4, want6 bool
	}{
		{"0.0.0.0", true, false},
		{"[::]", false, true},
		{"", true, true},
		{"127.0.0.1", true, false},
		{"[::1]", false, true},
		{"[::ffff:127.0.0.1]", true, false},
	} {
		d, err := Listen(t.Context(), tt.host+":0", Options{})
		if err != nil {
			t.Errorf("%q: %v", tt.host, err)
			continue
		}
		port := d.Addr().Port()
		got4, got6 := reaches("127.0.0.1", port), reaches("::1", port)
		if got4 != tt.want4 || got6 != tt.want6 {
			t.Errorf("%q: IPv4 %v, IPv6 %v, want %v, %v", tt.host, got4, got6, tt.want4, tt.want6)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func reaches(host string, port uint16) bool {
	c, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// TestBothFamiliesApart: an address of each family on one port do not collide.
func TestBothFamiliesApart(t *testing.T) {
	d4, err := Listen(t.Context(), "0.0.0.0:0", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d4.Close()
	d6, err := Listen(t.Context(), fmt.Sprintf("[::]:%d", d4.Addr().Port()), Options{})
	if err != nil {
		t.Skip("IPv6: ", err) // the port may be another program's there
	}
	d6.Close()
}

// serveEach runs handle for the connections of d until the test ends.
func serveEach(t *testing.T, d *Door, handle Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}
