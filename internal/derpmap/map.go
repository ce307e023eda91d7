// Package derpmap holds the DERP map, the document that tells Tailscale clients
// which relays exist and how to reach them: its types, its three written forms
// (JSON, Headscale's YAML, a Tailscale policy section) and the map of one relay.
package derpmap

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// What a field of the map means when it is zero.
// Source: the client's DERP map documentation.
const (
	DefaultDERPPort = 443  // TCP, for Node.DERPPort 0
	DefaultSTUNPort = 3478 // UDP, for Node.STUNPort 0
	STUNOff         = -1   // Node.STUNPort of a node without STUN; any negative number says the same
)

// Bounds of a region id that works everywhere: clients carry the id as the UDP
// port of a made-up address and so cut it to 16 bits. 900 to 999 are reserved
// for operators' own regions. Source: the client's magicsock.
const (
	MinRegionID = 1
	MaxRegionID = 1<<16 - 1
)

// PinPrefix starts a Node.CertName that pins a certificate; the SHA-256 of its
// DER follows as 64 lower-case hex digits. Upper case never matches. Source: the
// client's TLS code, in clients since 1.84.
const PinPrefix = "sha256-raw:"

// Map is a DERP map. Its JSON is that of tailcfg.DERPMap, key for key, and
// decoding ignores the case of keys as encoding/json does. A nil region is kept:
// it is how a map says that a region is gone.
//
// One thing is kept that tailcfg's own encoder loses: an empty, non-nil
// HomeParams.RegionScore is written as {}.
type Map struct {
	// HomeParams guides the choice of a home region. Nil: leave it as it was.
	HomeParams *HomeParams `json:",omitempty" yaml:"homeparams"`

	// Regions by region id; each region's RegionID equals its key. Nil in an
	// update to a client: unchanged.
	Regions map[int]*Region `yaml:"regions"`

	// OmitDefaultRegions asks the control server not to add Tailscale's own
	// regions. Clients never see it.
	OmitDefaultRegions bool `json:"omitDefaultRegions,omitempty" yaml:"omitdefaultregions"`
}

// HomeParams are settings of the choice of a home region.
type HomeParams struct {
	// RegionScore multiplies the measured latency of a region, by region id:
	// between 0 and 1 favours it, above 1 disfavours it, 0 and less is ignored.
	// Nil: unchanged. Empty: forget all earlier scores.
	RegionScore map[int]float64 `json:",omitzero" yaml:"regionscore"`
}

// Region is a group of relays in one place, any of which a client may use.
type Region struct {
	// RegionID is the region's number, MinRegionID to MaxRegionID.
	RegionID int `yaml:"regionid"`
	// RegionCode is the short name that netcheck and ping print ("fra").
	RegionCode string `yaml:"regioncode"`
	// RegionName is the name for people ("Frankfurt").
	RegionName string `yaml:"regionname"`

	// Latitude and Longitude are in degrees, north and east positive; 0 is unknown.
	Latitude  float64 `json:",omitempty" yaml:"latitude"`
	Longitude float64 `json:",omitempty" yaml:"longitude"`

	// Avoid keeps a region out of routine measuring. Deprecated upstream in
	// favour of NoMeasureNoHome.
	Avoid bool `json:",omitempty" yaml:"avoid"`
	// NoMeasureNoHome: never measured and never a home, but still dialled for
	// peers whose home it is.
	NoMeasureNoHome bool `json:",omitempty" yaml:"nomeasurenohome"`

	// Nodes in order of priority: clients dial the first that takes a TCP
	// connection, and send STUN to the first ones.
	Nodes []*Node `yaml:"nodes"`
}

// Node is one relay of a region.
type Node struct {
	// Name is unique over all regions, not only within its own: netcheck looks
	// nodes up by it.
	Name string `yaml:"name"`
	// RegionID repeats the region's id; netcheck books latency under it.
	RegionID int `yaml:"regionid"`
	// HostName is the DNS name or IP literal that clients dial, send as SNI and
	// check the certificate against. An IPv6 literal is unusable on port 443.
	HostName string `yaml:"hostname"`
	// CertName replaces HostName in the check of the certificate; with PinPrefix
	// it pins the certificate instead. Empty: HostName.
	CertName string `json:",omitempty" yaml:"certname"`

	// IPv4 and IPv6 are literals that save clients the DNS lookup. Empty: DNS.
	// Anything that is no address of the family ("none") turns the family off.
	IPv4 string `json:",omitempty" yaml:"ipv4"`
	IPv6 string `json:",omitempty" yaml:"ipv6"`

	// STUNPort is a UDP port; 0 means DefaultSTUNPort, negative no STUN.
	STUNPort int `json:",omitempty" yaml:"stunport"`
	// STUNOnly: the node answers STUN and is never dialled as a relay.
	STUNOnly bool `json:",omitempty" yaml:"stunonly"`
	// DERPPort is a TCP port; 0 means DefaultDERPPort.
	DERPPort int `json:",omitempty" yaml:"derpport"`

	// InsecureForTests turns the check of the certificate off.
	InsecureForTests bool `json:",omitempty" yaml:"insecurefortests"`
	// STUNTestIP replaces the address that STUN is sent to.
	STUNTestIP string `json:",omitempty" yaml:"stuntestip"`
	// CanPort80: clients may use http://IPv4:80/generate_204 of this node to look
	// for captive portals. Without an IPv4 field they never do.
	CanPort80 bool `json:",omitempty" yaml:"canport80"`
}

// representable says whether every form can carry the map unchanged: JSON has no
// NaN and no infinities, and JSON and YAML hold text only as UTF-8.
func (m Map) representable() error {
	if m.HomeParams != nil {
		for id, score := range m.HomeParams.RegionScore {
			if !finite(score) {
				return fmt.Errorf("score of region %d is not a finite number", id)
			}
		}
	}
	for id, region := range m.Regions {
		if err := region.representable(); err != nil {
			return fmt.Errorf("region %d: %w", id, err)
		}
	}
	return nil
}

func (r *Region) representable() error {
	if r == nil {
		return nil
	}
	if !finite(r.Latitude) || !finite(r.Longitude) {
		return errors.New("latitude or longitude is not a finite number")
	}
	if !utf8.ValidString(r.RegionCode) || !utf8.ValidString(r.RegionName) {
		return errors.New("region code or name is not UTF-8 text")
	}
	for _, n := range r.Nodes {
		if n == nil {
			continue
		}
		texts := []string{n.Name, n.HostName, n.CertName, n.IPv4, n.IPv6, n.STUNTestIP}
		if i := slices.IndexFunc(texts, func(s string) bool { return !utf8.ValidString(s) }); i >= 0 {
			return fmt.Errorf("node %q: %q is not UTF-8 text", n.Name, texts[i])
		}
	}
	return nil
}

func finite(f float64) bool {
	return !math.IsNaN(f) && !math.IsInf(f, 0)
}
