package derpmap

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// What a YAML document may cost to decode. yaml.v3 compares every key of a
// mapping with every other and lists each equal pair, again at every alias that
// leads there: 4 MiB can keep it busy for days. A map of 5,000 regions of two
// nodes costs under a quarter of yamlBudget, which is less than a second.
const (
	yamlBudget = 100_000_000 // nodes visited and keys compared
	yamlDepth  = 100         // levels, those of aliases included; a map needs 8
)

// yamlBound walks a parsed document as decoding would, and stops early.
type yamlBound struct {
	budget int
	seen   map[*yaml.Node]bool // mappings whose keys are known to differ
}

func checkYAML(doc *yaml.Node) error {
	b := yamlBound{budget: yamlBudget, seen: make(map[*yaml.Node]bool)}
	return b.walk(doc, yamlDepth)
}

func (b *yamlBound) walk(n *yaml.Node, depth int) error {
	if depth == 0 {
		return fmt.Errorf("line %d: nested more than %d levels deep", n.Line, yamlDepth)
	}
	b.budget--
	if n.Kind == yaml.MappingNode {
		keys := len(n.Content) / 2
		b.budget -= keys * keys / 2
		if err := b.distinct(n); err != nil {
			return err
		}
	}
	if b.budget < 0 {
		return fmt.Errorf("line %d: too many keys or aliases", n.Line)
	}
	if n.Alias != nil {
		return b.walk(n.Alias, depth-1)
	}
	for _, child := range n.Content {
		if err := b.walk(child, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// distinct finds the first key that stands twice in a mapping. Keys are equal
// when yaml.v3 thinks so: by their kind and text.
func (b *yamlBound) distinct(mapping *yaml.Node) error {
	if b.seen[mapping] {
		return nil
	}
	b.seen[mapping] = true
	type key struct {
		kind yaml.Kind
		text string
	}
	lines := make(map[key]int, len(mapping.Content)/2)
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		n := mapping.Content[i]
		k := key{n.Kind, n.Value}
		if line, twice := lines[k]; twice {
			return &keyTwiceError{n.Value, n.Line, line}
		}
		lines[k] = n.Line
	}
	return nil
}

// keyTwiceError says that a key stands twice in one mapping, which yaml.v3 does
// not decode.
type keyTwiceError struct {
	key         string
	line, first int
}

func (e *keyTwiceError) Error() string {
	return fmt.Sprintf("line %d: key %q is already defined at line %d", e.line, e.key, e.first)
}
