package derpmap

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

const headscaleComment = `# A DERP map for Headscale. Save it, for example as /etc/headscale/derp.yaml, and
# list that file under derp.paths in Headscale's own configuration:
#
#   derp:
#     paths:
#       - /etc/headscale/derp.yaml
`

// Headscale writes the map as the YAML that Headscale reads from derp.paths:
// every key in lower case, numbers and region ids without quotes (Headscale
// refuses the whole file otherwise), in block style, regions in ascending order.
// The same map always gives the same bytes. It fails as JSON does.
//
// Of what is written Headscale uses only the regions; see its merging of maps.
func Headscale(m Map) ([]byte, error) { return HeadscaleWith(headscaleComment, m) }

// HeadscaleWith is Headscale with another comment at its head: whole lines that
// begin with #.
func HeadscaleWith(comment string, m Map) ([]byte, error) {
	if err := m.representable(); err != nil {
		return nil, fmt.Errorf("writing DERP map for Headscale: %w", err)
	}
	out := bytes.NewBufferString(comment)
	enc := yaml.NewEncoder(out)
	enc.SetIndent(2)
	if err := enc.Encode(mapYAML(m)); err != nil {
		return nil, fmt.Errorf("writing DERP map for Headscale: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("writing DERP map for Headscale: %w", err)
	}
	return out.Bytes(), nil
}

// The nodes are built by hand and not by yaml.v3's reflection: that writes nil
// maps and lists as empty ones and leaves no say over quotes.

func mapYAML(m Map) *yaml.Node {
	doc := newBlock()
	doc.flag("omitdefaultregions", m.OmitDefaultRegions)
	if m.HomeParams != nil {
		params := newBlock()
		if m.HomeParams.RegionScore != nil {
			scores := newBlock()
			for _, id := range slices.Sorted(maps.Keys(m.HomeParams.RegionScore)) {
				scores.add(strconv.Itoa(id), floatYAML(m.HomeParams.RegionScore[id]))
			}
			params.add("regionscore", scores.Node)
		}
		doc.add("homeparams", params.Node)
	}
	if m.Regions == nil {
		doc.add("regions", plain("null"))
		return doc.Node
	}
	regions := newBlock()
	for _, id := range slices.Sorted(maps.Keys(m.Regions)) {
		regions.add(strconv.Itoa(id), regionYAML(m.Regions[id]))
	}
	doc.add("regions", regions.Node)
	return doc.Node
}

func regionYAML(r *Region) *yaml.Node {
	if r == nil {
		return plain("null")
	}
	b := newBlock()
	b.add("regionid", plain(strconv.Itoa(r.RegionID)))
	b.add("regioncode", textYAML(r.RegionCode))
	b.add("regionname", textYAML(r.RegionName))
	if r.Latitude != 0 {
		b.add("latitude", floatYAML(r.Latitude))
	}
	if r.Longitude != 0 {
		b.add("longitude", floatYAML(r.Longitude))
	}
	b.flag("avoid", r.Avoid)
	b.flag("nomeasurenohome", r.NoMeasureNoHome)
	if r.Nodes == nil {
		b.add("nodes", plain("null"))
		return b.Node
	}
	nodes := &yaml.Node{Kind: yaml.SequenceNode}
	for _, n := range r.Nodes {
		nodes.Content = append(nodes.Content, nodeYAML(n))
	}
	b.add("nodes", nodes)
	return b.Node
}

func nodeYAML(n *Node) *yaml.Node {
	if n == nil {
		return plain("null")
	}
	b := newBlock()
	b.add("name", textYAML(n.Name))
	b.add("regionid", plain(strconv.Itoa(n.RegionID)))
	b.add("hostname", textYAML(n.HostName))
	if n.CertName != "" {
		b.add("certname", quoted(n.CertName))
	}
	b.text("ipv4", n.IPv4)
	b.text("ipv6", n.IPv6)
	b.number("stunport", n.STUNPort)
	b.flag("stunonly", n.STUNOnly)
	b.number("derpport", n.DERPPort)
	b.flag("insecurefortests", n.InsecureForTests)
	b.text("stuntestip", n.STUNTestIP)
	b.flag("canport80", n.CanPort80)
	return b.Node
}

// block is a YAML mapping under construction. Its flag, number and text leave
// out zero values, as the JSON form does.
type block struct{ *yaml.Node }

func newBlock() block {
	return block{&yaml.Node{Kind: yaml.MappingNode}}
}

func (b block) add(key string, value *yaml.Node) {
	b.Content = append(b.Content, plain(key), value)
}

func (b block) flag(key string, on bool) {
	if on {
		b.add(key, plain("true"))
	}
}

func (b block) number(key string, n int) {
	if n != 0 {
		b.add(key, plain(strconv.Itoa(n)))
	}
}

func (b block) text(key, s string) {
	if s != "" {
		b.add(key, textYAML(s))
	}
}

// plain is a scalar that is written as it stands, so that readers take it for
// what it looks like.
func plain(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Value: s}
}

func quoted(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: yaml.DoubleQuotedStyle}
}

func floatYAML(f float64) *yaml.Node {
	if f == 0 {
		f = 0 // YAML readers lose the sign of -0, and the next writing would differ
	}
	return plain(strconv.FormatFloat(f, 'g', -1, 64))
}

// textYAML quotes all but the tamest text: an IPv6 address or a name with ": "
// in it is easily broken when the file is edited. Text that is tame but reads as
// something else (900, true) gets its quotes from the encoder, by the tag.
func textYAML(s string) *yaml.Node {
	for i := range len(s) {
		c := s[i]
		inner := i > 0 && i < len(s)-1 && (c == ' ' || c == '.' || c == '-' || c == '_')
		if !inner && !isAlnum(c) {
			return quoted(s)
		}
	}
	if s == "" {
		return quoted(s)
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
