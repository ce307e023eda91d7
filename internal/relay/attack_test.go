package relay_test

import (
	"bytes"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/relaytest"
)

// What a login took of the budget comes back, however the login ends.
func TestBudgetComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		for range 300 {
			p := relaytest.Raw(t, s)
			p.Want(derp.ServerKey)
			p.Put(append(derp.AppendHeader(nil, derp.ClientInfo, derp.MaxClientInfo), make([]byte, derp.MaxClientInfo)...))
			p.WantClosed()
		}
		for range 300 { // much behind a login is paid for too
			p := relaytest.Raw(t, s)
			p.Want(derp.ServerKey)
			shared, err := p.Key.Shared(s.PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			hello, err := derp.AppendClientInfo(nil, p.Key.Public(), shared, derp.ClientParams{Version: 2})
			if err != nil {
				t.Fatal(err)
			}
			hello = derp.AppendSendPacket(hello, p.Key.Public(), make([]byte, 3000))
			go func() { _, _ = p.Write(hello) }()
			p.Want(derp.ServerInfo)
			p.Close()
		}
		if st := s.Stats(); st.LoginNoRoom != 0 {
			t.Errorf("%d found no room", st.LoginNoRoom)
		}
	})
}

// A packet from the lobby is not kept until it is whole.
func TestLobbyKeepsNoPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &tenants{known: map[key.Public]relay.Verdict{}}
		s := start(t, func(o *relay.Options) { o.Admit = a })
		p := lobbied(t, s)
		frame := derp.AppendSendPacket(nil, p.Key.Public(), bytes.Repeat([]byte{7}, derp.MaxPacket))
		p.Put(frame[:1000])
		synctest.Wait()
		if got := s.Stats().Dropped["not_admitted"]["other"]; got.Packets != 1 || got.Bytes != derp.MaxPacket {
			t.Errorf("with a part of it: %+v", got)
		}
		p.Put(frame[1000:])
		p.Put(derp.AppendSendPacket(nil, p.Key.Public(), []byte(relaytest.Disco("x"))))
		p.Put(derp.AppendSendPacket(nil, p.Key.Public(), nil))
		p.Sync()
		if got := s.Stats().Dropped["not_admitted"]; got["other"].Packets != 2 || got["disco"].Packets != 1 {
			t.Errorf("with all of it: %+v", got)
		}
	})
}

// Those who wait get so many turns a second together, whatever they send.
func TestLobbyIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &tenants{known: map[key.Public]relay.Verdict{}}
		s := start(t, func(o *relay.Options) { o.Admit, o.WriteTimeout = a, 0 })
		var pingers sync.WaitGroup
		began := time.Now()
		ping := derp.AppendPing(nil, derp.PingData{1})
		const each = 500
		for i := range 8 {
			p := lobbied(t, s, relaytest.From(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1)))
			pingers.Go(func() {
				for range each {
					p.Put(ping)
					p.Want(derp.Pong)
				}
			})
		}
		pingers.Wait()
		took := time.Since(began)
		if least := time.Duration(8*each-1024) * time.Second / 1024; took < least-50*time.Millisecond || took > least+2*time.Second {
			t.Errorf("%d pings took %v, want about %v", 8*each, took, least)
		}
	})
}
