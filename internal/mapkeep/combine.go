package mapkeep

import (
	"fmt"
	"maps"
	"slices"

	"github.com/detour-relay/detour/internal/derpmap"
)

// combine makes the kept map: the sources in their order, each winning over those
// before it, and this relay's own region last, so that nothing takes its place.
// What cannot be used together is left out, as a whole source, and said: own and
// the sources before it win. own is usable by itself, as is each of the sources.
func combine(own derpmap.Map, sources []derpmap.Named) (m derpmap.Map, problems []string) {
	mine := derpmap.Named{Name: "this relay", Map: own}
	var taken []derpmap.Named
	m, _ = derpmap.Merge(mine)
	for _, s := range sources {
		fit, problem := withoutOwn(own, s)
		if problem != "" {
			problems = append(problems, problem)
		}
		if len(fit.Map.Regions) == 0 {
			continue
		}
		next, _ := derpmap.Merge(append(slices.Clone(taken), fit, mine)...)
		if err := derpmap.Usable(next); err != nil {
			problems = append(problems, fmt.Sprintf("the map %s is left out, as it does not go together with the others: %v", s.Name, err))
			continue
		}
		taken, m = append(taken, fit), next
	}
	return m, problems
}

// withoutOwn takes this relay's own region out of a source. A sibling that combines
// maps itself sends it back, which is fine; another relay under the same id is not.
func withoutOwn(own derpmap.Map, s derpmap.Named) (fit derpmap.Named, problem string) {
	fit = derpmap.Named{Name: s.Name, Map: derpmap.Map{Regions: maps.Clone(s.Map.Regions)}}
	for id, mine := range own.Regions {
		theirs := fit.Map.Regions[id]
		delete(fit.Map.Regions, id)
		if theirs != nil && mine != nil && !related(mine, theirs) {
			problem = fmt.Sprintf("region %d of the map %s is another relay's, and the id is this relay's own: it is left out; "+
				"give one of the two another region_id", id, s.Name)
		}
	}
	return fit, problem
}

// related reports whether two regions have a node in common by its name, which is
// unique.
func related(a, b *derpmap.Region) bool {
	names := map[string]bool{}
	for _, n := range a.Nodes {
		if n != nil {
			names[n.Name] = true
		}
	}
	return slices.ContainsFunc(b.Nodes, func(n *derpmap.Node) bool { return n != nil && names[n.Name] })
}

// usable is a source's map without null regions, if it can be used.
func usable(m derpmap.Map) (derpmap.Map, error) {
	clean := derpmap.Map{Regions: maps.Clone(m.Regions)}
	maps.DeleteFunc(clean.Regions, func(_ int, r *derpmap.Region) bool { return r == nil })
	return clean, derpmap.Usable(clean)
}
