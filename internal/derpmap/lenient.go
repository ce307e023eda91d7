package derpmap

import (
	"reflect"
	"strconv"
	"strings"
)

// lenient decodes a document as far as it goes, where the decoders of Go give up
// at the first value of a wrong kind, and notes the line of everything.
type lenient struct {
	doc   *document
	lines map[string]int // by path, such as "regions/900/nodes/0/hostname"
	note  func(problem)
}

// problem is something about the writing that decoders refuse, or skip.
type problem struct {
	what problemKind
	path string
	line int
	name string // of the key as it is written
	want string // the kind of value that belongs here, or the key that is meant
	got  string
}

type problemKind int

const (
	wrongKind   problemKind = iota // a value of another kind than want
	quotedDigit                    // a number in quotes, in YAML
	unknownKey                     // want may name the key that is meant
	keyTwice                       // the same key twice, in JSON
	barePin                        // a pin without quotes, in YAML
)

// decodeLeniently returns what can be read of the map, and the line of each of
// its values. What cannot be read is told to note and left zero.
func decodeLeniently(doc *document, note func(problem)) (Map, map[string]int) {
	l := &lenient{doc: doc, lines: make(map[string]int), note: note}
	var m Map
	l.into(doc.root, reflect.ValueOf(&m).Elem(), "", doc.root.line)
	return m, l.lines
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "/" + name
}

// into decodes v, which begins at line or whose key does, into out.
func (l *lenient) into(v *value, out reflect.Value, path string, line int) {
	l.lines[path] = line
	if v.kind == isNull {
		// A list of nodes may hold nulls, and so may the regions.
		return
	}
	switch out.Kind() {
	case reflect.Pointer:
		fresh := reflect.New(out.Type().Elem())
		if l.isKind(v, isObject, path, out.Type().Elem()) {
			l.into(v, fresh.Elem(), path, line)
		}
		out.Set(fresh)
	case reflect.Struct:
		if l.isKind(v, isObject, path, out.Type()) {
			l.fields(v, out, path)
		}
	case reflect.Map:
		if l.isKind(v, isObject, path, out.Type()) {
			l.entries(v, out, path)
		}
	case reflect.Slice:
		if l.isKind(v, isList, path, out.Type()) {
			out.Set(reflect.MakeSlice(out.Type(), len(v.items), len(v.items)))
			for i, item := range v.items {
				l.into(item, out.Index(i), join(path, strconv.Itoa(i)), item.line)
			}
		}
	default:
		l.scalar(v, out, path)
	}
}

func (l *lenient) isKind(v *value, want kind, path string, t reflect.Type) bool {
	if v.kind != want {
		l.wrong(v, path, kindName(t))
	}
	return v.kind == want
}

func (l *lenient) wrong(v *value, path, want string) {
	p := problem{what: wrongKind, path: path, line: v.line, want: want}
	switch v.kind {
	case isObject:
		p.got = "an object"
	case isList:
		p.got = "a list"
	default:
		p.got = v.text
		if v.quoted {
			p.got = strconv.Quote(v.text)
		}
	}
	if _, err := strconv.ParseFloat(v.text, 64); err == nil && v.quoted && l.doc.form == FormHeadscale {
		p.what = quotedDigit
	}
	l.note(p)
}

func (l *lenient) scalar(v *value, out reflect.Value, path string) {
	if v.kind != isScalar {
		l.wrong(v, path, kindName(out.Type()))
		return
	}
	fresh := reflect.New(out.Type())
	if err := v.decode(fresh.Interface()); err != nil {
		l.wrong(v, path, kindName(out.Type()))
		return
	}
	out.Set(fresh.Elem())
	if l.doc.form == FormHeadscale && !v.quoted && strings.HasPrefix(v.text, PinPrefix) {
		l.note(problem{what: barePin, path: path, line: v.line, got: v.text})
	}
}

// entries reads the members of an object whose names are region ids.
func (l *lenient) entries(v *value, out reflect.Value, path string) {
	if out.IsNil() {
		out.Set(reflect.MakeMapWithSize(out.Type(), len(v.members)))
	}
	seen := make(map[int]int, len(v.members))
	for _, m := range v.members {
		var id int
		if err := m.number(&id); err != nil {
			p := problem{what: wrongKind, path: path, line: m.line, want: "a region id in digits", got: strconv.Quote(m.name)}
			if _, err := strconv.Atoi(m.name); err == nil && l.doc.form == FormHeadscale {
				p.what = quotedDigit
			}
			l.note(p)
			continue
		}
		at := join(path, strconv.Itoa(id))
		if first, twice := seen[id]; twice {
			l.note(problem{what: keyTwice, path: at, line: m.line, name: m.name, got: strconv.Itoa(first)})
		}
		seen[id] = m.line
		fresh := reflect.New(out.Type().Elem()).Elem()
		l.into(m.value, fresh, at, m.line)
		out.SetMapIndex(reflect.ValueOf(id), fresh)
	}
}

// fields reads the members of an object whose names are fields of a struct.
func (l *lenient) fields(v *value, out reflect.Value, path string) {
	seen := make(map[string]int, len(v.members))
	for _, m := range v.members {
		i := l.field(out.Type(), m.name)
		if i < 0 {
			l.note(problem{what: unknownKey, path: path, line: m.line, name: m.name, want: meant(out.Type(), m.name)})
			continue
		}
		key := strings.ToLower(out.Type().Field(i).Name)
		at := join(path, key)
		if first, twice := seen[key]; twice {
			l.note(problem{what: keyTwice, path: at, line: m.line, name: m.name, got: strconv.Itoa(first)})
		}
		seen[key] = m.line
		line := m.line
		if m.value.kind == isScalar {
			line = m.value.line
		}
		l.into(m.value, out.Field(i), at, line)
	}
}

// field is the index of the field that a key sets, by the rules of the form, or -1.
func (l *lenient) field(t reflect.Type, name string) int {
	for i := range t.NumField() {
		if l.doc.form == FormHeadscale {
			if name == strings.ToLower(t.Field(i).Name) {
				return i
			}
		} else if strings.EqualFold(name, t.Field(i).Name) {
			return i
		}
	}
	return -1
}

// meant is the key that a misspelt one is likely to stand for: written in another
// case, or with words held apart ("hostName", "derp_port"). Empty: there is none.
func meant(t reflect.Type, name string) string {
	bare := strings.NewReplacer("_", "", "-", "", " ", "").Replace(name)
	for i := range t.NumField() {
		if strings.EqualFold(bare, t.Field(i).Name) {
			return t.Field(i).Name
		}
	}
	return ""
}

// lineOf is the line of a path, or else of what it would stand in.
func lineOf(lines map[string]int, path string) int {
	for {
		if line := lines[path]; line > 0 {
			return line
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return max(lines[""], 1)
		}
		path = path[:i]
	}
}
