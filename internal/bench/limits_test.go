package bench

import (
	"context"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/client"
)

// undialled is a Target that must not be connected to. 192.0.2.0/24 is for
// documentation.
func undialled(t *testing.T, host string) Target {
	return Target{Client: client.Options{Host: host, Insecure: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		t.Error("it was dialled")
		return nil, net.ErrClosed
	}}}
}

func TestOffLoopback(t *testing.T) {
	for _, host := range []string{"192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"} {
		stranger := undialled(t, host)
		if _, err := Pairs(t.Context(), stranger, light); err == nil || !strings.Contains(err.Error(), "--this-relay-is-mine") {
			t.Errorf("%s: pairs: %v", host, err)
		}
		mine := stranger
		mine.Mine = true
		tooFast := light
		tooFast.Rate = MaxRemoteRate + 1
		if _, err := Pairs(t.Context(), mine, tooFast); err == nil || !strings.Contains(err.Error(), "--rate") {
			t.Errorf("%s: pairs, too fast: %v", host, err)
		}
		withProcess := mine
		withProcess.ServerPID = 1
		if _, err := Pairs(t.Context(), withProcess, light); err == nil || !strings.Contains(err.Error(), "--server-pid") {
			t.Errorf("%s: with a process: %v", host, err)
		}
		if _, err := Idle(t.Context(), mine, 1, time.Second); err == nil || !strings.Contains(err.Error(), "on loopback only") {
			t.Errorf("%s: idle: %v", host, err)
		}
		if _, err := FanIn(t.Context(), mine, 1, light); err == nil || !strings.Contains(err.Error(), "on loopback only") {
			t.Errorf("%s: fan-in: %v", host, err)
		}
		if _, err := Storm(t.Context(), mine, 1); err == nil || !strings.Contains(err.Error(), "on loopback only") {
			t.Errorf("%s: storm: %v", host, err)
		}
		if _, err := STUN(t.Context(), mine, 3478, 1); err == nil || !strings.Contains(err.Error(), "on loopback only") {
			t.Errorf("%s: stun: %v", host, err)
		}
	}
}

// TestLoopbackIsPinned has the address that was checked be the one that is dialled.
func TestLoopbackIsPinned(t *testing.T) {
	for host, want := range map[string]string{"127.0.0.2": "127.0.0.2:443", "::1": "[::1]:443", "::ffff:127.0.0.1": "[::ffff:127.0.0.1]:443"} {
		got, err := undialled(t, host).settle(t.Context())
		if err != nil || got.remote || got.Client.Addr != want {
			t.Errorf("%s: dials %q, remote %v, %v", host, got.Client.Addr, got.remote, err)
		}
	}
}

func TestBounds(t *testing.T) {
	good := Load{Pairs: 10, Size: 1400, Duration: 5 * time.Second, Warmup: time.Second, Window: 16}
	if got, err := good.bound(false); err != nil || got != good {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := good.bound(true); err != nil || got.Rate != RemoteRate {
		t.Errorf("off loopback: %+v, %v", got, err)
	}
	for _, tt := range []struct {
		flag         string
		change       func(l *Load)
		local, fails bool
	}{
		{"--pairs", func(l *Load) { l.Pairs = 0 }, true, true},
		{"--pairs", func(l *Load) { l.Pairs = MaxPairs }, true, false},
		{"--pairs", func(l *Load) { l.Pairs = MaxPairs + 1 }, true, true},
		{"--pairs", func(l *Load) { l.Pairs = RemotePairs + 1 }, false, true},
		{"--size", func(l *Load) { l.Size = MinSize - 1 }, true, true},
		{"--size", func(l *Load) { l.Size = MaxSize + 1 }, true, true},
		{"--rate", func(l *Load) { l.Rate = -1 }, true, true},
		{"--rate", func(l *Load) { l.Rate = .5 }, true, true},
		{"--rate", func(l *Load) { l.Rate = math.NaN() }, true, true},
		{"--rate", func(l *Load) { l.Rate = math.Inf(1) }, true, true},
		{"--rate", func(l *Load) { l.Rate = MaxRate }, true, false},
		{"--rate", func(l *Load) { l.Rate = MaxRemoteRate }, false, false},
		{"--rate", func(l *Load) { l.Rate = MaxRemoteRate + 1 }, false, true},
		{"--duration", func(l *Load) { l.Duration = 0 }, true, true},
		{"--duration", func(l *Load) { l.Duration = MaxDuration + 1 }, true, true},
		{"--duration", func(l *Load) { l.Duration = MaxRemoteDuration + 1 }, false, true},
		{"--warmup", func(l *Load) { l.Warmup = -1 }, true, true},
		{"--warmup", func(l *Load) { l.Warmup = MaxRemoteDuration + 1 }, false, true},
		{"--window", func(l *Load) { l.Window = -1 }, true, true},
		{"--window", func(l *Load) { l.Window = MaxWindow + 1 }, true, true},
	} {
		l := good
		tt.change(&l)
		_, err := l.bound(!tt.local)
		if (err != nil) != tt.fails {
			t.Errorf("%+v: %v", l, err)
		}
		if err != nil && (!strings.Contains(err.Error(), tt.flag) || !strings.Contains(err.Error(), "; hint: ")) {
			t.Errorf("%s: %v", tt.flag, err)
		}
	}
}

func TestBoundsOfTheOthers(t *testing.T) {
	local := undialled(t, "127.0.0.1")
	for name, err := range map[string]error{
		"no peers":       second(Idle(t.Context(), local, 0, time.Second)),
		"many peers":     second(Idle(t.Context(), local, MaxIdle+1, time.Second)),
		"no hold":        second(Idle(t.Context(), local, 1, 0)),
		"no process":     second(Idle(t.Context(), local, 1, time.Second)),
		"no senders":     second(FanIn(t.Context(), local, 0, light)),
		"many senders":   second(FanIn(t.Context(), local, MaxSenders+1, light)),
		"no packets":     second(FanIn(t.Context(), local, 1, Load{Duration: time.Second})),
		"no logins":      second(Storm(t.Context(), local, 0)),
		"many logins":    second(Storm(t.Context(), local, MaxLogins+1)),
		"no requests":    second(STUN(t.Context(), local, 3478, 0)),
		"many requests":  second(STUN(t.Context(), local, 3478, MaxRequests+1)),
		"no port":        second(STUN(t.Context(), local, 0, 1)),
		"no such server": second(Pairs(t.Context(), Target{Client: local.Client, ServerPID: 1 << 30}, light)),
	} {
		if err == nil || !strings.Contains(err.Error(), "; hint: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
