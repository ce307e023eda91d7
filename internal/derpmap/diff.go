package derpmap

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// Difference is what the readers of a map notice when another takes its place.
type Difference struct {
	For     Consumer `json:"for"`
	Changes []Change `json:"changes"` // of the map as a whole, then by region
	// Notes are about what happens whatever has changed.
	Notes []string `json:"notes,omitempty"`
}

// Change is one region that differs, or what is not part of a region.
type Change struct {
	Region  int        `json:"region,omitempty"` // 0: the map as a whole
	Code    string     `json:"code,omitempty"`   // the region's
	Kind    ChangeKind `json:"kind"`
	Details []string   `json:"details,omitempty"` // what is written otherwise
	Effects []string   `json:"effects"`           // what clients notice
}

// ChangeKind says what became of a region.
type ChangeKind string

// The kinds of changes.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
	Nulled  ChangeKind = "null" // null in one of the maps, and missing in the other
)

const effectRedial = "clients close their connection to this region, dial it anew and choose their home again"

// Diff compares two maps as their readers do.
func Diff(a, b Map, reader Consumer) Difference {
	d := Difference{For: reader, Changes: []Change{}}
	d.scores(a.HomeParams, b.HomeParams)
	d.omit(a, b)
	ids := slices.Sorted(maps.Keys(a.Regions))
	for id := range b.Regions {
		if _, old := a.Regions[id]; !old {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		d.region(id, a, b)
	}
	if several := severalNodes(b); reader == ForHeadscale && len(several) > 0 {
		d.Notes = append(d.Notes, fmt.Sprintf("Headscale shuffles the nodes of a region anew whenever it loads its maps, after which clients redial it, "+
			"changed or not: %s", joinInts("region", several)))
	}
	return d
}

func severalNodes(m Map) []int {
	var ids []int
	for _, id := range slices.Sorted(maps.Keys(m.Regions)) {
		if r := m.Regions[id]; r != nil && len(r.Nodes) > 1 {
			ids = append(ids, id)
		}
	}
	return ids
}

func joinInts(what string, ids []int) string {
	text := what
	if len(ids) > 1 {
		text += "s"
	}
	const most = 5
	for i, id := range ids {
		if i == most {
			return fmt.Sprintf("%s and %d more", text, len(ids)-most)
		}
		if i > 0 {
			text += ","
		}
		text += fmt.Sprintf(" %d", id)
	}
	return text
}

func (d *Difference) scores(a, b *HomeParams) {
	if reflect.DeepEqual(a, b) {
		return
	}
	c := Change{Kind: Changed}
	var before, after map[int]float64
	if a != nil {
		before = a.RegionScore
	}
	if b != nil {
		after = b.RegionScore
	}
	for _, id := range slices.Sorted(maps.Keys(before)) {
		if score, kept := after[id]; !kept {
			c.Details = append(c.Details, fmt.Sprintf("the score of region %d is gone: %v", id, before[id]))
		} else if score != before[id] {
			c.Details = append(c.Details, fmt.Sprintf("the score of region %d: %v, now %v", id, before[id], score))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(after)) {
		if _, old := before[id]; !old {
			c.Details = append(c.Details, fmt.Sprintf("a score for region %d: %v", id, after[id]))
		}
	}
	if len(c.Details) == 0 {
		c.Details = []string{"HomeParams: " + writtenScores(a) + ", now " + writtenScores(b)}
	}
	switch {
	case d.For == ForHeadscale:
		c.Effects = []string{"none: Headscale passes on the regions alone"}
	case after == nil:
		c.Effects = []string{"none: without scores in the map clients keep those that they have; an empty RegionScore takes them away"}
	default:
		c.Effects = []string{"clients choose their home with the new scores"}
	}
	d.Changes = append(d.Changes, c)
}

func writtenScores(p *HomeParams) string {
	switch {
	case p == nil:
		return "none"
	case p.RegionScore == nil:
		return "without scores"
	case len(p.RegionScore) == 0:
		return "an empty RegionScore"
	}
	return fmt.Sprintf("%d scores", len(p.RegionScore))
}

func (d *Difference) omit(a, b Map) {
	if a.OmitDefaultRegions == b.OmitDefaultRegions {
		return
	}
	c := Change{Kind: Changed, Details: []string{fmt.Sprintf("omitDefaultRegions: %v, now %v", a.OmitDefaultRegions, b.OmitDefaultRegions)}}
	switch {
	case d.For == ForHeadscale:
		c.Effects = []string{"none: Headscale passes on the regions alone"}
	case d.For == ForTailscaled:
		c.Effects = []string{"none: it speaks to Tailscale's control, and clients skip it"}
	case b.OmitDefaultRegions:
		c.Effects = []string{"Tailscale's own regions go: clients close their connections to them, and choose another home if it was there"}
	default:
		c.Effects = []string{"Tailscale's own regions come: clients measure them, and one may become their home"}
	}
	d.Changes = append(d.Changes, c)
}

func (d *Difference) region(id int, am, bm Map) {
	a, inA := am.Regions[id]
	b, inB := bm.Regions[id]
	c := Change{Region: id}
	if b != nil {
		c.Code = b.RegionCode
	} else if a != nil {
		c.Code = a.RegionCode
	}
	switch {
	case reflect.DeepEqual(a, b) && inA == inB:
		return
	case a == nil && b == nil:
		c.Kind = Nulled
		c.Details = []string{"null, now missing"}
		if inB {
			c.Details = []string{"missing, now null"}
		}
		c.Effects = []string{d.nullEffect(inB)}
	case a == nil:
		c.Kind = Added
		c.Effects = []string{"clients measure it by their next full report, at most 5 minutes later, and make it their home if it is clearly nearer"}
		switch {
		case len(b.Nodes) == 0:
			c.Effects = []string{"none: it has no node that clients could measure or dial"}
		case b.NoMeasureNoHome:
			c.Effects = []string{"clients do not measure it, and dial it only for peers whose home it is"}
		}
	case b == nil:
		c.Kind = Removed
		c.Effects = d.goneEffects(id, inB, bm.OmitDefaultRegions)
	default:
		c.Kind = Changed
		var how regionChange
		how.compare(a, b)
		c.Details, c.Effects = how.details, d.changeEffects(&how)
	}
	d.Changes = append(d.Changes, c)
}

func (d *Difference) nullEffect(inB bool) string {
	switch {
	case d.For == ForHeadscale:
		return "none: Headscale skips null regions"
	case d.For == ForTailscaled:
		return "none: clients drop null regions"
	case inB:
		return "Tailscale's own region of that id goes, if there is one"
	}
	return "Tailscale's own region of that id comes back, if there is one"
}

func (d *Difference) goneEffects(id int, null, omit bool) []string {
	out := []string{"clients close their connection to this region; whoever has it as home chooses another"}
	switch {
	case d.For == ForHeadscale && null:
		out = append(out, "but Headscale skips null regions: where a URL or an earlier file has the region too, that one stays or comes back")
	case d.For == ForHeadscale:
		out = append(out, "where a URL or an earlier file has the region too, that one comes back")
	case d.For == ForTailscale && !null && !omit && (id < 900 || id > 999):
		out = append(out, "Tailscale's own region of that id comes back, if there is one")
	}
	return out
}

func (d *Difference) changeEffects(how *regionChange) []string {
	if how.orderOnly && d.For == ForHeadscale {
		return []string{"none by itself: Headscale shuffles the nodes, so clients never get the order of the file"}
	}
	out := []string{effectRedial}
	if how.first != "" && d.For != ForHeadscale {
		out = append(out, "clients dial the node "+how.first+" first")
	}
	if how.newPin {
		out = append(out, "clients that still have the old map refuse the new certificate, and those with the new map the old one: change the relay and the map step by step, see `detour cert rotate --help`")
	}
	switch {
	case how.homeless:
		out = append(out, "whoever has it as home chooses another, and nobody measures it any more")
	case how.homely:
		out = append(out, "clients measure it from now on, and it may become their home")
	}
	return append(out, how.effects...)
}
