package relay_test

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/relaytest"
)

func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret, err := key.ParseMesh(strings.Repeat("ab", 32))
		if err != nil {
			t.Fatal(err)
		}
		s := start(t, func(o *relay.Options) { o.MeshKey = secret; o.Admit = nil })
		sibling := relaytest.Saying(derp.ClientParams{Version: 2, MeshKey: secret})
		prober := relaytest.Saying(derp.ClientParams{Version: 2, MeshKey: secret, IsProber: true})
		at := netip.MustParseAddrPort("198.51.100.7:4242")
		first := relaytest.Dial(t, s, sibling, relaytest.From(at), relaytest.NotIdeal())
		w := relaytest.Dial(t, s, sibling)
		seen := func(frames int) map[key.Public]derp.Presence {
			m := make(map[key.Public]derp.Presence)
			for range frames {
				p := derp.ParsePeerPresent(w.Want(derp.PeerPresent))
				m[p.Key] = p
			}
			return m
		}
		for range 2 { // the second time the list comes again
			w.Put(derp.AppendWatchConns(nil))
			m := seen(2)
			if p := m[first.Key.Public()]; p.Addr != at || p.Flags != derp.PresentMesh|derp.PresentNotIdeal {
				t.Errorf("presence %+v", p)
			}
			if p, ok := m[w.Key.Public()]; !ok || p.Flags != derp.PresentMesh || p.Addr.IsValid() {
				t.Errorf("the watcher is not on its own list: %+v", m)
			}
		}
		second := relaytest.Dial(t, s, prober, relaytest.As(first.Key))
		if p := seen(1)[first.Key.Public()]; p.Flags != derp.PresentMesh|derp.PresentProber {
			t.Errorf("duplicate's presence %+v", p)
		}
		first.Close()
		w.WantNothing(time.Second)
		second.Close()
		w.WantGone(first.Key.Public(), derp.GoneDisconnected)

		victim := relaytest.Dial(t, s, sibling)
		seen(1)
		w.Put(derp.AppendForwardPacket(nil, first.Key.Public(), victim.Key.Public(), []byte("from afar")))
		victim.WantPacket(first, "from afar")
		w.Put(derp.AppendForwardPacket(nil, victim.Key.Public(), first.Key.Public(), []byte(relaytest.Disco(""))))
		w.WantGone(first.Key.Public(), derp.GoneNotHere)
		w.Put(derp.AppendClosePeer(nil, first.Key.Public())) // not here: nothing happens
		w.Put(derp.AppendClosePeer(nil, victim.Key.Public()))
		victim.WantClosed()
		w.WantGone(victim.Key.Public(), derp.GoneDisconnected)
		if st := s.Stats(); st.ForwardedIn != 2 || st.Watchers != 1 || st.Dropped["unknown_dest_on_fwd"]["disco"].Packets != 1 {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestSelfWatchIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret, _ := key.ParseMesh(strings.Repeat("cd", 32))
		self := key.NewPrivate()
		s := start(t, func(o *relay.Options) { o.Key = self; o.MeshKey = secret })
		a := relaytest.Dial(t, s, relaytest.As(self), relaytest.Saying(derp.ClientParams{MeshKey: secret}))
		a.Put(derp.AppendWatchConns(nil))
		a.Sync()
		if n := s.Stats().Watchers; n != 0 {
			t.Errorf("%d watchers", n)
		}
	})
}
