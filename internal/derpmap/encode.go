package derpmap

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// JSON writes the map as control servers fetch it from a URL (Headscale's
// derp.urls): indented by two spaces, with a newline at the end. The same map
// always gives the same bytes. It fails only for text that is not UTF-8 and for
// numbers that are not finite.
func JSON(m Map) ([]byte, error) {
	if err := m.representable(); err != nil {
		return nil, fmt.Errorf("writing DERP map as JSON: %w", err)
	}
	return indented(m, "", "  ")
}

// policyMap is the map as the policy file documents it: OmitDefaultRegions
// begins with a capital and stands even when false, so that whoever pastes the
// section sees the switch.
type policyMap struct {
	OmitDefaultRegions bool
	HomeParams         *HomeParams `json:",omitempty"`
	Regions            map[int]*Region
}

// Policy writes the map as the member "derpMap" of a Tailscale policy file,
// indented by tabs to sit one level deep in it, without a comma at the end. In
// braces it is a JSON object. It fails as JSON does.
func Policy(m Map) ([]byte, error) {
	if err := m.representable(); err != nil {
		return nil, fmt.Errorf("writing DERP map for a policy file: %w", err)
	}
	section, err := indented(policyMap{m.OmitDefaultRegions, m.HomeParams, m.Regions}, "\t", "\t")
	if err != nil {
		return nil, err
	}
	return append([]byte("\t\"derpMap\": "), section...), nil
}

// indented leaves <, > and & as they are: the output is read by people and never
// stands inside HTML.
func indented(v any, prefix, indent string) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent(prefix, indent)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("writing DERP map: %w", err)
	}
	return out.Bytes(), nil
}
