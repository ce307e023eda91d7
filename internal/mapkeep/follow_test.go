package mapkeep

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
)

func ip(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

// home is a home line: the test says what is seen of it.
type home struct {
	mu    sync.Mutex
	seen  Seen
	err   error
	looks int
	log   []string // of changes
}

func (h *home) is(v4, v6 string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen, h.err = Seen{Sight{ip(v4), true}, Sight{ip(v6), true}}, nil
}

func (h *home) fails(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen, h.err = Seen{}, err
}

func (h *home) follower(dir string) *Follower {
	return NewFollower(FollowOptions{
		StateDir: dir,
		Sources: []AddressSource{{Name: "test", Look: func(context.Context, derpmap.Addresses) (Seen, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.looks++
			return h.seen, h.err
		}}},
		Changed: func(_, now derpmap.Addresses) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.log = append(h.log, fmt.Sprintf("%v %v", now.IPv4, now.IPv6))
		},
	})
}

func (h *home) changes() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.log, ", ")
}

func TestFollowsAChangingAddress(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := &home{}
		h.is("198.51.100.1", "2001:db8::1")
		f := h.follower(dir)
		if _, ok := f.Addresses(); ok {
			t.Error("it knows before it has looked")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var served sync.WaitGroup
		served.Go(func() { _ = f.Serve(ctx) })
		want := func(what, v4, v6, log string) {
			t.Helper()
			synctest.Wait()
			a, ok := f.Addresses()
			if !ok || a.IPv4 != ip(v4) || a.IPv6 != ip(v6) || h.changes() != log {
				t.Errorf("%s: %+v %v, changes %q", what, a, ok, h.changes())
			}
		}
		first := "198.51.100.1 2001:db8::1"
		want("the first counts at once", "198.51.100.1", "2001:db8::1", first)
		time.Sleep(time.Second)
		h.is("198.51.100.2", "2001:db8::1")
		time.Sleep(lookEvery)
		want("seen once", "198.51.100.1", "2001:db8::1", first)
		h.is("198.51.100.1", "2001:db8::1")
		time.Sleep(confirmAfter)
		want("a slip", "198.51.100.1", "2001:db8::1", first)
		h.is("198.51.100.2", "")
		time.Sleep(lookEvery + confirmAfter)
		log := first + ", 198.51.100.2 invalid IP"
		want("seen twice", "198.51.100.2", "", log)
		h.fails(errors.New("server misbehaving"))
		time.Sleep(unseenAfter + 2*time.Minute)
		want("nobody tells", "198.51.100.2", "", log)
		if p := f.Problems(time.Now()); len(p) != 1 || !strings.Contains(p[0], "the last one stays published: test: server misbehaving") {
			t.Errorf("problems %q", p)
		}
		if s := f.Stats(); s.IPv4 != "198.51.100.2" || s.IPv6 != "" || s.Error == "" || s.AgeSeconds < 15*60 {
			t.Errorf("stats %+v", s)
		}
		if a, ok := KeptAddresses(dir); !ok || a.IPv4 != ip("198.51.100.2") {
			t.Errorf("kept: %+v %v", a, ok)
		}
		again := h.follower(dir) // the next start, with nobody to tell
		if a, ok := again.Addresses(); !ok || a.IPv4 != ip("198.51.100.2") {
			t.Errorf("after a restart: %+v %v", a, ok)
		}
		h.is("198.51.100.2", "")
		f.Set(f.sources) // a reload
		synctest.Wait()
		if p := f.Problems(time.Now()); len(p) != 0 || f.Stats().Error != "" {
			t.Errorf("problems %q, stats %+v", p, f.Stats())
		}
		f.Set(nil)
		if _, ok := f.Addresses(); ok || f.Stats() != nil || f.Problems(time.Now().Add(time.Hour)) != nil {
			t.Error("without sources it tells addresses")
		}
		cancel()
		served.Wait()
	})
}

func TestSourcesInTurn(t *testing.T) {
	source := func(s Seen, err error) AddressSource {
		return AddressSource{Name: "s", Look: func(context.Context, derpmap.Addresses) (Seen, error) { return s, err }}
	}
	four, six := Sight{ip("198.51.100.1"), true}, Sight{ip("2001:db8::1"), true}
	none, unknown := Sight{Known: true}, Sight{}
	for name, tt := range map[string]struct {
		sources []AddressSource
		want    Seen
	}{
		"the first decides": {[]AddressSource{source(Seen{four, six}, nil), source(Seen{Sight{ip("198.51.100.2"), true}, six}, nil)}, Seen{four, six}},
		"the next fills in": {[]AddressSource{source(Seen{none, six}, nil), source(Seen{four, none}, nil)}, Seen{four, six}},
		"none, for sure":    {[]AddressSource{source(Seen{four, none}, nil), source(Seen{four, none}, nil)}, Seen{four, none}},
		"none, perhaps":     {[]AddressSource{source(Seen{four, none}, nil), source(Seen{}, errors.New("x"))}, Seen{four, unknown}},
		"one is down":       {[]AddressSource{source(Seen{}, errors.New("x")), source(Seen{four, none}, nil)}, Seen{four, unknown}},
	} {
		if got, _ := lookAt(t.Context(), tt.sources, derpmap.Addresses{}); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}

func TestByDNS(t *testing.T) {
	look := func(addrs ...string) (Seen, error) {
		s := ByDNS("home.example", func(context.Context, string, string) ([]netip.Addr, error) {
			var list []netip.Addr
			for _, a := range addrs {
				list = append(list, ip(a))
			}
			if list == nil {
				return nil, errors.New("no such host")
			}
			return list, nil
		})
		return s.Look(t.Context(), derpmap.Addresses{IPv4: ip("198.51.100.9")})
	}
	if s, err := look("198.51.100.1", "::ffff:198.51.100.9", "2001:db8::1"); err != nil || s.IPv4.Addr != ip("198.51.100.9") || s.IPv6.Addr != ip("2001:db8::1") {
		t.Errorf("what is published does not stay: %+v, %v", s, err)
	}
	if s, err := look("198.51.100.2", "198.51.100.1"); err != nil || s.IPv4.Addr != ip("198.51.100.1") || s.IPv6 != (Sight{Known: true}) {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := look("192.168.1.2"); err == nil || !strings.Contains(err.Error(), "192.168.1.2") {
		t.Errorf("a private address: %v", err)
	}
	if s, err := look(); err == nil || s.IPv4.Known {
		t.Errorf("no answer: %+v, %v", s, err)
	}
}

func TestBySTUN(t *testing.T) {
	interfaces := func() ([]netip.Addr, error) {
		return []netip.Addr{ip("192.168.1.2"), ip("2001:db8::aaaa"), ip("2001:db8::1"), ip("2001:db8:1::1")}, nil
	}
	type answers map[string]any // by network: an address or an error
	look := func(a answers, now string) (Seen, error) {
		ask := func(_ context.Context, network, _ string) (netip.AddrPort, error) {
			switch v := a[network].(type) {
			case error:
				return netip.AddrPort{}, v
			case string:
				return netip.AddrPortFrom(ip(v), 1), nil
			}
			return netip.AddrPort{}, &net.AddrError{Err: "no suitable address"}
		}
		return BySTUN("stun.example:3478", ask, interfaces).Look(t.Context(), derpmap.Addresses{IPv6: ip(now)})
	}
	four, none := Sight{ip("198.51.100.1"), true}, Sight{Known: true}
	for name, tt := range map[string]struct {
		answers answers
		now     string
		want    Seen
		failed  bool
	}{
		"both; the lasting address of the network": {answers{"udp4": "198.51.100.1", "udp6": "2001:db8::ffff"}, "", Seen{four, Sight{ip("2001:db8::1"), true}}, false},
		"what is published stays":                  {answers{"udp4": "198.51.100.1", "udp6": "2001:db8::ffff"}, "2001:db8::aaaa", Seen{four, Sight{ip("2001:db8::aaaa"), true}}, false},
		"a new prefix":                             {answers{"udp4": "198.51.100.1", "udp6": "2001:db8:2::7"}, "2001:db8::1", Seen{four, Sight{ip("2001:db8:2::7"), true}}, false},
		"a server of IPv4 alone":                   {answers{"udp4": "198.51.100.1"}, "", Seen{four, none}, false},
		"a machine of IPv4 alone":                  {answers{"udp4": "198.51.100.1", "udp6": &net.OpError{Err: syscall.ENETUNREACH}}, "", Seen{four, none}, false},
		"silence over IPv6":                        {answers{"udp4": "198.51.100.1", "udp6": errors.New("silence")}, "", Seen{four, Sight{}}, true},
		"silence":                                  {answers{"udp4": errors.New("silence"), "udp6": errors.New("silence")}, "", Seen{}, true},
		"a server in this network":                 {answers{"udp4": "192.168.1.2"}, "", Seen{Sight{}, none}, true},
		"nothing at all":                           {answers{}, "", Seen{}, true},
	} {
		if got, err := look(tt.answers, tt.now); got != tt.want || (err != nil) != tt.failed {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestByInterfaces(t *testing.T) {
	s := ByInterfaces(func() ([]netip.Addr, error) {
		return []netip.Addr{ip("192.168.1.2"), ip("2001:db8::2"), ip("2001:db8::1")}, nil
	})
	if got, err := s.Look(t.Context(), derpmap.Addresses{IPv6: ip("2001:db8::2")}); err != nil || got.IPv4 != (Sight{Known: true}) || got.IPv6.Addr != ip("2001:db8::2") {
		t.Errorf("%+v, %v", got, err)
	}
	bad := ByInterfaces(func() ([]netip.Addr, error) { return nil, errors.New("x") })
	if _, err := bad.Look(t.Context(), derpmap.Addresses{}); err == nil {
		t.Error("no error")
	}
}
