package relay_test

import (
	"context"
	"errors"
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

type refuseAll struct{}

func (refuseAll) Admit(context.Context, key.Public, netip.Addr) relay.Verdict {
	return relay.Verdict{Reason: "not_listed"}
}

func (refuseAll) Seated(relay.Verdict) {}

func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, func(o *relay.Options) { o.Admit = refuseAll{} })
		a := relaytest.Raw(t, s)
		if err := a.Login(derp.ClientParams{Version: 2}); err == nil {
			t.Fatal("logged in")
		}
		var refused *relay.RefusedError
		if err := <-a.Done; !errors.As(err, &refused) || refused.Peer != a.Key.Public() || refused.Reason != "not_listed" {
			t.Errorf("ended with %v", err)
		}
		if st := s.Stats(); st.Refused != 1 || st.LoginFailures != 1 || st.Connections != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

// TestLogin tries what a client may say at login.
func TestLogin(t *testing.T) {
	secret := strings.Repeat("0f", 32)
	for name, c := range map[string]struct {
		msg  string
		ok   bool
		mesh bool
	}{
		"typical":              {`{"version":2,"CanAckPings":true}`, true, false},
		"empty object":         {`{}`, true, false},
		"null":                 {`null`, true, false},
		"unknown fields":       {`{"version":99,"future":{"a":[1]}}`, true, false},
		"names in other case":  {`{"VERSION":1,"canackpings":false,"MeshKey":"` + secret + `"}`, true, true},
		"wrong mesh key":       {`{"meshKey":"` + strings.Repeat("10", 32) + `"}`, true, false},
		"zero mesh key":        {`{"meshKey":"` + strings.Repeat("00", 32) + `"}`, true, false},
		"short mesh key":       {`{"meshKey":"0f"}`, false, false},
		"empty mesh key":       {`{"meshKey":""}`, false, false},
		"null mesh key":        {`{"meshKey":null}`, false, false},
		"array":                {`[]`, false, false},
		"nothing":              {``, false, false},
		"not JSON":             {`hello`, false, false},
		"version is no number": {`{"version":"2"}`, false, false},
	} {
		run(t, name, func(t *testing.T) {
			meshKey, err := key.ParseMesh(secret)
			if err != nil {
				t.Fatal(err)
			}
			s := start(t, func(o *relay.Options) { o.MeshKey = meshKey })
			a := relaytest.Raw(t, s)
			a.Want(derp.ServerKey)
			shared, err := a.Key.Shared(s.PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			pub := a.Key.Public()
			a.Put(derp.AppendFrame(nil, derp.ClientInfo, shared.Seal(pub[:], []byte(c.msg))))
			if !c.ok {
				a.WantClosed()
				return
			}
			info, err := derp.OpenServerInfo(shared, a.Want(derp.ServerInfo))
			if err != nil || info != (derp.ServerParams{Version: 2}) {
				t.Errorf("server info %+v, %v", info, err)
			}
			a.Put(derp.AppendWatchConns(nil))
			if c.mesh {
				a.Want(derp.PeerPresent)
			} else {
				a.WantClosed()
			}
		})
	}
}

// TestBadLogin sends what cannot be a login. Nothing but the greeting may come back.
func TestBadLogin(t *testing.T) {
	stranger := key.NewPrivate().Public()
	for name, frame := range map[string][]byte{
		"another frame first": derp.AppendPing(nil, derp.PingData{}),
		"too short":           derp.AppendFrame(nil, derp.ClientInfo, make([]byte, 55)),
		"too long":            derp.AppendHeader(nil, derp.ClientInfo, derp.MaxClientInfo+1),
		"zero key":            derp.AppendFrame(nil, derp.ClientInfo, make([]byte, 100)),
		"box of another key":  derp.AppendFrame(nil, derp.ClientInfo, append(stranger[:], make([]byte, 80)...)),
		"garbage":             []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		run(t, name, func(t *testing.T) {
			a := relaytest.Raw(t, start(t))
			a.Want(derp.ServerKey)
			a.Put(frame)
			a.WantClosed()
			if err := <-a.Done; err == nil {
				t.Error("no reason given")
			}
		})
	}
	run(t, "nothing at all", func(t *testing.T) {
		a := relaytest.Raw(t, start(t))
		a.Want(derp.ServerKey)
		began := time.Now()
		a.WantClosed()
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("closed after %v", d)
		}
	})
	run(t, "byte by byte", func(t *testing.T) {
		a := relaytest.Raw(t, start(t))
		a.Want(derp.ServerKey)
		go func() {
			for _, b := range derp.AppendFrame(nil, derp.ClientInfo, make([]byte, 100))[:9] {
				time.Sleep(time.Second)
				if _, err := a.Write([]byte{b}); err != nil {
					return
				}
			}
		}()
		began := time.Now()
		a.WantClosed()
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("closed after %v", d)
		}
	})
	run(t, "does not read the greeting", func(t *testing.T) {
		a := relaytest.Raw(t, start(t))
		began := time.Now()
		<-a.Done
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("given up after %v", d)
		}
	})
}
