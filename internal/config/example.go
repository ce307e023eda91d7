package config

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// exampleWidth is the longest line of prose in the example, in bytes.
const exampleWidth = 90

const exampleHead = `# The configuration of a Detour relay, with every setting at its default.
#
# A line that begins with # and a space explains; one with # and no space between is a
# setting: take the # away and change the value. What is not set keeps its default, and
# an empty text ("") is the default too where one is shown here. Unknown settings are errors.
#
# Each setting is also an environment variable, which overrides this file, and a flag,
# which overrides both. Defaults that differ between root and other users are root's.
# A list replaces the list it overrides as a whole.
# detour config check FILE explains what a file means.
`

// Example returns the annotated YAML file, in which every setting stands
// commented out at its default for root.
func Example() []byte {
	var b bytes.Buffer
	b.WriteString(exampleHead)
	heading := ""
	for _, s := range table() {
		if s.section != heading {
			heading = s.section
			fmt.Fprintf(&b, "\n# ---- %s ----\n", heading)
		}
		b.WriteByte('\n')
		prose(&b, upperFirst(s.Usage)+". "+s.Note)
		if s.Default != "" {
			prose(&b, "Default: "+s.Default+".")
		}
		prose(&b, fmt.Sprintf("(%s; %s; --%s)", s.Kind, s.EnvName(), s.FlagName()))
		fmt.Fprintf(&b, "#%s: %s\n", s.Name, exampleValue(s))
	}
	return b.Bytes()
}

// exampleValue writes the default as YAML.
func exampleValue(s setting) string {
	switch s.Kind {
	case KindList:
		return "[" + strings.Join(splitList(s.value), ", ") + "]"
	case KindBool, KindInt, KindDuration:
		return s.value
	case KindText, KindAddress, KindIP, KindPath:
	}
	if plainText.MatchString(s.value) {
		return s.value
	}
	return strconv.Quote(s.value)
}

// plainText matches what YAML reads as text without quotes.
var plainText = regexp.MustCompile(`^[a-z/][a-z0-9_./-]*$`)

// prose writes words as comment lines of at most exampleWidth bytes.
func prose(b *bytes.Buffer, words string) {
	line := "#"
	for word := range strings.FieldsSeq(words) {
		if len(line)+1+len(word) > exampleWidth {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}

func upperFirst(s string) string {
	return strings.ToUpper(s[:1]) + s[1:]
}
