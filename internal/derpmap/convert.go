package derpmap

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// Loss is something in a written map that another form does not hold, or that its
// reader has no use for.
type Loss struct {
	Line int    // from 1
	What string // in one line
}

// Convert writes a map, which is in the form from, in the form to. The map comes out
// as it went in; what is not part of it, and what readers of the new form make nothing
// of, is named. JSON may have comments and commas before closing brackets. Errors are a
// *ParseError, wrap ErrTooLarge, or say what the new form cannot hold.
func Convert(data []byte, from, to Form) ([]byte, []Loss, error) {
	m, err := ParseLoose(from, data)
	if err != nil {
		return nil, nil, err
	}
	doc, err := readDocument(from, data)
	if err != nil {
		return nil, nil, err
	}
	text, err := to.Encode(m)
	if err != nil {
		return nil, nil, err
	}
	if back, err := to.Parse(asFile(to, text)); err != nil || !reflect.DeepEqual(back, m) {
		return nil, nil, fmt.Errorf("%s cannot hold this map: %w", to.Title(), errors.Join(errors.New("it does not come back as it was"), err))
	}
	return text, losses(doc, m, to), nil
}

// asFile is what Policy writes as a file of its own; other forms are files already.
func asFile(form Form, text []byte) []byte {
	if form == FormPolicy {
		return wrapped(text)
	}
	return text
}

// ParseLoose is Form.Parse, except that JSON may have what policy files may have:
// comments, and commas before closing brackets.
func ParseLoose(form Form, data []byte) (Map, error) {
	if form != FormJSON || len(data) > MaxSize {
		return form.Parse(data)
	}
	root, err := parseHuJSON(FormJSON, data)
	if err != nil {
		return Map{}, err
	}
	root.Standardize()
	return ParseJSON(root.Pack())
}

func losses(doc *document, m Map, to Form) []Loss {
	var all []Loss
	_, lines := decodeLeniently(doc, func(p problem) {
		switch p.what {
		case unknownKey:
			all = append(all, Loss{p.line, fmt.Sprintf("the key %q is left out: it is no key of a map in %s", p.name, doc.form.Title())})
		case keyTwice:
			all = append(all, Loss{p.line, fmt.Sprintf("the key %q stands at line %s already: the later one counts", p.name, p.got)})
		}
	})
	lose := func(path, what string) { all = append(all, Loss{lineOf(lines, path), what}) }
	if doc.comment > 0 {
		all = append(all, Loss{doc.comment, "comments are left out"})
	}
	if doc.second > 0 {
		all = append(all, Loss{doc.second, "the second YAML document is left out, as Headscale skips it"})
	}
	if to == FormHeadscale {
		if m.HomeParams != nil {
			lose("homeparams", "Headscale makes nothing of HomeParams, which are written all the same")
		}
		if m.OmitDefaultRegions {
			lose("omitdefaultregions", "Headscale makes nothing of omitDefaultRegions, which is written all the same")
		}
		for _, id := range slices.Sorted(maps.Keys(m.Regions)) {
			if m.Regions[id] == nil {
				lose(regionPath(id, ""), fmt.Sprintf("Headscale skips the null region %d and removes nothing by it", id))
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Loss) int { return a.Line - b.Line })
	return all
}
