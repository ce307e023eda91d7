package config

import (
	"slices"

	"go.yaml.in/yaml/v3"
)

// tenantMapping reads the mapping form of tenants into NAME:SOURCE entries:
//
//	tenants:
//	  home:
//	    admit: ["headscale=https://headscale.example.com"]
//	    policy: any_of
func tenantMapping(node *yaml.Node) (entries []string, faults []fault) {
	seen := map[string]bool{}
	for pair := range slices.Chunk(node.Content, 2) {
		name, body := pair[0], pair[1]
		if name.Kind != yaml.ScalarNode {
			return nil, bad("", "want the name of a tenant, got %s", describe(name))
		}
		if seen[name.Value] {
			return nil, bad("merge the two", "tenant %s is there twice", quote(name.Value))
		}
		seen[name.Value] = true
		sources, faults := tenantBody(name.Value, body)
		if len(faults) > 0 {
			return nil, faults
		}
		entries = append(entries, sources...)
	}
	return entries, nil
}

func tenantBody(name string, body *yaml.Node) (entries []string, faults []fault) {
	if body.Kind == yaml.SequenceNode { // short for admit alone
		list, faults := yamlList(body)
		return prefixed(name, list), faults
	}
	if body.Kind != yaml.MappingNode {
		return nil, bad("write admit: and a list below it", "want the settings of tenant %s, got %s", quote(name), describe(body))
	}
	for pair := range slices.Chunk(body.Content, 2) {
		switch word, value := pair[0].Value, pair[1]; word {
		case "admit":
			list, faults := yamlList(value)
			if len(faults) > 0 {
				return nil, faults
			}
			entries = append(entries, prefixed(name, list)...)
		case "policy":
			if value.Value != PolicyAnyOf && value.Value != PolicyAllOf {
				return nil, bad(didYouMean(value.Value, []string{PolicyAnyOf, PolicyAllOf}), "unknown policy %s of tenant %s", quote(value.Value), quote(name))
			}
			entries = append(entries, name+":"+value.Value)
		default:
			return nil, bad(didYouMean(word, []string{"admit", "policy"}), "unknown setting %s of tenant %s", quote(word), quote(name))
		}
	}
	return entries, nil
}

func prefixed(name string, list []string) []string {
	var entries []string
	for _, e := range joinEntries(list) {
		entries = append(entries, name+":"+e)
	}
	return entries
}
