package derpmap_test

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/detour-relay/detour/internal/derpmap"
)

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		out = append(out, addr(s))
	}
	return out
}

func TestChoosePublic(t *testing.T) {
	for _, s := range []string{
		"1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0",
		"198.17.255.255", "198.20.0.0", "223.255.255.255", "192.0.1.0", "192.0.2.1", "198.51.100.7", "203.0.113.9",
		"2001:db8::7", "3fff::1", "2001:1::1", "2001:4860:4860::8888", "2003::1", "3fff:ffff::1",
	} {
		a := addr(s)
		want := derpmap.Addresses{IPv4: a}
		if a.Is6() {
			want = derpmap.Addresses{IPv6: a}
		}
		if got := derpmap.Choose(addrs(s)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v", s, got)
		}
	}
}

func TestChoosePrivate(t *testing.T) {
	for _, s := range []string{
		"0.0.0.1", "10.0.0.5", "10.255.255.255", "100.64.0.1", "100.127.255.255", "172.16.0.1", "172.31.255.255", "192.0.0.2", "192.88.99.1",
		"192.168.1.2", "198.18.0.1", "198.19.255.255", "240.0.0.1", "255.255.255.254",
		"fc00::1", "fd7a:115c:a1e0::1", "fec0::1", "2001:0:4136::1", "2001:2::1", "2001:20::1", "2002:c633:6407::1", "64:ff9b::c633:6407", "4000::1",
	} {
		want := derpmap.Addresses{Private: addrs(s)}
		if got := derpmap.Choose(addrs(s)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v", s, got)
		}
	}
}

func TestChooseSkips(t *testing.T) {
	for _, s := range []string{
		"", "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1%eth0", "fe80::1", "224.0.0.1", "ff02::1", "255.255.255.255",
		"::ffff:127.0.0.1",
	} {
		if got := derpmap.Choose(addrs(s)); !reflect.DeepEqual(got, derpmap.Addresses{}) {
			t.Errorf("%q: got %+v", s, got)
		}
	}
}

func TestChooseOrder(t *testing.T) {
	in := addrs("fe80::1%eth0", "2001:db8::9", "203.0.113.9", "172.17.0.1", "127.0.0.1", "", "fd00::1", "::ffff:198.51.100.7",
		"198.51.100.7", "2001:db8::8", "10.0.0.5", "10.0.0.5", "100.64.0.3")
	want := derpmap.Addresses{
		IPv4:    addr("198.51.100.7"),
		IPv6:    addr("2001:db8::8"),
		Private: addrs("10.0.0.5", "100.64.0.3", "172.17.0.1", "fd00::1"),
	}
	before := slices.Clone(in)
	if got := derpmap.Choose(in); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if !slices.Equal(in, before) {
		t.Error("the caller's slice was changed")
	}
	slices.Reverse(in)
	if got := derpmap.Choose(in); !reflect.DeepEqual(got, want) {
		t.Errorf("in another order: got %+v", got)
	}
}
