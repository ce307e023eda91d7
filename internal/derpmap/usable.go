package derpmap

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Usable returns why clients could not work with the map at all, or with a part
// of it that others depend on: nil regions, ids that disagree or that clients cut,
// regions and nodes without what is dialled, and names that stand twice. It is no
// review of the map.
func Usable(m Map) error {
	if len(m.Regions) == 0 {
		return errors.New("the map holds no region")
	}
	nodes := map[string]int{} // region by node name
	for _, id := range slices.Sorted(maps.Keys(m.Regions)) {
		r := m.Regions[id]
		switch {
		case r == nil:
			return fmt.Errorf("region %d is null", id)
		case id < MinRegionID || id > MaxRegionID:
			return fmt.Errorf("region id %d is not in %d..%d", id, MinRegionID, MaxRegionID)
		case r.RegionID != id:
			return fmt.Errorf("region %d says that its RegionID is %d", id, r.RegionID)
		case len(r.Nodes) == 0:
			return fmt.Errorf("region %d has no nodes", id)
		}
		for _, n := range r.Nodes {
			if n == nil || n.Name == "" || n.HostName == "" {
				return fmt.Errorf("a node of region %d is null, or has no name or no host name", id)
			}
			if n.RegionID != id {
				return fmt.Errorf("node %q of region %d says that its RegionID is %d", n.Name, id, n.RegionID)
			}
			if other, twice := nodes[n.Name]; twice {
				return fmt.Errorf("two nodes are called %q, in regions %d and %d", n.Name, other, id)
			}
			nodes[n.Name] = id
		}
	}
	return nil
}
