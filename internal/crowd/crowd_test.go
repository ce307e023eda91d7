package crowd

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func from(text string) netip.Prefix { return Source(netip.MustParseAddr(text)) }

func TestSource(t *testing.T) {
	for text, want := range map[string]string{
		"203.0.113.7":           "203.0.113.7/32",
		"::ffff:203.0.113.7":    "203.0.113.7/32",
		"2001:db8:1:2:3:4:5:6":  "2001:db8:1:2::/64",
		"fe80::1%eth0":          "fe80::/64",
		"2001:db8:1:2:ffff::99": "2001:db8:1:2::/64",
	} {
		if got := from(text).String(); got != want {
			t.Errorf("Source(%s) = %s, want %s", text, got, want)
		}
	}
	if got := Source(netip.Addr{}); got.IsValid() {
		t.Errorf("Source of no address = %s", got)
	}
}

func TestSourceLosesItsOwnOldest(t *testing.T) {
	s := New[string](10, 2)
	a := from("192.0.2.1")
	s.Add("quiet", from("192.0.2.2"))
	s.Add("1", a)
	s.Add("2", a)
	if lost, some := s.Add("3", a); !some || lost != "1" {
		t.Errorf("lost %q, %v", lost, some)
	}
	if _, some := s.Add("2", a); some { // seen again: it is the newest now
		t.Error("an entry that was there took another's place")
	}
	if lost, _ := s.Add("4", a); lost != "3" {
		t.Errorf("lost %q, want the one not seen for longest", lost)
	}
	if !s.Has("quiet") {
		t.Error("another source paid for it")
	}
}

func TestFullSetTakesFromTheLargest(t *testing.T) {
	s := New[int](4, 8)
	loud := from("192.0.2.1")
	s.Add(0, from("192.0.2.2"))
	for i := 1; i < 4; i++ {
		s.Add(i, loud)
	}
	if lost, some := s.Add(9, from("2001:db8::1")); !some || lost != 1 {
		t.Errorf("lost %d, %v", lost, some)
	}
	if !s.Has(0) || !s.Has(9) || s.Len() != 4 {
		t.Errorf("len %d", s.Len())
	}
}

// Whatever happens, the bounds hold and an eviction never hits a source that has
// fewer entries than another.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		total, per := rapid.IntRange(1, 9).Draw(rt, "total"), rapid.IntRange(1, 4).Draw(rt, "per source")
		s := New[int](total, per)
		model := map[int]netip.Prefix{}
		for range rapid.IntRange(0, 60).Draw(rt, "steps") {
			k := rapid.IntRange(0, 15).Draw(rt, "key")
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 5).Draw(rt, "source"))}), 32)
			if rapid.Bool().Draw(rt, "remove") {
				_, had := model[k]
				if s.Remove(k) != had {
					rt.Fatalf("Remove(%d) != %v", k, had)
				}
				delete(model, k)
				continue
			}
			delete(model, k)
			sizes := map[netip.Prefix]int{}
			for _, q := range model {
				sizes[q]++
			}
			lost, some := s.Add(k, p)
			if wanted := sizes[p] >= per || len(model) >= total; some != wanted {
				rt.Fatalf("evicted %v, want %v", some, wanted)
			}
			if some {
				q, had := model[lost]
				if !had {
					rt.Fatalf("evicted %d, which was not there", lost)
				}
				for other, n := range sizes {
					if q != p && n > sizes[q] {
						rt.Fatalf("%s lost one of %d, %s had %d", q, sizes[q], other, n)
					}
				}
				delete(model, lost)
			}
			model[k] = p
			check(rt, s, model, total, per)
		}
	})
}

func check(rt *rapid.T, s *Set[int], model map[int]netip.Prefix, total, per int) {
	if s.Len() != len(model) || s.Len() > total {
		rt.Fatalf("%d entries, want %d of at most %d", s.Len(), len(model), total)
	}
	sizes := map[netip.Prefix]int{}
	for k, p := range model {
		if !s.Has(k) {
			rt.Fatalf("%d is missing", k)
		}
		if sizes[p]++; sizes[p] > per {
			rt.Fatalf("%s has more than %d", p, per)
		}
	}
	if len(s.sources) != len(sizes) {
		rt.Fatalf("%d sources are remembered, %d have entries", len(s.sources), len(sizes))
	}
}
