package derpmap

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// regionChange is what differs between two definitions of a region.
type regionChange struct {
	details []string
	effects []string

	orderOnly bool   // nothing but the order of the nodes
	first     string // the node that is first now and was not
	newPin    bool   // a node that stays has another pin
	homeless  bool   // it can be nobody's home any more
	homely    bool   // it can be now
}

func (c *regionChange) say(format string, args ...any) {
	c.details = append(c.details, fmt.Sprintf(format, args...))
}

func (c *regionChange) compare(a, b *Region) {
	c.fields("", *a, *b)
	c.homeless, c.homely = canBeHome(a) && !canBeHome(b), !canBeHome(a) && canBeHome(b)
	if len(a.Nodes) == 0 && len(b.Nodes) == 0 {
		if len(c.details) == 0 {
			c.say("Nodes: an empty list in one, and none in the other")
		}
		return
	}
	was, is := byName(a.Nodes), byName(b.Nodes)
	if was == nil || is == nil {
		// Names that cannot tell nodes apart; the places in the list must do.
		c.byPlace(a.Nodes, b.Nodes)
		return
	}
	for _, n := range a.Nodes {
		if is[n.Name] == nil {
			c.say("node %s is gone", n.Name)
		}
	}
	var order []string
	for _, n := range b.Nodes {
		old := was[n.Name]
		if old == nil {
			c.say("node %s is new: %s", n.Name, n.place())
			continue
		}
		order = append(order, n.Name)
		c.node("node "+n.Name+": ", old, n)
	}
	c.order(a, b, order, is)
}

// order compares the order of the nodes that stay.
func (c *regionChange) order(a, b *Region, now []string, is map[string]*Node) {
	var before []string
	for _, n := range a.Nodes {
		if is[n.Name] != nil {
			before = append(before, n.Name)
		}
	}
	if !slices.Equal(before, now) {
		c.orderOnly = len(c.details) == 0
		c.say("order of nodes: %s, now %s", strings.Join(before, ", "), strings.Join(now, ", "))
	}
	if first := firstRelay(b.Nodes); first != "" && first != firstRelay(a.Nodes) {
		c.first = first
	}
}

// firstRelay is the name of the node that clients dial first.
func firstRelay(nodes []*Node) string {
	for _, n := range nodes {
		if n != nil && !n.STUNOnly {
			return n.Name
		}
	}
	return ""
}

// byName is nil where names cannot tell the nodes apart.
func byName(nodes []*Node) map[string]*Node {
	m := make(map[string]*Node, len(nodes))
	for _, n := range nodes {
		if n == nil || n.Name == "" || m[n.Name] != nil {
			return nil
		}
		m[n.Name] = n
	}
	return m
}

func (c *regionChange) byPlace(a, b []*Node) {
	for i := range max(len(a), len(b)) {
		name := fmt.Sprintf("node number %d: ", i+1)
		switch {
		case i >= len(b):
			c.say("%sgone", name)
		case i >= len(a):
			c.say("%snew", name)
		case a[i] == nil || b[i] == nil:
			if a[i] != b[i] {
				c.say("%snull in one of the maps", name)
			}
		default:
			c.node(name, a[i], b[i])
		}
	}
}

// node compares two definitions of a node.
func (c *regionChange) node(name string, a, b *Node) {
	c.fields(name, *a, *b)
	pinned := strings.HasPrefix(a.CertName, PinPrefix) || strings.HasPrefix(b.CertName, PinPrefix)
	if a.CertName != b.CertName && pinned && !b.STUNOnly {
		c.newPin = true
	}
	if b.InsecureForTests && !a.InsecureForTests {
		c.effects = append(c.effects, "clients check no certificate of the node "+b.Name+" any more")
	}
}

// fields compares the fields of two structs of one type but for lists.
func (c *regionChange) fields(name string, a, b any) {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		if va.Field(i).Kind() == reflect.Slice {
			continue
		}
		x, y := va.Field(i).Interface(), vb.Field(i).Interface()
		if x != y {
			c.say("%s%s: %s, now %s", name, va.Type().Field(i).Name, written(x), written(y))
		}
	}
}

// written is a value as messages show it.
func written(v any) string {
	switch v := v.(type) {
	case string:
		if v == "" {
			return "none"
		}
		return fmt.Sprintf("%q", v)
	case int:
		if v == 0 {
			return "none"
		}
	}
	return fmt.Sprint(v)
}

// place is where clients find a node.
func (n *Node) place() string {
	return fmt.Sprintf("%s port %d", n.HostName, portOr(n.DERPPort, DefaultDERPPort))
}
