package derpmap

import (
	"fmt"
	"maps"
	"slices"
)

// Named is a map and what its reader calls it: a file, a URL.
type Named struct {
	Name string
	Map  Map
}

// MergeKind is what a MergeNote is about.
type MergeKind int

// The kinds of notes. The zero value is a region that was replaced.
const (
	MergeReplaced   MergeKind = iota // a region of an earlier map gave way to a different one
	MergeNull                        // a null region was skipped
	MergeHomeParams                  // HomeParams were left out
	MergeOmit                        // OmitDefaultRegions was left out
)

// MergeNote is something that Merge did and that may surprise.
type MergeNote struct {
	Kind   MergeKind
	Region int    // of MergeReplaced and MergeNull
	Name   string // of the map that the note is about
	By     string // of MergeReplaced: the map whose region took the place
}

// String says it in one line.
func (n MergeNote) String() string {
	switch n.Kind {
	case MergeReplaced:
		return fmt.Sprintf("region %d of %s is replaced as a whole by that of %s", n.Region, n.Name, n.By)
	case MergeNull:
		return fmt.Sprintf("region %d of %s is null, which Headscale skips: an earlier map's region %d stays; "+
			"hint: leave it out of that map", n.Region, n.Name, n.Region)
	case MergeHomeParams:
		return fmt.Sprintf("homeparams of %s are left out, as Headscale uses the regions alone", n.Name)
	case MergeOmit:
		return fmt.Sprintf("omitdefaultregions of %s is left out, as Headscale uses the regions alone", n.Name)
	}
	return ""
}

// Merge combines maps as Headscale does those of derp.urls and then derp.paths:
// the later map wins, per whole region and without a look at its nodes; a null
// region is skipped and takes nothing away; nothing but the regions is kept. The
// result shares its regions with the maps. The notes stand in the order of the
// maps, by region within one.
func Merge(list ...Named) (Map, []MergeNote) {
	out := Map{Regions: map[int]*Region{}}
	from := map[int]string{}
	var notes []MergeNote
	for _, m := range list {
		if m.Map.HomeParams != nil {
			notes = append(notes, MergeNote{Kind: MergeHomeParams, Name: m.Name})
		}
		if m.Map.OmitDefaultRegions {
			notes = append(notes, MergeNote{Kind: MergeOmit, Name: m.Name})
		}
		for _, id := range slices.Sorted(maps.Keys(m.Map.Regions)) {
			region := m.Map.Regions[id]
			if region == nil {
				notes = append(notes, MergeNote{Kind: MergeNull, Region: id, Name: m.Name})
				continue
			}
			if before := out.Regions[id]; before != nil && !sameRegion(before, region) {
				notes = append(notes, MergeNote{Kind: MergeReplaced, Region: id, Name: from[id], By: m.Name})
			}
			out.Regions[id], from[id] = region, m.Name
		}
	}
	return out, notes
}

// sameRegion compares what clients compare: all of it, the order of nodes too.
func sameRegion(a, b *Region) bool {
	x, y := *a, *b
	x.Nodes, y.Nodes = nil, nil
	return fmt.Sprint(x) == fmt.Sprint(y) && slices.EqualFunc(a.Nodes, b.Nodes, func(m, n *Node) bool {
		return m == n || m != nil && n != nil && *m == *n
	})
}
