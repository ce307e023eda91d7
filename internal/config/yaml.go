package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file, in bytes: far above what one can need,
// and low enough that no file makes the program slow.
const maxFile = 1 << 20

// file takes the settings of a YAML file. It reports false when the file could
// not be understood as a whole, so that looking further would only confuse.
func (l *loader) file(path string) bool {
	text, err := readBounded(path)
	if err != nil {
		l.problems = append(l.problems, Problem{
			Origin: path, What: fmt.Sprintf("cannot read the file: %v", err),
			Hint: "check the path; detour config example prints a file to start from",
		})
		return false
	}
	return l.yaml(path, text)
}

// readBounded returns an error without the path, which the caller names.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, withoutPath(err)
	}
	if len(text) > maxFile {
		return nil, errors.New("it is larger than 1 MiB")
	}
	return text, nil
}

func withoutPath(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// yaml decodes to nodes and never to Go values: nodes know their line, and
// aliases in them are not followed, so none can grow without bound.
func (l *loader) yaml(path string, text []byte) bool {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return true
	} else if err != nil {
		l.problems = append(l.problems, syntaxProblem(path, err))
		return false
	}
	if err := dec.Decode(&more); err == nil {
		l.problems = append(l.problems, Problem{
			Origin: at(path, more.Line), What: "a second YAML document begins",
			Hint: "remove the line ---, and merge the two",
		})
		return false
	} else if !errors.Is(err, io.EOF) {
		l.problems = append(l.problems, syntaxProblem(path, err))
		return false
	}
	return l.document(path, doc.Content[0])
}

var yamlLine = regexp.MustCompile(`(?s)^yaml: line ([0-9]+): (.*)$`)

func syntaxProblem(path string, err error) Problem {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		return Problem{Origin: path + ":" + m[1], What: "not YAML: " + m[2], Hint: "look at this line and the one before it"}
	}
	return Problem{Origin: path, What: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
}

func at(path string, line int) string { return fmt.Sprintf("%s:%d", path, line) }

// document takes the settings of the top-level mapping.
func (l *loader) document(path string, root *yaml.Node) bool {
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return true // nothing but --- or comments
	}
	if root.Kind != yaml.MappingNode {
		l.problems = append(l.problems, Problem{
			Origin: at(path, root.Line), What: "want settings, got " + describe(root),
			Hint: "write one setting a line, as in listen: \":443\"",
		})
		return false
	}
	first := map[string]int{} // key -> line
	for pair := range slices.Chunk(root.Content, 2) {
		if len(l.problems) > maxProblems {
			return false
		}
		name, origin := pair[0], at(path, pair[0].Line)
		if s, ok := l.yamlKey(name, origin, first); ok {
			first[s.Name] = name.Line
			l.yamlValue(s, origin, pair[1])
		}
	}
	return true
}

// yamlKey finds the setting that a key names, once.
func (l *loader) yamlKey(node *yaml.Node, origin string, first map[string]int) (setting, bool) {
	if node.Kind != yaml.ScalarNode {
		l.problems = append(l.problems, Problem{Origin: origin, What: "want the name of a setting, got " + describe(node)})
		return setting{}, false
	}
	s, ok := lookup(l.table, node.Value)
	if !ok {
		l.problems = append(l.problems, Problem{Origin: origin, What: "unknown setting " + quote(node.Value), Hint: l.keyHint(node.Value)})
		return setting{}, false
	}
	if line, twice := first[s.Name]; twice {
		l.problems = append(l.problems, Problem{
			Setting: s.Name, Origin: origin, What: fmt.Sprintf("set before, on line %d", line), Hint: "remove one of the two",
		})
		return setting{}, false
	}
	return s, true
}

func (l *loader) keyHint(key string) string {
	under := strings.ReplaceAll(key, "-", "_")
	if _, ok := lookup(l.table, under); ok {
		return "write " + under + ", with underscores"
	}
	if near, ok := nearest(under, names(l.table)); ok {
		return "did you mean " + near + "?"
	}
	return "remove it; detour config example lists the settings"
}

func (l *loader) yamlValue(s setting, origin string, node *yaml.Node) {
	if s.Kind == KindList {
		read := yamlList
		if s.mapping != nil && node.Kind == yaml.MappingNode {
			read = s.mapping
		}
		entries, faults := read(node)
		if len(faults) > 0 {
			l.refuse(s, origin, faults)
			return
		}
		l.setList(s, origin, entries)
		return
	}
	if faults := wrongKind(s.Kind, node); len(faults) > 0 {
		l.refuse(s, origin, faults)
		return
	}
	l.set(s, origin, scalar(node))
}

// scalar returns a node's text; a key without a value has none.
func scalar(node *yaml.Node) string {
	if node.ShortTag() == "!!null" {
		return ""
	}
	return node.Value
}

func yamlList(node *yaml.Node) ([]string, []fault) {
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
		return nil, nil
	}
	if node.Kind != yaml.SequenceNode {
		return nil, bad("write it in brackets, as in [any]", "want a list, got %s", describe(node))
	}
	var entries []string
	for _, item := range node.Content {
		if faults := wrongKind(KindText, item); len(faults) > 0 {
			return nil, faults
		}
		entries = append(entries, scalar(item))
	}
	return entries, nil
}

// kinds says for each Kind what a value is called, and by which YAML tags it
// comes. Where an address or duration is written as a number the parser of that
// Kind has the better explanation.
func kinds(k Kind) (want string, tags []string) {
	switch k {
	case KindBool:
		return "true or false", []string{"!!bool", "!!str"}
	case KindInt:
		return "a whole number", []string{"!!int"}
	case KindDuration:
		return "a duration such as 2s", []string{"!!str", "!!int", "!!float"}
	case KindAddress:
		return "an address such as \":443\"", []string{"!!str", "!!int", "!!float", "!!bool"}
	case KindIP:
		return "an IP address", []string{"!!str"}
	case KindPath:
		return "a path", []string{"!!str"}
	case KindList:
		return "a list", nil
	case KindText:
	}
	return "text", []string{"!!str"}
}

func wrongKind(k Kind, node *yaml.Node) []fault {
	want, tags := kinds(k)
	tag := node.ShortTag()
	if node.Kind == yaml.ScalarNode && (tag == "!!null" || slices.Contains(tags, tag)) {
		return nil
	}
	hint := ""
	switch {
	case node.Kind == yaml.AliasNode:
		hint = "write the value itself"
	case node.Kind != yaml.ScalarNode:
	case k == KindInt && tag == "!!str" && strings.Trim(node.Value, "0123456789") == "":
		hint = "write it without quotes"
	case k == KindText:
		hint = "put it in quotes"
	}
	return bad(hint, "want %s, got %s", want, describe(node))
}

// describe names what stands in the file, for errors.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "the alias *" + node.Value
	case yaml.ScalarNode, yaml.DocumentNode:
	}
	switch node.ShortTag() {
	case "!!int", "!!float":
		return "the number " + node.Value
	case "!!str":
		return "the text " + quote(node.Value)
	case "!!null":
		return "nothing"
	}
	return quote(node.Value)
}
