package cert

import (
	"slices"
	"strings"
)

// maxName bounds the server names that are looked up, in bytes; a DNS name has
// no more than 253.
const maxName = 255

// index finds the certificates for a server name. Each list holds places in the
// slice that the index was made of, best first, and is never empty.
type index struct {
	fallback []int            // for no name, or one that nothing covers
	exact    map[string][]int // by name or IP address, in lower case
	wildcard map[string][]int // by what follows "*.", in lower case
}

// newIndex orders certs, of which the first is the default: for each name those
// that hold it before those that cover it by a wildcard, and among equals the
// one that is valid longest. Which key types a client knows is seen only when it
// is there. Like clients, it goes by the alternative names alone.
func newIndex(certs []*Certificate) index {
	x := index{exact: map[string][]int{}, wildcard: map[string][]int{}}
	for i, c := range certs {
		for _, name := range c.Names() {
			name = strings.ToLower(name)
			list := x.exact
			if parent, ok := strings.CutPrefix(name, "*."); ok {
				list, name = x.wildcard, parent
			}
			if !slices.Contains(list[name], i) {
				list[name] = append(list[name], i)
			}
		}
	}
	longest := func(a, b int) int { return certs[b].NotAfter().Compare(certs[a].NotAfter()) }
	for _, lists := range []map[string][]int{x.exact, x.wildcard} {
		for _, list := range lists {
			slices.SortStableFunc(list, longest)
		}
	}
	for name, list := range x.exact {
		if _, parent, ok := strings.Cut(name, "."); ok {
			x.exact[name] = appendMissing(list, x.wildcard[parent])
		}
	}
	// Others for the very same names differ by their key, or are about to expire.
	x.fallback = []int{0}
	for i, c := range certs[1:] {
		if sameNames(c, certs[0]) {
			x.fallback = append(x.fallback, i+1)
		}
	}
	return x
}

func appendMissing(list, more []int) []int {
	for _, i := range more {
		if !slices.Contains(list, i) {
			list = append(list, i)
		}
	}
	return list
}

func sameNames(a, b *Certificate) bool {
	return slices.Equal(a.sortedNames(), b.sortedNames())
}

func (c *Certificate) sortedNames() []string {
	names := c.Names()
	for i := range names {
		names[i] = strings.ToLower(names[i])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// lookup returns which certificates fit name, compared without case; known is
// false when they are only the default. It allocates nothing.
func (x *index) lookup(name string) (fits []int, known bool) {
	var space [maxName]byte
	if len(name) == 0 || len(name) > maxName {
		return x.fallback, false
	}
	lower := space[:copy(space[:], name)]
	dot := -1
	for i, b := range lower {
		if 'A' <= b && b <= 'Z' {
			lower[i] = b + 'a' - 'A'
		}
		if b == '.' && dot < 0 {
			dot = i
		}
	}
	if fits, known = x.exact[string(lower)]; known {
		return fits, true
	}
	if dot > 0 { // a wildcard stands for one whole label
		if fits, known = x.wildcard[string(lower[dot+1:])]; known {
			return fits, true
		}
	}
	return x.fallback, false
}

// ForName returns which of certs, of which the first is the default, clients are
// served that dial name; it is for one that clients with any key type get. Certs
// must not be empty.
func ForName(certs []*Certificate, name string) *Certificate {
	x := newIndex(certs)
	fits, _ := x.lookup(name)
	return certs[fits[0]]
}
