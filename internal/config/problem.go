package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Setting string // its name in YAML; empty: not about one setting
	Origin  string // FILE, FILE:LINE, DETOUR_NAME or --flag; empty: a default, or unknown
	What    string // what is wrong
	Hint    string // the next step; may be empty
}

// String returns the problem as one line, ending in the next step.
func (p Problem) String() string {
	var b strings.Builder
	switch {
	case p.Setting != "" && p.Origin != "":
		fmt.Fprintf(&b, "%s (%s): ", p.Setting, p.Origin)
	case p.Setting != "" || p.Origin != "":
		fmt.Fprintf(&b, "%s%s: ", p.Setting, p.Origin)
	}
	b.WriteString(p.What)
	if p.Hint != "" {
		b.WriteString("; hint: ")
		b.WriteString(p.Hint)
	}
	return b.String()
}

// Error is everything that is wrong with a configuration: at least one Problem.
// Load and Check return it, for callers that want more than its text.
type Error struct {
	Problems []Problem
}

// Error returns one line for one problem, and a heading and a line for each of
// several.
func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return "config: " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "config: %d problems:", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  ")
		b.WriteString(p.String())
	}
	return b.String()
}

// maxProblems is how many are reported at most: nobody reads more.
const maxProblems = 50

// errorOf returns nil for no problems. The result's type is error so that no
// typed nil gets out.
func errorOf(list []Problem) error {
	if len(list) == 0 {
		return nil
	}
	if len(list) > maxProblems {
		list = append(slices.Clone(list[:maxProblems]), Problem{What: "and more", Hint: "mend these first"})
	}
	return &Error{Problems: list}
}

// fault is what a check finds, before it is known where the value came from.
type fault struct {
	what, hint string
}

// bad returns one fault. The hint is text, not a format.
func bad(hint, format string, args ...any) []fault {
	return []fault{{what: fmt.Sprintf(format, args...), hint: hint}}
}

// quote quotes a value for an error, and cuts one that would fill the screen.
func quote(s string) string {
	const most = 80 // bytes
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}

// didYouMean returns a hint that names the one of known nearest to s, or all of
// them when none is near.
func didYouMean(s string, known []string) string {
	if name, ok := nearest(s, known); ok {
		return "did you mean " + name + "?"
	}
	return "use " + joinOr(known)
}

func joinOr(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	last := len(list) - 1
	return strings.Join(list[:last], ", ") + " or " + list[last]
}

// nearest returns the one of known that is fewest typing slips away from s, if
// it is near enough to be what was meant: one slip for three letters.
func nearest(s string, known []string) (string, bool) {
	const longest = 64 // bytes; nobody means a setting by more
	if len(s) > longest {
		return "", false
	}
	s = strings.ToLower(s)
	best, least := "", max(1, len(s)/3)+1
	for _, name := range known {
		if d := slips(s, name); d < least {
			best, least = name, d
		}
	}
	return best, best != ""
}

// slips counts the insertions, deletions, replacements and swaps of neighbours
// between a and b (the optimal string alignment distance), by bytes.
func slips(a, b string) int {
	before, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(prev[j+1]+1, row[j]+1, prev[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, prev = prev, slices.Clone(row)
	}
	return prev[len(b)]
}
