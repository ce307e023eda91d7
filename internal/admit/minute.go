package admit

import (
	"fmt"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Bounds of what one minute remembers and says.
const (
	maxLines  = 10   // refused keys with a line of their own
	maxUnsaid = 1000 // distinct keys without a line that are told apart
)

// minute is the account of the refusals of one minute. Minutes follow each other
// without a gap from the moment the gate was made. It knows neither clock nor
// logger nor lock: its owner brings all three.
type minute struct {
	began time.Time
	// keys says of each key refused in this minute whether it had a line.
	// At most maxLines+maxUnsaid entries.
	keys     map[key.Public]bool
	lines    int    // entries of keys that are true
	unsaid   uint64 // refusals of keys that had no line
	overflow bool   // a key found no room in keys

	promoted, dismissed quota
}

// quota is a kind of event of which the first of a minute have lines of their own.
type quota struct{ lines, unsaid int }

// note counts an event and reports whether it deserves a line.
func (q *quota) note() bool {
	if q.lines < maxLines {
		q.lines++
		return true
	}
	q.unsaid++
	return false
}

func newMinute(now time.Time) minute {
	return minute{began: now, keys: make(map[key.Public]bool)}
}

// note counts the refusal of k and reports whether it deserves a line.
func (m *minute) note(k key.Public) (line bool) {
	had, known := m.keys[k]
	switch {
	case known && had:
		return false // a client that retries in a loop: its line says it all
	case !known && m.lines < maxLines:
		m.keys[k] = true
		m.lines++
		return true
	case !known && len(m.keys) < maxLines+maxUnsaid:
		m.keys[k] = false
	case !known:
		m.overflow = true
	}
	m.unsaid++
	return false
}

// roll ends the minute if now lies beyond it and returns its summary. While the
// minute goes on, the summary is empty.
func (m *minute) roll(now time.Time) summary {
	passed := now.Sub(m.began).Truncate(time.Minute)
	if passed <= 0 {
		return summary{}
	}
	m.began = m.began.Add(passed)
	return m.end()
}

// left returns how long the minute still goes on, 0 when it is over.
func (m *minute) left(now time.Time) time.Duration {
	return max(0, m.began.Add(time.Minute).Sub(now))
}

// end empties the account and returns what it had not said.
func (m *minute) end() summary {
	s := summary{
		refusals: m.unsaid, keys: len(m.keys) - m.lines, atLeast: m.overflow,
		promoted: m.promoted.unsaid, dismissed: m.dismissed.unsaid,
	}
	clear(m.keys)
	m.lines, m.unsaid, m.overflow, m.promoted, m.dismissed = 0, 0, false, quota{}, quota{}
	return s
}

// summary is what a minute leaves to say. With no refusals there is nothing to say.
type summary struct {
	refusals uint64
	keys     int
	atLeast  bool // keys is a lower bound

	promoted, dismissed int
}

func (s summary) String() string {
	refusals, keys, bound := "refusals", "keys", ""
	if s.refusals == 1 {
		refusals = "refusal"
	}
	if s.keys == 1 {
		keys = "key"
	}
	if s.atLeast {
		bound = "at least "
	}
	return fmt.Sprintf("%d more %s from %s%d %s within a minute", s.refusals, refusals, bound, s.keys, keys)
}
