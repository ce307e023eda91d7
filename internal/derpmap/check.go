package derpmap

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Consumer is what reads a map.
type Consumer string

// The consumers.
const (
	ForHeadscale  Consumer = "headscale"  // Headscale, which hands its regions to clients
	ForTailscale  Consumer = "tailscale"  // the policy file of a tailnet under Tailscale's control
	ForTailscaled Consumer = "tailscaled" // clients themselves, from any other control server
)

// ParseConsumer takes the name of a consumer; it says which there are.
func ParseConsumer(name string) (Consumer, error) {
	switch c := Consumer(name); c {
	case ForHeadscale, ForTailscale, ForTailscaled:
		return c, nil
	}
	return "", fmt.Errorf("%q reads no DERP map; hint: use headscale, tailscale or tailscaled", name)
}

// Consumer is who most likely reads the form.
func (f Form) Consumer() Consumer {
	if f == FormPolicy {
		return ForTailscale
	}
	return ForHeadscale
}

// Severity says how much a finding matters.
type Severity string

// The severities.
const (
	Breaks Severity = "breaks" // a client, or the whole map, does not work
	Warns  Severity = "warns"  // it works, but hardly as it is meant
	Note   Severity = "note"   // worth knowing
)

// Finding is what Check has to say about one place in a map.
type Finding struct {
	Rule     string   `json:"rule"` // from Rules
	Severity Severity `json:"severity"`
	Line     int      `json:"line"`            // from 1
	Where    string   `json:"where,omitempty"` // "region 900, node 900a"; empty: the map as a whole
	Problem  string   `json:"problem"`
	Effect   string   `json:"effect"` // what it does to clients
	Fix      string   `json:"fix"`
}

// CheckOptions say what Check cannot see in the text.
type CheckOptions struct {
	Name  string   // of the file, or the URL; for guessing the form
	Form  Form     // empty: guessed
	For   Consumer // empty: guessed from the form
	IsURL bool     // Name is a URL, where Headscale expects JSON

	// Probe asks port 80 of IPv4 addresses whose nodes have CanPort80, each once.
	// Nil: nobody looks, which a finding says.
	Probe func(ipv4 []string) map[string]PortAnswer
}

// PortAnswer is what CheckOptions.Probe has found at one address. Its zero value
// is the answer that clients look for.
type PortAnswer struct {
	Silent bool   // nothing answers there
	Wrong  string // what answers, when it is not what clients look for
}

// Report is what Check has found.
type Report struct {
	Form     Form      `json:"form"`
	For      Consumer  `json:"for"`
	Regions  int       `json:"regions"` // that are not null
	Nodes    int       `json:"nodes"`
	Findings []Finding `json:"findings"` // by line
	More     int       `json:"more"`     // findings left out, each of a rule that has a hundred already
}

// maxOfAKind is how many findings of one rule and severity a report lists.
const maxOfAKind = 100

type kindOf struct {
	rule     string
	severity Severity
}

// Count is how many findings have a severity.
func (r Report) Count(s Severity) int {
	n := 0
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Check reads a written map and says what clients would stumble over. An error,
// a *ParseError or one that wraps ErrTooLarge, says that it cannot be read at all;
// what can be read in part has findings.
func Check(data []byte, o CheckOptions) (Report, error) {
	c := newChecker(data, o)
	doc, err := readDocument(c.form, data)
	var twice *keyTwiceError
	switch {
	case errors.As(err, &twice):
		c.find(finding{rule: "key-twice", line: twice.line, problem: fmt.Sprintf(
			"the key %q stands at line %d already; nothing else was looked at", twice.key, twice.first)})
		return c.report(), nil
	case err != nil:
		return Report{}, err
	}
	var misread []problem
	c.m, c.lines = decodeLeniently(doc, func(p problem) { misread = append(misread, p) })
	for _, p := range misread {
		c.misread(p)
	}
	c.document(doc)
	if _, err := c.form.Parse(data); err != nil && !c.breaks() && doc.loose == 0 {
		c.cannotLoad(err)
	}
	c.wholeMap()
	c.probe()
	for _, id := range c.ids {
		c.region(id, c.m.Regions[id])
	}
	c.across()
	return c.report(), nil
}

// checker gathers findings.
type checker struct {
	CheckOptions
	form     Form
	rules    map[string]Rule
	findings []Finding
	counts   map[kindOf]int
	more     int

	m     Map
	lines map[string]int // by path, see lenient
	ids   []int          // of the regions, ascending

	// unread are the paths whose values could not be read: what is missing there has
	// a finding already.
	unread map[string]bool

	answers map[string]PortAnswer // of port 80, by address; nil: nobody has looked
}

func newChecker(data []byte, o CheckOptions) *checker {
	c := &checker{CheckOptions: o, form: o.Form, rules: make(map[string]Rule), unread: make(map[string]bool), counts: make(map[kindOf]int), findings: []Finding{}}
	if c.form == "" {
		c.form = DetectForm(o.Name, data)
	}
	if c.For == "" {
		c.For = c.form.Consumer()
	}
	for _, r := range Rules() {
		c.rules[r.ID] = r
	}
	return c
}

// finding is a Finding in the making: what it lacks comes from its rule.
type finding struct {
	rule        string
	severity    Severity // empty: the rule's
	path        string   // where the line is looked up, unless line is set
	line        int
	where       string
	problem     string
	effect, fix string // empty: the rule's
}

func (c *checker) find(f finding) {
	if f.line == 0 && c.unread[f.path] {
		return
	}
	r := c.rules[f.rule]
	f.severity = cmp.Or(f.severity, r.Severity)
	same := kindOf{f.rule, f.severity}
	if c.counts[same]++; c.counts[same] > maxOfAKind {
		c.more++
		return
	}
	if f.line == 0 {
		f.line = lineOf(c.lines, f.path)
	}
	c.findings = append(c.findings, Finding{
		Rule: f.rule, Severity: f.severity, Line: f.line, Where: f.where,
		Problem: f.problem, Effect: cmp.Or(f.effect, r.Effect), Fix: cmp.Or(f.fix, r.Fix),
	})
}

func (c *checker) breaks() bool {
	return slices.ContainsFunc(c.findings, func(f Finding) bool { return f.Severity == Breaks })
}

func (c *checker) report() Report {
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return cmp.Compare(a.Line, b.Line) })
	r := Report{Form: c.form, For: c.For, Findings: c.findings, More: c.more}
	for _, region := range c.m.Regions {
		if region != nil {
			r.Regions++
			r.Nodes += len(region.Nodes)
		}
	}
	return r
}

// Paths, as lenient makes them, and what people call the places.

func regionPath(id int, field string) string {
	return strings.TrimSuffix(fmt.Sprintf("regions/%d/%s", id, field), "/")
}

func nodePath(id, i int, field string) string {
	return regionPath(id, strings.TrimSuffix(fmt.Sprintf("nodes/%d/%s", i, field), "/"))
}

func regionLabel(id int) string { return fmt.Sprintf("region %d", id) }

func nodeLabel(id, i int, n *Node) string {
	name := "number " + strconv.Itoa(i+1)
	if n != nil && n.Name != "" {
		name = n.Name
	}
	return fmt.Sprintf("region %d, node %s", id, name)
}
