package derpmap

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/tailscale/hujson"
	"go.yaml.in/yaml/v3"
)

// Form is a written form of a DERP map.
type Form string

// The forms, by the names that `detour map --format` takes.
const (
	FormHeadscale Form = "headscale" // YAML for Headscale's derp.paths
	FormJSON      Form = "json"      // what Headscale fetches from derp.urls, and what clients get
	FormPolicy    Form = "policy"    // a Tailscale policy file in HuJSON, or its derpMap alone
)

// ParseForm takes the name of a form; it says which there are.
func ParseForm(name string) (Form, error) {
	switch f := Form(name); f {
	case FormHeadscale, FormJSON, FormPolicy:
		return f, nil
	}
	return "", fmt.Errorf("%q is no form of a DERP map; hint: use headscale, json or policy", name)
}

// Title is what messages call the form.
func (f Form) Title() string {
	switch f {
	case FormHeadscale:
		return "Headscale YAML"
	case FormPolicy:
		return "Tailscale policy"
	default:
		return "JSON"
	}
}

// Encode writes m in the form; it fails as JSON does.
func (f Form) Encode(m Map) ([]byte, error) {
	switch f {
	case FormHeadscale:
		return Headscale(m)
	case FormPolicy:
		return Policy(m)
	default:
		return JSON(m)
	}
}

// Parse reads a map in the form, as ParseJSON, ParseHeadscale and ParsePolicy do.
func (f Form) Parse(data []byte) (Map, error) {
	switch f {
	case FormHeadscale:
		return ParseHeadscale(data)
	case FormPolicy:
		return ParsePolicy(data)
	default:
		return ParseJSON(data)
	}
}

// policyKey is the member of a policy file that holds the map.
const policyKey = "derpMap"

// DetectForm guesses the form of data by its first characters and, where those
// fit several, by the name of its file or its URL, which may be empty. It looks at
// no more than it needs, and data that is no map has a form too.
func DetectForm(name string, data []byte) Form {
	start := afterComments(data)
	switch {
	case looksLikeSection(start):
		return FormPolicy
	case len(start) == 0 || start[0] != '{' && start[0] != '[':
		if len(start) == 0 && strings.EqualFold(path.Ext(name), ".json") {
			return FormJSON
		}
		return FormHeadscale
	}
	if ext := strings.ToLower(path.Ext(name)); ext == ".yaml" || ext == ".yml" {
		return FormHeadscale
	}
	if checkDepth(data) != nil {
		return FormJSON
	}
	root, err := hujson.Parse(data)
	if err != nil {
		// Flow mappings of YAML begin like JSON.
		var doc yaml.Node
		if yaml.Unmarshal(data, &doc) == nil {
			return FormHeadscale
		}
		return FormJSON
	}
	if section(root) != nil {
		return FormPolicy
	}
	return FormJSON
}

// looksLikeSection reports whether text begins as Policy writes it, with the
// member derpMap and no brace before it.
func looksLikeSection(text []byte) bool {
	const key = `"` + policyKey + `"`
	return len(text) > len(key) && strings.EqualFold(string(text[:len(key)]), key) &&
		bytes.HasPrefix(bytes.TrimLeft(text[len(key):], " \t\r\n"), []byte(":"))
}

// afterComments skips white space and HuJSON's comments at the start.
func afterComments(data []byte) []byte {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	for {
		data = bytes.TrimLeft(data, " \t\r\n")
		var end string
		switch {
		case bytes.HasPrefix(data, []byte("//")):
			end = "\n"
		case bytes.HasPrefix(data, []byte("/*")):
			end = "*/"
		default:
			return data
		}
		_, rest, found := bytes.Cut(data[2:], []byte(end))
		if !found {
			return nil
		}
		data = rest
	}
}

// maxDepth is how deep lists and objects may nest; a map in a policy file needs 7.
const maxDepth = 100

// checkDepth keeps HuJSON from hujson.Parse, which recurses without end, when it
// nests deeper than maxDepth. It knows just enough of the grammar to tell brackets
// from those within texts and comments.
func checkDepth(data []byte) *ParseError {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			i = endOfText(data, i)
		case '/':
			i = endOfComment(data, i)
		}
		if depth > maxDepth {
			return &ParseError{Line: lineAt(data, int64(i+1)), Reason: fmt.Sprintf("nested more than %d levels deep", maxDepth)}
		}
	}
	return nil
}

// endOfText is where the text that starts at i ends.
func endOfText(data []byte, i int) int {
	for i++; i < len(data) && data[i] != '"'; i++ {
		if data[i] == '\\' {
			i++
		}
	}
	return i
}

// endOfComment is where the comment that starts at i ends; i, when none does.
func endOfComment(data []byte, i int) int {
	end := "\n"
	switch {
	case bytes.HasPrefix(data[i:], []byte("/*")):
		end = "*/"
	case !bytes.HasPrefix(data[i:], []byte("//")):
		return i
	}
	n := bytes.Index(data[i+2:], []byte(end))
	if n < 0 {
		return len(data)
	}
	return i + 2 + n + len(end) - 1
}

// parseHuJSON reads JSON with comments and trailing commas.
func parseHuJSON(form Form, data []byte) (hujson.Value, error) {
	if e := checkDepth(data); e != nil {
		e.Form = form.Title()
		return hujson.Value{}, e
	}
	root, err := hujson.Parse(bytes.Clone(data)) // its values share memory with what they are made of
	if err != nil {
		e := &ParseError{Form: form.Title(), Reason: strings.TrimPrefix(err.Error(), "hujson: ")}
		var column int
		if _, err := fmt.Sscanf(e.Reason, "line %d, column %d:", &e.Line, &column); err == nil {
			_, e.Reason, _ = strings.Cut(e.Reason, ": ")
		}
		return hujson.Value{}, e
	}
	return root, nil
}

// wrapped puts a section as Policy writes it into the braces that make it HuJSON.
// Lines stay where they are.
func wrapped(data []byte) []byte {
	if !looksLikeSection(afterComments(data)) {
		return data
	}
	out := append(make([]byte, 0, len(data)+3), '{')
	return append(append(out, data...), '\n', '}')
}

// section returns the map in a policy file: the last derpMap, whatever its case,
// as encoding/json would. Nil when there is none.
func section(root hujson.Value) *hujson.Value {
	object, ok := root.Value.(*hujson.Object)
	if !ok {
		return nil
	}
	var found *hujson.Value
	for i := range object.Members {
		if name, ok := object.Members[i].Name.Value.(hujson.Literal); ok && strings.EqualFold(name.String(), policyKey) {
			found = &object.Members[i].Value
		}
	}
	return found
}

// ParsePolicy reads the derpMap of a Tailscale policy file, which is HuJSON, and
// skips the rest of the file. The member alone, as Policy writes it, will do. What
// stands in it is read as ParseJSON does. Errors are a *ParseError or wrap ErrTooLarge.
func ParsePolicy(data []byte) (Map, error) {
	if len(data) > MaxSize {
		return Map{}, tooLarge(FormPolicy)
	}
	plain, err := plainPolicy(data)
	if err != nil {
		return Map{}, err
	}
	return parseJSON(FormPolicy, plain)
}

// plainPolicy returns the map of a policy file as plain JSON, on the same lines.
func plainPolicy(data []byte) ([]byte, error) {
	data = wrapped(data)
	root, err := parseHuJSON(FormPolicy, data)
	if err != nil {
		return nil, err
	}
	m := section(root)
	if m == nil {
		return nil, &ParseError{
			Form: FormPolicy.Title(), Reason: "there is no derpMap in it",
			Hint: "give the policy file that has one, or say --from json for a map by itself",
		}
	}
	start, end := m.StartOffset, m.EndOffset
	root.Standardize()
	plain := root.Pack()
	before := bytes.Map(func(r rune) rune {
		if r == '\n' {
			return r
		}
		return ' '
	}, plain[:start])
	return append(before, plain[start:end]...), nil
}
