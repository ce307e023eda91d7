package stun

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// answering runs a server that hands each request to answer, with how many came
// before it, until the test's end.
func answering(t *testing.T, answer func(n int, tx TxID) [][]byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for i := 0; ; i++ {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			tx, err := ParseRequest(buf[:n], Tailscale)
			if err != nil {
				t.Errorf("request %x: %v", buf[:n], err)
			}
			for _, b := range answer(i, tx) {
				if _, err := conn.WriteTo(b, from); err != nil {
					return
				}
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String()
}

func TestAsk(t *testing.T) {
	want := netip.MustParseAddrPort("198.51.100.7:4000")
	server := answering(t, func(n int, tx TxID) [][]byte {
		if n == 0 {
			return nil // lost
		}
		other := tx
		other[0]++
		return [][]byte{
			[]byte("garbage"),
			AppendResponse(nil, other, netip.MustParseAddrPort("192.0.2.66:1")), // forged, blind
			AppendResponse(nil, tx, want),
		}
	})
	got, err := Ask(t.Context(), "udp4", server)
	if err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAskEndsWithItsContext(t *testing.T) {
	server := answering(t, func(int, TxID) [][]byte { return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := Ask(ctx, "udp4", server); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 400*time.Millisecond {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	if _, err := Ask(t.Context(), "udp6", server); err == nil {
		t.Error("an IPv4 server was asked over IPv6")
	}
}
