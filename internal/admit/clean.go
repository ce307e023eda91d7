package admit

import (
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

// firstLine returns the first line of text, cleaned.
func firstLine(text string, limit int) string {
	line, _, _ := strings.Cut(strings.TrimLeft(text, "\r\n"), "\n")
	return clean(line, limit)
}
