package probe

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/relaytest"
)

// net/http lingers for half a second after it has hung up on a client.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// dial logs in at n.
func dial(t *testing.T, n *derpmap.Node) *Peer {
	t.Helper()
	p, err := DialPeer(t.Context(), World{}.Options(n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestExchange(t *testing.T) {
	n := relaytest.Live(t, relaytest.Everybody)
	x, y := dial(t, n), dial(t, n)
	for _, size := range []int{1, 1400, 65536} {
		for _, way := range [][2]*Peer{{x, y}, {y, x}} {
			took, err := Exchange(t.Context(), way[0], way[1], size)
			if err != nil || took <= 0 {
				t.Errorf("%d bytes: %v, %v", size, took, err)
			}
		}
	}
	if x.Err() != nil || x.Health() != "" {
		t.Errorf("%v, %q", x.Err(), x.Health())
	}
}

func TestExchangeThatFails(t *testing.T) {
	n := relaytest.Live(t, relaytest.Admission{Reason: "unknown", Lobby: "who are you?"})
	x, y := dial(t, n), dial(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Exchange(ctx, x, y, 100); !errors.Is(err, ErrNotRelayed) {
		t.Errorf("in the lobby: %v", err)
	}
	if !strings.Contains(x.Health(), "who are you?") {
		t.Errorf("health %q", x.Health())
	}
	y.Close()
	if _, err := Exchange(t.Context(), x, y, 100); err == nil || errors.Is(err, ErrNotRelayed) {
		t.Errorf("to a closed connection: %v", err)
	}
}

func TestDialNode(t *testing.T) {
	n := relaytest.Live(t, relaytest.Everybody)
	off := *n
	off.IPv4 = "none"
	if _, err := (World{}).DialNode(t.Context(), &off); !errors.Is(err, ErrFamilyOff) {
		t.Errorf("both families off: %v", err)
	}
	wrong := *n
	wrong.CertName = derpmap.PinPrefix + strings.Repeat("0", 64)
	if _, err := DialPeer(t.Context(), World{}.Options(&wrong)); err == nil || !strings.Contains(err.Error(), "not the pinned one") {
		t.Errorf("another pin: %v", err)
	}
	unpinned := *n
	unpinned.CertName = ""
	if _, err := DialPeer(t.Context(), World{}.Options(&unpinned)); err == nil {
		t.Error("a certificate of nobody's is trusted")
	}
}
