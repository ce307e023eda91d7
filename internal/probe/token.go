package probe

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// tokenHead begins the text of a Token.
const tokenHead = "detour-probe-token"

// Token is what a probe elsewhere logs in with at a relay that knows it for a
// time. Its text, which holds private keys, is
//
//	detour-probe-token
//	relay nodekey:…
//	until 2006-01-02T15:04:05Z
//	privkey:…
//	privkey:…
//
// and lines that begin with # besides.
type Token struct {
	Relay key.Public // whose it is
	Until time.Time
	Keys  [2]key.Private
}

// NewToken makes the keys of a token. What relay it is for, and until when, is for
// the caller to fill in.
func NewToken() Token { return Token{Keys: [2]key.Private{key.NewPrivate(), key.NewPrivate()}} }

// Text is the token as a file holds it.
func (t Token) Text() string {
	return fmt.Sprintf("%s\nrelay %s\nuntil %s\n%s\n%s\n", tokenHead, t.Relay, t.Until.UTC().Format(time.RFC3339), t.Keys[0].Reveal(), t.Keys[1].Reveal())
}

// ParseToken reads what Text writes. Its errors show nothing of the keys.
func ParseToken(text string) (Token, error) {
	var t Token
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	const want = 5 // lines
	if len(lines) != want || lines[0] != tokenHead {
		return t, errors.New("it is no token of a probe; hint: make one on the relay's host with detour admit probe-token --for 10m > FILE")
	}
	relay, ok := strings.CutPrefix(lines[1], "relay ")
	until, ok2 := strings.CutPrefix(lines[2], "until ")
	var errs [4]error
	t.Relay, errs[0] = key.ParsePublic(relay)
	t.Until, errs[1] = time.Parse(time.RFC3339, until)
	t.Keys[0], errs[2] = key.ParsePrivate(lines[3])
	t.Keys[1], errs[3] = key.ParsePrivate(lines[4])
	if err := errors.Join(errs[:]...); err != nil || !ok || !ok2 {
		return t, errors.New("it is no whole token of a probe; hint: make a new one on the relay's host with detour admit probe-token --for 10m > FILE")
	}
	return t, nil
}
