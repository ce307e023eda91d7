package derpmap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the longest map in bytes that the parsers take. Tailscale's own
// map of some thirty regions is under 100 KiB.
const MaxSize = 4 << 20

// ErrTooLarge is wrapped by the parsers' error for input longer than MaxSize.
var ErrTooLarge = errors.New("larger than 4 MiB")

// maxReasons is how many of a file's many type errors one message names.
const maxReasons = 3

// ParseError says why a text is not a DERP map.
type ParseError struct {
	Form   string // "JSON", "Headscale YAML" or "Tailscale policy"
	Line   int    // from 1; 0 when not known; of broken YAML syntax it may be a line early
	Reason string // what is wrong, in one line
	Hint   string // what to do about it; may be empty
}

func (e *ParseError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "reading DERP map as %s: ", e.Form)
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	b.WriteString(e.Reason)
	if e.Hint != "" {
		b.WriteString("; hint: ")
		b.WriteString(e.Hint)
	}
	return b.String()
}

// ParseJSON reads a map from JSON as clients and control servers do: the case of
// keys does not matter, unknown keys are skipped, region ids are keys in quotes.
// It says nothing about whether the map would work. Errors are a *ParseError or
// wrap ErrTooLarge.
func ParseJSON(data []byte) (Map, error) {
	if len(data) > MaxSize {
		return Map{}, tooLarge(FormJSON)
	}
	return parseJSON(FormJSON, data)
}

func tooLarge(form Form) error {
	return fmt.Errorf("reading DERP map as %s: %w", form.Title(), ErrTooLarge)
}

func parseJSON(form Form, data []byte) (Map, error) {
	var m Map
	err := json.Unmarshal(data, &m)
	if err == nil {
		return m, nil
	}
	e := &ParseError{Form: form.Title(), Reason: err.Error()}
	var syntaxErr *json.SyntaxError
	var typeErr *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntaxErr):
		e.Line = lineAt(data, syntaxErr.Offset)
	case errors.As(err, &typeErr):
		e.Line = lineAt(data, typeErr.Offset)
		e.Reason = fmt.Sprintf("%s: want %s, got %s", fieldName(typeErr.Field), kindName(typeErr.Type), typeErr.Value)
	}
	return Map{}, e
}

// ParseHeadscale reads a map from YAML exactly as Headscale reads a file of
// derp.paths: only keys in lower case count and others are skipped, a region id
// or number in quotes is an error, a second document is not read, an empty file
// is an empty map. It is stricter where Headscale would hang or could not pass
// the map on: a key that stands twice anywhere, nesting and aliases without end,
// text that is not UTF-8, numbers that are not finite. Errors are a *ParseError
// or wrap ErrTooLarge.
func ParseHeadscale(data []byte) (Map, error) {
	if len(data) > MaxSize {
		return Map{}, tooLarge(FormHeadscale)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return Map{}, yamlError(err)
	}
	if err := checkYAML(&doc); err != nil {
		return Map{}, yamlError(err)
	}
	var m Map
	if err := doc.Decode(&m); err != nil {
		return Map{}, yamlError(err)
	}
	if err := m.representable(); err != nil {
		return Map{}, &ParseError{Form: FormHeadscale.Title(), Reason: err.Error()}
	}
	return m, nil
}

// yamlError turns yaml.v3's errors and checkYAML's, which carry their line in the text
// ("line 3: …"), into one line.
func yamlError(err error) *ParseError {
	reasons := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	var typeErr *yaml.TypeError
	if errors.As(err, &typeErr) && len(typeErr.Errors) > 0 {
		reasons = typeErr.Errors
	}
	e := &ParseError{Form: FormHeadscale.Title()}
	if _, err := fmt.Sscanf(reasons[0], "line %d:", &e.Line); err == nil {
		_, reasons[0], _ = strings.Cut(reasons[0], ": ")
	}
	if more := len(reasons) - maxReasons; more > 0 {
		reasons = append(reasons[:maxReasons:maxReasons], fmt.Sprintf("and %d more", more))
	}
	e.Reason = strings.Join(reasons, "; ")
	if strings.Contains(e.Reason, "!!str") && strings.Contains(e.Reason, "into int") {
		e.Hint = "region ids, ports and other numbers are digits without quotes"
	}
	return e
}

// lineAt is the line, from 1, that holds the byte before offset, which is where
// encoding/json stopped reading.
func lineAt(data []byte, offset int64) int {
	end := min(max(offset-1, 0), int64(len(data)))
	return 1 + bytes.Count(data[:end], []byte{'\n'})
}

func fieldName(path string) string {
	if path == "" {
		return "the map"
	}
	return path
}

// kindName says for people what JSON a Go type is read from.
func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text in quotes"
	case reflect.Slice:
		return "a list"
	default:
		return "an object"
	}
}
