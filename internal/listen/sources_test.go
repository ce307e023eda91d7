package listen

import (
	"net"
	"net/netip"
	"testing"
)

// from is a connection that comes from an address.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

func comesFrom(text string) net.Conn {
	return from{addr: &net.TCPAddr{IP: net.ParseIP(text), Port: 1}}
}

func TestOneSourceCannotFillTheDoor(t *testing.T) {
	s := sources{limit: 2}
	var leaves []func()
	for range 2 {
		leave, ok := s.enter(comesFrom("198.51.100.1"))
		if !ok {
			t.Fatal("refused within its share")
		}
		leaves = append(leaves, leave)
	}
	for text, want := range map[string]bool{
		"198.51.100.1": false, "::ffff:198.51.100.1": false, "198.51.100.2": true, "127.0.0.1": true, "2001:db8::1": true,
	} {
		leave, ok := s.enter(comesFrom(text))
		if ok != want {
			t.Errorf("%s: %v", text, ok)
		}
		if ok {
			leave()
		}
	}
	leaves[0]()
	if _, ok := s.enter(comesFrom("198.51.100.1")); !ok {
		t.Error("refused although one has left")
	}
	for range 2 {
		if _, ok := s.enter(comesFrom("2001:db8:0:1::a")); !ok {
			t.Error("refused within its share")
		}
	}
	if _, ok := s.enter(comesFrom("2001:db8:0:1::b")); ok {
		t.Error("another address of one /64 was let in")
	}
	if _, ok := s.enter(comesFrom("2001:db8:0:2::b")); !ok {
		t.Error("another /64 was refused")
	}
	for range 100 {
		if leave, ok := s.enter(comesFrom("127.0.0.1")); !ok || leave == nil {
			t.Fatal("loopback is bounded")
		}
	}
	if len(s.count) != 3 {
		t.Errorf("%d sources are held", len(s.count))
	}
}

func TestProxiesAreNotOneSource(t *testing.T) {
	s := sources{limit: 1, exempt: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
	for range 10 {
		if _, ok := s.enter(comesFrom("::ffff:198.51.100.1")); !ok {
			t.Fatal("a proxy is bounded")
		}
	}
	_, first := s.enter(comesFrom("192.0.2.1"))
	_, second := s.enter(comesFrom("192.0.2.1"))
	if !first || second {
		t.Errorf("another source: %v, %v", first, second)
	}
}
