package derpmap

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/tailscale/hujson"
	"go.yaml.in/yaml/v3"
)

// document is a written map as Check looks at it: every value with its line, and
// what the decoders of Go say nothing about.
type document struct {
	form Form
	root *value

	// Lines from 1; 0 when there is none.
	loose   int // in JSON, the first comment or comma before a closing bracket
	comment int // the first comment within the map
	second  int // in YAML, a second document
}

// kind is what a value is, whatever its form.
type kind int

const (
	isNull kind = iota
	isScalar
	isObject
	isList
)

// value is a node of a document. YAML's aliases share one.
type value struct {
	line    int
	kind    kind
	members []member // of an object, in order of writing; a name may stand twice in JSON
	items   []*value // of a list

	// Of a scalar: its text without quotes, whether it has some, and its decoder,
	// which is that of the form's library.
	text   string
	quoted bool
	decode func(into any) error
}

type member struct {
	name string
	line int
	// number decodes the name as the id of a region; nil: it can be none.
	number func(into *int) error
	value  *value
}

// readDocument parses data, up to MaxSize, without judging it. Errors are a
// *ParseError, a *keyTwiceError or wrap ErrTooLarge.
func readDocument(form Form, data []byte) (*document, error) {
	switch {
	case len(data) > MaxSize:
		return nil, tooLarge(form)
	case form == FormHeadscale:
		return readYAML(data)
	case form == FormPolicy:
		data = wrapped(data)
	}
	root, err := parseHuJSON(form, data)
	if err != nil {
		return nil, err
	}
	doc := &document{form: form}
	inner := &root
	if form == FormPolicy {
		if _, err := plainPolicy(data); err != nil {
			return nil, err
		}
		inner = section(root)
	}
	start, end := inner.StartOffset, inner.EndOffset
	if form == FormJSON {
		start, end = 0, len(data)
	}
	j := jsonReader{data: data, at: 0, line: 1}
	doc.root = j.value(*inner)

	root.Standardize() // which leaves every byte in its place, and literals as they are
	for i, c := range root.Pack()[start:end] {
		if was := data[start+i]; was != c {
			line := 1 + bytes.Count(data[:start+i], []byte{'\n'})
			if doc.loose == 0 {
				doc.loose = line
			}
			if was == '/' {
				doc.comment = line
				break
			}
		}
	}
	return doc, nil
}

// jsonReader turns HuJSON's values into ours. It counts lines on its way, which
// leads through data from its start to its end.
type jsonReader struct {
	data     []byte
	at, line int
}

func (j *jsonReader) lineOf(offset int) int {
	if offset > j.at {
		j.line += bytes.Count(j.data[j.at:offset], []byte{'\n'})
		j.at = offset
	}
	return j.line
}

func (j *jsonReader) value(v hujson.Value) *value {
	out := &value{line: j.lineOf(v.StartOffset)}
	switch from := v.Value.(type) {
	case *hujson.Object:
		out.kind = isObject
		for _, m := range from.Members {
			name, _ := m.Name.Value.(hujson.Literal)
			line := j.lineOf(m.Name.StartOffset)
			out.members = append(out.members, member{
				name: name.String(), line: line, value: j.value(m.Value),
				number: func(into *int) error { return decodeKey(name.String(), into) },
			})
		}
	case *hujson.Array:
		out.kind = isList
		for _, e := range from.Elements {
			out.items = append(out.items, j.value(e))
		}
	case hujson.Literal:
		if from.Kind() == 'n' {
			break
		}
		out.kind = isScalar
		out.quoted = from.Kind() == '"'
		out.text = string(from)
		if out.quoted {
			out.text = from.String()
		}
		out.decode = func(into any) error { return json.Unmarshal(from, into) }
	}
	return out
}

// decodeKey reads a region id as encoding/json does.
func decodeKey(name string, into *int) error {
	var m map[int]struct{}
	key, err := json.Marshal(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(`{`+string(key)+`:{}}`), &m); err != nil {
		return err
	}
	for id := range m {
		*into = id
	}
	return nil
}

func readYAML(data []byte) (*document, error) {
	var parsed yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&parsed); err != nil && !errors.Is(err, io.EOF) {
		return nil, yamlError(err)
	}
	if err := checkYAML(&parsed); err != nil {
		var twice *keyTwiceError
		if errors.As(err, &twice) {
			return nil, twice
		}
		return nil, yamlError(err)
	}
	doc := &document{form: FormHeadscale, root: &value{line: 1}}
	if len(parsed.Content) > 0 {
		y := yamlReader{seen: make(map[*yaml.Node]*value), doc: doc}
		y.comments(&parsed)
		doc.root = y.value(parsed.Content[0])
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		doc.second = max(1, more.Line)
		if err == nil && len(more.Content) == 1 && more.Content[0].ShortTag() == "!!null" {
			doc.second = 0
		}
	}
	return doc, nil
}

// yamlReader turns YAML's nodes into ours, each once. checkYAML has bounded them.
type yamlReader struct {
	seen map[*yaml.Node]*value
	doc  *document
}

func (y *yamlReader) comments(n *yaml.Node) {
	if y.doc.comment == 0 && n.HeadComment+n.LineComment+n.FootComment != "" {
		y.doc.comment = max(1, n.Line)
		if above := strings.Count(n.HeadComment, "\n") + 1; n.HeadComment != "" && n.Line > above {
			y.doc.comment = n.Line - above
		}
	}
	for _, child := range n.Content {
		y.comments(child)
	}
}

func (y *yamlReader) value(n *yaml.Node) *value {
	if n.Alias != nil {
		n = n.Alias
	}
	if v := y.seen[n]; v != nil {
		return v
	}
	out := &value{line: n.Line}
	y.seen[n] = out
	switch n.Kind {
	case yaml.MappingNode:
		out.kind = isObject
		out.members = y.members(n)
	case yaml.SequenceNode:
		out.kind = isList
		for _, item := range n.Content {
			out.items = append(out.items, y.value(item))
		}
	case yaml.ScalarNode:
		if n.ShortTag() == "!!null" {
			break
		}
		out.kind = isScalar
		out.text = n.Value
		out.quoted = n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0
		out.decode = n.Decode
	}
	return out
}

// members lists the keys of a mapping and, before them, those that it merges in
// by << and has not itself; of several merged mappings the first counts.
func (y *yamlReader) members(n *yaml.Node) []member {
	var own, merged []member
	var merges []*yaml.Node
	has := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Alias != nil {
			key = key.Alias
		}
		if key.ShortTag() == "!!merge" {
			merges = append(merges, n.Content[i+1])
			continue
		}
		has[key.Value] = true
		own = append(own, member{
			name: key.Value, line: key.Line, value: y.value(n.Content[i+1]),
			number: func(into *int) error { return key.Decode(into) },
		})
	}
	for len(merges) > 0 {
		from := y.value(merges[0])
		merges = merges[1:]
		lists := from.items
		if from.kind == isObject {
			lists = []*value{from}
		}
		for _, source := range lists {
			for _, m := range source.members {
				if !has[m.name] {
					has[m.name] = true
					merged = append(merged, m)
				}
			}
		}
	}
	return append(merged, own...)
}
