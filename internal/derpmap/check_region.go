package derpmap

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// wholeMap checks what concerns more than one region.
func (c *checker) wholeMap() {
	c.ids = slices.Sorted(maps.Keys(c.m.Regions))
	c.emptyMap()
	c.homeParams()
	if c.m.OmitDefaultRegions && c.For != ForTailscale {
		f := finding{rule: "omit-default-dropped", path: "omitdefaultregions", problem: "omitDefaultRegions has no effect here"}
		if c.For == ForTailscaled {
			f.severity, f.effect, f.fix = Note, "it speaks to Tailscale's control; clients skip it", "remove it"
		}
		c.find(f)
	}
	c.foreignIDs()
}

// canBeHome reports whether a region can be measured and so become a home.
func canBeHome(r *Region) bool {
	return r != nil && len(r.Nodes) > 0 && !r.NoMeasureNoHome
}

func (c *checker) emptyMap() {
	regions, homes := 0, 0
	for _, r := range c.m.Regions {
		if r != nil {
			regions++
		}
		if canBeHome(r) {
			homes++
		}
	}
	keepsDefault := c.For == ForTailscale && !c.m.OmitDefaultRegions
	switch {
	case regions == 0 && c.For == ForTailscale && c.m.OmitDefaultRegions:
		c.find(finding{rule: "omit-default-alone", path: "omitdefaultregions", problem: "OmitDefaultRegions without a region"})
	case regions == 0 && keepsDefault && len(c.m.Regions) > 0:
		// How a policy file takes some of Tailscale's regions away.
	case regions == 0:
		f := finding{rule: "no-regions", path: "regions", problem: "no region"}
		if len(c.m.Regions) > 0 {
			f.severity, f.problem = Warns, "every region is null"
		}
		c.find(f)
	case homes == 0 && !keepsDefault:
		c.find(finding{rule: "no-home", path: "regions", problem: "no region can be anybody's home"})
	}
}

func (c *checker) homeParams() {
	if c.m.HomeParams == nil {
		return
	}
	if c.For == ForHeadscale {
		c.find(finding{rule: "home-params-dropped", path: "homeparams", problem: "HomeParams has no effect here"})
		return
	}
	for _, id := range slices.Sorted(maps.Keys(c.m.HomeParams.RegionScore)) {
		path := fmt.Sprintf("homeparams/regionscore/%d", id)
		score := c.m.HomeParams.RegionScore[id]
		if score <= 0 {
			c.find(finding{rule: "score-ignored", path: path, where: regionLabel(id), problem: fmt.Sprintf("the score %v", score)})
		}
		keepsDefault := c.For == ForTailscale && !c.m.OmitDefaultRegions
		if c.m.Regions[id] == nil && !keepsDefault {
			c.find(finding{rule: "score-unknown-region", path: path, where: regionLabel(id), problem: "a score for a region that is not in this map"})
		}
	}
}

// foreignIDs gathers the ids that are Tailscale's in one finding: its own map has
// no others.
func (c *checker) foreignIDs() {
	var ids []string
	first := 0
	for _, id := range c.ids {
		if c.m.Regions[id] == nil || id < MinRegionID || id > MaxRegionID || id >= 900 && id <= 999 {
			continue
		}
		if len(ids) == 0 {
			first = id
		}
		ids = append(ids, strconv.Itoa(id))
	}
	if len(ids) == 0 {
		return
	}
	const most = 5
	if more := len(ids) - most; more > 0 {
		ids = append(ids[:most], fmt.Sprintf("and %d more", more))
	}
	f := finding{rule: "region-id-reserved", path: regionPath(first, ""), problem: "outside 900 to 999: " + strings.Join(ids, ", ")}
	if c.For == ForTailscale {
		f.severity = Warns
		f.effect = "ids outside 900 to 999 are Tailscale's: the region takes the place of theirs with that id, now or later"
	}
	c.find(f)
}

// region checks one region and its nodes.
func (c *checker) region(id int, r *Region) {
	where := regionLabel(id)
	at := func(rule, field, problem string) {
		c.find(finding{rule: rule, path: regionPath(id, field), where: where, problem: problem})
	}
	if id < MinRegionID || id > MaxRegionID {
		at("region-id-range", "", fmt.Sprintf("the id %d is not in 1 to 65535", id))
	}
	if r == nil {
		c.nullRegion(id)
		return
	}
	switch {
	case r.RegionID == 0:
		at("region-id-missing", "regionid", "no RegionID")
	case r.RegionID != id:
		at("region-id-mismatch", "regionid", fmt.Sprintf("RegionID is %d and the region's key %d", r.RegionID, id))
	}
	if id == 999 && c.For == ForHeadscale {
		at("region-999", "", "the id of Headscale's own relay in its example")
	}
	if r.RegionCode == "" {
		at("region-code-missing", "regioncode", "no RegionCode")
	}
	if r.RegionName == "" {
		at("region-name-missing", "regionname", "no RegionName")
	}
	if r.Latitude < -90 || r.Latitude > 90 {
		at("coordinates", "latitude", fmt.Sprintf("latitude %v", r.Latitude))
	}
	if r.Longitude < -180 || r.Longitude > 180 {
		at("coordinates", "longitude", fmt.Sprintf("longitude %v", r.Longitude))
	}
	if r.Avoid {
		at("avoid-deprecated", "avoid", "Avoid is set")
	}
	c.services(r, at)
	for i, n := range r.Nodes {
		if n == nil {
			c.find(finding{rule: "null-node", path: nodePath(id, i, ""), where: nodeLabel(id, i, nil), problem: "an empty entry in the list of nodes"})
			continue
		}
		(&nodeChecker{checker: c, region: r, id: id, i: i, n: n}).check()
	}
}

func (c *checker) nullRegion(id int) {
	f := finding{rule: "null-region", path: regionPath(id, ""), where: regionLabel(id), problem: "the region is null"}
	switch c.For {
	case ForTailscale:
		return // the documented way to take one of Tailscale's regions away
	case ForTailscaled:
		f.severity, f.effect, f.fix = Note, "clients drop null regions", "leave the region out"
	}
	c.find(f)
}

// services checks what the nodes of a region do together.
func (c *checker) services(r *Region, at func(rule, field, problem string)) {
	if len(r.Nodes) == 0 {
		at("no-nodes", "nodes", "no node")
		return
	}
	relays, stun := 0, 0
	hosts := make(map[string]bool)
	for _, n := range r.Nodes {
		if n == nil {
			continue
		}
		if !n.STUNOnly {
			relays++
			hosts[n.dialled()] = true
		}
		if n.STUNPort >= 0 && n.STUNPort <= 65535 {
			stun++
		}
	}
	if relays == 0 {
		at("stun-only-region", "nodes", "every node is for STUN alone")
	}
	if stun == 0 && !r.NoMeasureNoHome {
		at("no-stun", "nodes", "no node answers STUN")
	}
	if relays > 1 && c.For == ForHeadscale {
		at("shuffled-nodes", "nodes", fmt.Sprintf("%d nodes that relay", relays))
	}
	if len(hosts) > 1 {
		at("mesh-needed", "nodes", fmt.Sprintf("%d relays at different addresses", len(hosts)))
	}
}

// dialled is where clients find a node, without its port.
func (n *Node) dialled() string {
	if a := literal(n.IPv4); a.IsValid() {
		return a.String()
	}
	return strings.ToLower(n.HostName)
}

// across checks names and addresses over all regions.
func (c *checker) across() {
	type place struct{ id, i int }
	codes, names, relays := make(map[string]int), make(map[string]place), make(map[string]place)
	for _, id := range c.ids {
		r := c.m.Regions[id]
		if r == nil {
			continue
		}
		if first, twice := codes[r.RegionCode]; twice && r.RegionCode != "" {
			c.find(finding{rule: "region-code-twice", path: regionPath(id, "regioncode"), where: regionLabel(id), problem: fmt.Sprintf("the RegionCode %q is that of region %d too", r.RegionCode, first)})
		} else {
			codes[r.RegionCode] = id
		}
		for i, n := range r.Nodes {
			if n == nil {
				continue
			}
			if first, twice := names[n.Name]; twice && n.Name != "" {
				c.find(finding{rule: "node-name-twice", path: nodePath(id, i, "name"), where: nodeLabel(id, i, n), problem: fmt.Sprintf("a node of region %d has the name %q too", first.id, n.Name)})
			} else {
				names[n.Name] = place{id, i}
			}
			service := fmt.Sprintf("%s port %d", n.dialled(), portOr(n.DERPPort, DefaultDERPPort))
			if n.STUNOnly || n.dialled() == "" {
				continue
			}
			if first, twice := relays[service]; twice {
				f := finding{rule: "same-relay-twice", path: nodePath(id, i, ""), where: nodeLabel(id, i, n), problem: fmt.Sprintf("%s is that of %s too", service, nodeLabel(first.id, first.i, c.m.Regions[first.id].Nodes[first.i]))}
				if first.id != id {
					f.rule = "same-relay-elsewhere"
				}
				c.find(f)
			} else {
				relays[service] = place{id, i}
			}
		}
	}
}

func portOr(port, usual int) int {
	if port == 0 {
		return usual
	}
	return port
}
