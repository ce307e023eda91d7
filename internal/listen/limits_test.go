package listen

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
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
	l := NewLimits(LimitOptions{Pending: 2})
	var stays []*stay
	for range 2 {
		s, why := l.enter(comesFrom("198.51.100.1"))
		if why != taken {
			t.Fatal("refused within its share")
		}
		stays = append(stays, s)
	}
	for text, want := range map[string]refusal{
		"198.51.100.1": refusedPending, "::ffff:198.51.100.1": refusedPending, "198.51.100.2": taken, "127.0.0.1": taken, "2001:db8::1": taken,
	} {
		s, why := l.enter(comesFrom(text))
		if why != want {
			t.Errorf("%s: %v", text, why)
		}
		if why == taken {
			s.leave(false)
		}
	}
	stays[0].leave(false)
	stays[0].leave(false) // again must not count twice
	if _, why := l.enter(comesFrom("198.51.100.1")); why != taken {
		t.Error("refused although one has left")
	}
	if _, why := l.enter(comesFrom("198.51.100.1")); why != refusedPending {
		t.Error("one that left twice made two places")
	}
	for range 2 {
		if _, why := l.enter(comesFrom("2001:db8:0:1::a")); why != taken {
			t.Error("refused within its share")
		}
	}
	if _, why := l.enter(comesFrom("2001:db8:0:1::b")); why != refusedPending {
		t.Error("another address of one /64 was let in")
	}
	if _, why := l.enter(comesFrom("2001:db8:0:2::b")); why != taken {
		t.Error("another /64 was refused")
	}
}

func TestWhoIsExempt(t *testing.T) {
	l := NewLimits(LimitOptions{Pending: 1, Rate: 1, Exempt: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	unix := from{addr: &net.UnixAddr{Name: "@", Net: "unix"}}
	for range 100 {
		for _, c := range []net.Conn{comesFrom("::ffff:198.51.100.1"), comesFrom("127.0.0.1"), comesFrom("::1"), unix} {
			s, why := l.enter(c)
			if why != taken {
				t.Fatalf("%v is bounded", c.RemoteAddr())
			}
			s.leave(true)
		}
	}
	if len(l.sources) != 0 {
		t.Errorf("%d sources are known", len(l.sources))
	}
}

func TestRateOfOneSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimits(LimitOptions{Rate: 30, Burst: 200})
		come := func(n int, admitted bool) (in int) {
			for range n {
				s, why := l.enter(comesFrom("192.0.2.1"))
				switch why {
				case taken:
					in++
					s.leave(admitted)
				case refusedRate:
				default:
					t.Fatal(why)
				}
			}
			return in
		}
		if n := come(1000, false); n != 200 {
			t.Errorf("%d of a burst", n)
		}
		if _, why := l.enter(comesFrom("192.0.2.2")); why != taken {
			t.Errorf("another source pays for it: %v", why)
		}
		time.Sleep(time.Second)
		if n := come(1000, false); n != 30 {
			t.Errorf("%d a second later", n)
		}
		time.Sleep(time.Second)
		if n := come(10_000, true); n != 10_000 {
			t.Errorf("%d of 10000 that are admitted, as from behind a carrier's NAT", n)
		}
		if n := come(1000, false); n != 30 {
			t.Errorf("%d after those: they counted", n)
		}
	})
}

// A WebSocket is first handed to net/http, and logs in later.
func TestAdmittedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimits(LimitOptions{Rate: 1, Burst: 1})
		s, _ := l.enter(comesFrom("192.0.2.1"))
		s.leave(false)
		if _, why := l.enter(comesFrom("192.0.2.1")); why != refusedRate {
			t.Error(why)
		}
		s.leave(true)
		s.leave(true)
		if _, why := l.enter(comesFrom("192.0.2.1")); why != taken {
			t.Error("its share was not given back")
		}
		if _, why := l.enter(comesFrom("192.0.2.1")); why != refusedRate {
			t.Error("its share was given back twice")
		}
	})
}

// With every place taken by busy sources, new ones share what is left; nobody known
// suffers, nothing grows, and quiet sources make room.
func TestTableIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimits(LimitOptions{Pending: 64, Rate: 30, Burst: 200})
		home := comesFrom("192.0.2.1")
		if _, why := l.enter(home); why != taken {
			t.Fatal(why)
		}
		in := 0
		for i := range 1_000_000 {
			if _, why := l.enter(comesFrom(fmt.Sprintf("2001:db8:%x:%x::1", i>>16, i&0xffff))); why == taken {
				in++
			}
		}
		if len(l.sources) != maxSources || l.oldest.Len() != maxSources {
			t.Fatalf("%d sources are known, %d in the list", len(l.sources), l.oldest.Len())
		}
		if want := maxSources - 1 + restShare*64; in != want {
			t.Errorf("%d connections of a million sources are unfinished, want %d", in, want)
		}
		if _, why := l.enter(home); why != taken {
			t.Errorf("a known source suffers: %v", why)
		}
		// What is unfinished ends; some seconds later all is forgotten that is in the way.
		for e := l.oldest.Front(); e != nil; e = e.Next() {
			e.Value.(*source).pending = 0
		}
		time.Sleep(time.Second)
		for i := range maxSources {
			s, why := l.enter(comesFrom(fmt.Sprintf("10.0.%d.%d", i>>8, i&0xff)))
			if why != taken || s.source == &l.rest {
				t.Fatalf("source %d: %v, with the rest: %v", i, why, s.source == &l.rest)
			}
		}
	})
}

func TestTableMemory(t *testing.T) {
	l := defaultLimits()
	before := heap()
	for i := range 1_000_000 {
		if s, why := l.enter(comesFrom(fmt.Sprintf("2001:db8:%x:%x::1", i>>16, i&0xffff))); why == taken {
			s.leave(false)
		}
	}
	grown := heap() - before
	t.Logf("a million sources: %d known, %d KiB", len(l.sources), grown>>10)
	if grown > 4<<20 {
		t.Errorf("the table takes %d KiB", grown>>10)
	}
	runtime.KeepAlive(l)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestAcceptRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimits(LimitOptions{AcceptRate: 10, AcceptBurst: 20})
		come := func() (in int) {
			for range 100 {
				if l.admitRate() {
					in++
				}
			}
			return in
		}
		if n := come(); n != 20 {
			t.Errorf("%d at once", n)
		}
		time.Sleep(time.Second)
		if n := come(); n != 10 {
			t.Errorf("%d a second later", n)
		}
	})
}
