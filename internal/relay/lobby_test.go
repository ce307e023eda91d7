package relay_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/relaytest"
)

const plea = "ask the operator"

// tenants admits listed keys, and lets others wait.
type tenants struct {
	mu     sync.Mutex
	known  map[key.Public]relay.Verdict
	seated int
}

func (a *tenants) Admit(_ context.Context, k key.Public, _ netip.Addr) relay.Verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v, ok := a.known[k]; ok {
		return v
	}
	return relay.Verdict{Reason: "not_listed", Lobby: plea}
}

func (a *tenants) Seated(relay.Verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seated++
}

// lobbied is a peer that waits and has read why.
func lobbied(t *testing.T, s *relay.Server, options ...relaytest.Option) *relaytest.Peer {
	t.Helper()
	p := relaytest.Dial(t, s, options...)
	if got := derp.ParseHealth(p.Want(derp.Health)); got != plea {
		t.Fatalf("told %q", got)
	}
	return p
}

func idOf(t *testing.T, s *relay.Server, k key.Public) uint64 {
	t.Helper()
	for _, m := range s.Members() {
		if m.Key == k {
			return m.ID
		}
	}
	t.Fatalf("%v is not here", k.Short())
	return 0
}

func member(name string) relay.Verdict { return relay.Verdict{Admitted: true, Tenant: name} }

func TestLobby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := key.NewPrivate()
		a := &tenants{known: map[key.Public]relay.Verdict{mine.Public(): member("home")}}
		s := start(t, func(o *relay.Options) { o.Admit, o.WriteTimeout = a, 0 })
		in := relaytest.Dial(t, s, relaytest.As(mine))
		out := lobbied(t, s)

		out.Send(in, "let me in")
		out.Put(derp.AppendSendPacket(nil, in.Key.Public(), []byte(relaytest.Disco("hello"))))
		out.Put(derp.AppendNotePreferred(nil, true))
		out.Sync() // pings are answered
		in.WantNothing(time.Second)
		in.Send(out, "who are you")
		in.Put(derp.AppendSendPacket(nil, out.Key.Public(), []byte(relaytest.Disco("you"))))
		in.WantGone(out.Key.Public(), derp.GoneNotHere)
		out.WantNothing(time.Second)

		time.Sleep(70 * time.Second) // longer than the period of keepalives
		out.Want(derp.KeepAlive)
		in.Want(derp.KeepAlive)

		st := s.Stats()
		if st.Waiting != 1 || st.Connections != 1 || st.HomeConnections != 0 || st.Refused != 1 || a.seated != 2 {
			t.Errorf("stats %+v, %d seated", st, a.seated)
		}
		if d := st.Dropped["not_admitted"]; d["other"].Packets != 1 || d["disco"].Packets != 1 {
			t.Errorf("drops %+v", d)
		}

		if !s.Judge(idOf(t, s, out.Key.Public()), member("home")) {
			t.Fatal("not promoted")
		}
		if got := derp.ParseHealth(out.Want(derp.Health)); got != "" {
			t.Errorf("told %q", got)
		}
		out.Send(in, "thanks")
		in.WantPacket(out, "thanks")
		in.Send(out, "welcome")
		out.WantPacket(in, "welcome")
		if st := s.Stats(); st.Waiting != 0 || st.Connections != 2 || st.Promoted != 1 || st.HomeConnections != 1 {
			t.Errorf("stats %+v", st)
		}
		out.Close()
		in.WantGone(out.Key.Public(), derp.GoneDisconnected)
		if st := s.Stats(); st.Connections != 1 || st.HomeConnections != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestLobbyTexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, func(o *relay.Options) { o.Admit = &tenants{} })
		out := lobbied(t, s)
		id := idOf(t, s, out.Key.Public())
		s.Judge(id, relay.Verdict{Reason: "not_listed", Lobby: plea})
		out.WantNothing(time.Second) // it knows
		s.Judge(id, relay.Verdict{Reason: "unavailable", Lobby: strings.Repeat("x", 5000)})
		if got := derp.ParseHealth(out.Want(derp.Health)); len(got) != 1000 {
			t.Errorf("told %d bytes", len(got))
		}
		s.Judge(id, relay.Verdict{Reason: "banned"})
		out.WantClosed()
		var refused *relay.RefusedError
		if err := <-out.Done; !errors.As(err, &refused) || refused.Reason != "banned" {
			t.Errorf("ended with %v", err)
		}
		if s.Judge(id, member("")) {
			t.Error("promoted a peer that has left")
		}
	})
}

func TestLobbyIsBounded(t *testing.T) {
	run(t, "by address and in all", func(t *testing.T) {
		s := start(t, func(o *relay.Options) { o.Admit, o.LobbySize = &tenants{}, 10 })
		from := func(ip string) relaytest.Option {
			return relaytest.From(netip.AddrPortFrom(netip.MustParseAddr(ip), 1))
		}
		quiet := lobbied(t, s, from("192.0.2.1"))
		var loud []*relaytest.Peer
		for range 9 {
			loud = append(loud, lobbied(t, s, from("2001:db8::1")))
		}
		loud[0].WantClosed() // the ninth of its address
		lobbied(t, s, from("192.0.2.2"))
		lobbied(t, s, from("192.0.2.3"))
		loud[1].WantClosed() // the eleventh of all
		quiet.Sync()
		loud[2].Sync()
		if st := s.Stats(); st.Waiting != 10 || st.LobbyEvicted != 2 {
			t.Errorf("stats %+v", st)
		}
	})
	run(t, "in time", func(t *testing.T) {
		s := start(t, func(o *relay.Options) { o.Admit, o.LobbyTime = &tenants{}, 90*time.Second })
		out := lobbied(t, s)
		out.Want(derp.KeepAlive) // after 60 s
		began := time.Now()
		out.WantClosed()
		if left := time.Since(began); left < 24*time.Second || left > 32*time.Second {
			t.Errorf("cut off %v after that", left)
		}
	})
	run(t, "in bytes", func(t *testing.T) {
		s := start(t, func(o *relay.Options) { o.Admit = &tenants{} })
		out := lobbied(t, s)
		frame := derp.AppendSendPacket(nil, key.NewPrivate().Public(), make([]byte, 1000))
		for range 10 * 60 { // ten a second are a client's
			out.Put(frame)
			time.Sleep(100 * time.Millisecond)
		}
		for range 1000 {
			if _, err := out.Write(frame); err != nil {
				break
			}
		}
		if err := <-out.Done; err == nil || !strings.Contains(err.Error(), "in the lobby") {
			t.Errorf("ended with %v", err)
		}
		if st := s.Stats(); st.LobbyFloods != 1 {
			t.Errorf("stats %+v", st)
		}
	})
}

// Peers of another realm are as if they were not here.
func TestRealms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := []key.Private{key.NewPrivate(), key.NewPrivate(), key.NewPrivate()}
		a := &tenants{known: map[key.Public]relay.Verdict{
			keys[0].Public(): {Admitted: true, Tenant: "red", Realm: 1},
			keys[1].Public(): {Admitted: true, Tenant: "red", Realm: 1},
			keys[2].Public(): {Admitted: true, Tenant: "blue", Realm: 2},
		}}
		s := start(t, func(o *relay.Options) { o.Admit = a })
		red, same, blue := relaytest.Dial(t, s, relaytest.As(keys[0])), relaytest.Dial(t, s, relaytest.As(keys[1])), relaytest.Dial(t, s, relaytest.As(keys[2]))
		red.Send(same, "hello")
		same.WantPacket(red, "hello")
		red.Send(blue, "hello")
		red.Put(derp.AppendSendPacket(nil, blue.Key.Public(), []byte(relaytest.Disco("there"))))
		red.WantGone(blue.Key.Public(), derp.GoneNotHere)
		blue.WantNothing(time.Second)
		if d := s.Stats().Dropped["other_tenant"]; d["other"].Packets != 1 || d["disco"].Packets != 1 {
			t.Errorf("drops %+v", d)
		}
		red.Close()
		same.WantGone(red.Key.Public(), derp.GoneDisconnected)
		blue.WantNothing(time.Second) // it never knew
	})
}

func TestDismiss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := key.NewPrivate()
		a := &tenants{known: map[key.Public]relay.Verdict{k.Public(): member("home")}}
		s := start(t, func(o *relay.Options) { o.Admit = a })
		one, two, out := relaytest.Dial(t, s, relaytest.As(k)), relaytest.Dial(t, s, relaytest.As(k)), lobbied(t, s)
		if n := s.Dismiss(k.Public(), "kicked", nil); n != 2 {
			t.Errorf("%d dismissed", n)
		}
		one.WantClosed()
		two.WantClosed()
		var dismissed *relay.DismissedError
		if err := <-one.Done; !errors.As(err, &dismissed) || dismissed.Reason != "kicked" {
			t.Errorf("ended with %v", err)
		}
		if n := s.Dismiss(key.Public{}, "kicked", func(m relay.Member) bool { return m.Waiting }); n != 1 {
			t.Errorf("%d dismissed", n)
		}
		out.WantClosed()
	})
}

// Of two connections of one key that waited, the newer receives, in whatever order
// they are promoted: the older one may be dead. When it speaks, it does.
func TestPromotedTwice(t *testing.T) {
	for name, order := range map[string][]int{"older first": {0, 1}, "newer first": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mine := key.NewPrivate()
				s := start(t, func(o *relay.Options) {
					o.Admit = &tenants{known: map[key.Public]relay.Verdict{mine.Public(): member("")}}
				})
				in := relaytest.Dial(t, s, relaytest.As(mine))
				twice := key.NewPrivate()
				out := []*relaytest.Peer{lobbied(t, s, relaytest.As(twice)), lobbied(t, s, relaytest.As(twice))}
				ids := []uint64{}
				for _, m := range s.Members() {
					if m.Waiting {
						ids = append(ids, m.ID)
					}
				}
				slices.Sort(ids)
				for _, i := range order {
					s.Judge(ids[i], member(""))
					out[i].Want(derp.Health)
				}
				in.Send(out[0], "to the newer")
				out[1].WantPacket(in, "to the newer")
				out[0].WantNothing(time.Second)
				out[0].Sync() // it speaks
				in.Send(out[0], "to who spoke last")
				out[0].WantPacket(in, "to who spoke last")
			})
		})
	}
}

// Whoever lets connections in is told of a promotion, and not of a guest's.
func TestPromotionIsTold(t *testing.T) {
	for name, v := range map[string]relay.Verdict{"member": member(""), "guest": {Admitted: true, Guest: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := start(t, func(o *relay.Options) { o.Admit = &tenants{} })
				told := make(chan bool, 4)
				p := lobbied(t, s, relaytest.LoggedIn(func(admitted bool) { told <- admitted }))
				s.Judge(idOf(t, s, p.Key.Public()), v)
				p.Want(derp.Health)
				if first, then := <-told, <-told; first || then == v.Guest {
					t.Errorf("told %v, then %v", first, then)
				}
			})
		})
	}
}

// Promotion, eviction and departure may meet in any way.
func TestLobbyRaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, func(o *relay.Options) { o.Admit, o.LobbySize = &tenants{}, 4 })
		stop := make(chan struct{})
		var judges sync.WaitGroup
		for range 2 {
			judges.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					for _, m := range s.Members() {
						s.Judge(m.ID, member(fmt.Sprint(m.ID)))
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		var clients sync.WaitGroup
		for i := range 8 {
			clients.Go(func() {
				for j := range 30 {
					p := relaytest.Raw(t, s, relaytest.From(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 3)}), 1)))
					if p.Login(derp.ClientParams{Version: 2}) == nil && j%3 > 0 {
						_, _ = p.Write(derp.AppendPing(nil, derp.PingData{})) // it may be evicted already
						time.Sleep(time.Duration(j%4) * time.Millisecond)
					}
					p.Close()
				}
			})
		}
		clients.Wait()
		close(stop)
		judges.Wait()
		synctest.Wait()
		if st := s.Stats(); st.Connections != 0 || st.Waiting != 0 || st.Peers != 0 || st.HomeConnections != 0 {
			t.Errorf("left over: %+v", st)
		}
	})
}
