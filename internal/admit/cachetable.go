package admit

import (
	"container/list"
	"slices"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// kept is one answer of a source.
type kept struct {
	allow  bool
	doubt  bool // of a refusal
	member Member
	at     time.Time // when the source said so
	saved  time.Time // the at that Memory has; zero: it has none
}

func (a *kept) verdict() Verdict {
	if a.allow {
		return Verdict{Answer: Allow, Member: a.member}
	}
	return Verdict{Doubtful: a.doubt}
}

// differs tells whether an Allow is worth saving, which takes the place of before.
func (a *kept) differs(before *kept, gap time.Duration) bool {
	if before == nil || !before.allow {
		return true
	}
	m, b := a.member, before.member
	return a.saved.IsZero() || a.at.Sub(a.saved) >= gap || m.Name != b.Name || m.User != b.User || !slices.Equal(m.Tags, b.Tags)
}

// table holds answers in the order in which they were given. It has no lock.
type table struct {
	most    int
	places  map[key.Public]*list.Element // of *row
	allowed *list.List                   // the oldest answer first
	refused *list.List                   // the oldest answer first
}

type row struct {
	key  key.Public
	kept kept
}

func newTable(most int) table {
	return table{most: most, places: make(map[key.Public]*list.Element), allowed: list.New(), refused: list.New()}
}

func (t *table) len() int     { return len(t.places) }
func (t *table) members() int { return t.allowed.Len() }

// get returns the answer about k, which put replaces and does not change, or nil.
func (t *table) get(k key.Public) *kept {
	if e := t.places[k]; e != nil {
		return &e.Value.(*row).kept
	}
	return nil
}

// put keeps an answer as the youngest. When the table is full, the oldest refusal
// goes, and the oldest Allow when there is none: it returns the keys of Allows that
// went so.
func (t *table) put(k key.Public, a kept) (gone []key.Public) {
	if e := t.places[k]; e != nil {
		if e.Value.(*row).kept.allow && a.allow {
			a.saved = e.Value.(*row).kept.saved
		}
		t.remove(e)
	}
	if len(t.places) >= t.most {
		loser := t.refused.Front()
		if loser == nil {
			if !a.allow { // a stranger is not kept at a member's cost
				return nil
			}
			loser = t.allowed.Front()
			gone = append(gone, loser.Value.(*row).key)
		}
		t.remove(loser)
	}
	t.places[k] = t.of(a.allow).PushBack(&row{key: k, kept: a})
	return gone
}

func (t *table) of(allow bool) *list.List {
	if allow {
		return t.allowed
	}
	return t.refused
}

func (t *table) remove(e *list.Element) {
	r := e.Value.(*row)
	t.of(r.kept.allow).Remove(e)
	delete(t.places, r.key)
}

// expire removes what is too old to serve for anything, and returns the keys of the
// Allows among it.
func (t *table) expire(allowed, refused time.Time) (gone []key.Public) {
	for e := t.refused.Front(); e != nil && e.Value.(*row).kept.at.Before(refused); e = t.refused.Front() {
		t.remove(e)
	}
	for e := t.allowed.Front(); e != nil && e.Value.(*row).kept.at.Before(allowed); e = t.allowed.Front() {
		gone = append(gone, e.Value.(*row).key)
		t.remove(e)
	}
	return gone
}
