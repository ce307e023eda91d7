package derpmap

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// document checks the text as such.
func (c *checker) document(doc *document) {
	c.reader()
	if doc.loose > 0 && c.For != ForTailscale {
		c.find(finding{rule: "loose-json", line: doc.loose, problem: "a comment, or a comma before a closing bracket, in JSON"})
	}
	if doc.second > 0 {
		c.find(finding{rule: "second-document", line: doc.second, problem: "a second YAML document"})
	}
}

// reader checks that the consumer reads this form at all.
func (c *checker) reader() {
	wrong := func(problem, fix string) {
		c.find(finding{rule: "wrong-form", line: 1, problem: problem, fix: fix})
	}
	switch {
	case c.form == FormPolicy && c.For != ForTailscale:
		wrong("a policy file, of which "+string(c.For)+" understands nothing", "take the map out: detour map convert --to json")
	case c.form == FormHeadscale && c.For != ForHeadscale:
		wrong("YAML, which only Headscale reads", "convert it: detour map convert --to "+string(c.For.form()))
	case c.form == FormHeadscale && c.IsURL:
		wrong("YAML at a URL, where Headscale expects JSON", "serve it as JSON (detour map convert --to json), or save it as a file for derp.paths")
	case c.form == FormJSON && c.For == ForTailscale:
		wrong("a map by itself, where a policy file has it as its derpMap", "paste what detour map convert --to policy prints into the policy file")
	case c.form == FormJSON && c.For == ForHeadscale && !c.IsURL:
		c.find(finding{rule: "json-in-paths", line: 1, problem: "JSON in a file"})
	}
}

// form is what a consumer reads.
func (c Consumer) form() Form {
	if c == ForTailscale {
		return FormPolicy
	}
	return FormJSON
}

// misread turns what the lenient decoder has stumbled over into findings.
func (c *checker) misread(p problem) {
	at := finding{line: p.line, path: p.path, where: c.whereOf(p.path)}
	last := p.path[strings.LastIndexByte(p.path, '/')+1:]
	switch p.what {
	case quotedDigit:
		at.rule = "quoted-number"
		c.unread[p.path] = true
		at.problem = fmt.Sprintf("%s is text, where %s belongs", p.got, p.want)
		if text, err := strconv.Unquote(p.got); err == nil {
			at.fix = fmt.Sprintf("write %s, without quotes", text)
		}
	case wrongKind:
		at.rule = "wrong-type"
		c.unread[p.path] = true
		at.problem = fmt.Sprintf("%s, where %s belongs", cut(p.got), p.want)
		if last != "" {
			at.problem = last + ": " + at.problem
		}
	case keyTwice:
		at.rule, at.severity = "key-twice", Warns
		at.problem = fmt.Sprintf("the key %q stands at line %s already", p.name, p.got)
		at.effect = "the later of the two counts"
	case barePin:
		at.rule = "bare-pin"
		at.problem = "the pin stands without quotes"
	case unknownKey:
		c.unknown(at, p)
		return
	}
	c.find(at)
}

// harmless are the fields without which a client still works.
func harmless(field string) bool {
	switch strings.ToLower(field) {
	case "regioncode", "regionname", "latitude", "longitude", "avoid", "canport80", "homeparams", "omitdefaultregions":
		return true
	}
	return false
}

func (c *checker) unknown(at finding, p problem) {
	if p.want == "" {
		at.rule = "unknown-key"
		at.problem = fmt.Sprintf("%q is no key of a DERP map", p.name)
		c.find(at)
		return
	}
	c.unread[join(p.path, strings.ToLower(p.want))] = true
	want := p.want
	if c.form == FormHeadscale {
		want = strings.ToLower(want)
	}
	at.rule = "misspelt-key"
	at.problem = fmt.Sprintf("%q is not how this key is spelt", p.name)
	at.fix = "write " + want
	if harmless(p.want) {
		at.severity = Warns
	}
	c.find(at)
}

// cannotLoad is for what the parser refuses and nothing else has found.
func (c *checker) cannotLoad(err error) {
	f := finding{rule: "cannot-load", problem: err.Error()}
	var e *ParseError
	if errors.As(err, &e) {
		f.problem, f.line, f.fix = e.Reason, e.Line, e.Hint
	}
	c.find(f)
}

var placeOf = regexp.MustCompile(`^regions/(-?\d+)(?:/nodes/(\d+))?`)

// whereOf is what people call a path.
func (c *checker) whereOf(path string) string {
	m := placeOf.FindStringSubmatch(path)
	if m == nil {
		return ""
	}
	id, err := strconv.Atoi(m[1])
	r := c.m.Regions[id]
	if err != nil || m[2] == "" || r == nil {
		return "region " + m[1]
	}
	i, err := strconv.Atoi(m[2])
	if err != nil || i >= len(r.Nodes) {
		return "region " + m[1]
	}
	return nodeLabel(id, i, r.Nodes[i])
}

// cut shortens what a message quotes.
func cut(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
