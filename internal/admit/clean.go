package admit

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean makes a foreign text fit to be shown on one line: valid UTF-8 of at most
// limit octets, with a space for each run of spaces and of what cannot be printed.
func clean(text string, limit int) string {
	if len(text) > 8*limit { // before the work, not after it
		text = text[:8*limit]
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= limit {
		return text
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut]
}

// cleaned is m as it may be kept and shown, whoever has written it: each name and tag
// cleaned, and tagLimit tags at most.
func (m Member) cleaned() Member {
	c := Member{Name: clean(m.Name, nameLimit), User: clean(m.User, nameLimit)}
	for _, tag := range m.Tags {
		if len(c.Tags) == tagLimit {
			break
		}
		if tag = clean(tag, nameLimit); tag != "" && !slices.Contains(c.Tags, tag) {
			c.Tags = append(c.Tags, tag)
		}
	}
	return c
}

// firstLine returns the first line of text, cleaned.
func firstLine(text string, limit int) string {
	line, _, _ := strings.Cut(strings.TrimLeft(text, "\r\n"), "\n")
	return clean(line, limit)
}
