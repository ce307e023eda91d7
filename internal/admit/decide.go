package admit

import (
	"context"
	"strings"
	"sync"
)

// Tenant is a group of sources under a name. A peer belongs to the first tenant
// that admits it.
type Tenant struct {
	Name    string // a label; empty: the relay's own, when there are no others
	Sources []Source
	// AllOf admits whom every source allows; otherwise one is enough. A tenant
	// without sources admits nobody either way.
	AllOf bool
}

// ruling is what one tenant says of one peer.
type ruling struct {
	answer Answer
	member Member
	failed []string // with Unavailable: which sources could not tell, and why
	doubt  bool     // with Refuse: a source of those that refused was in doubt
}

// peek is the ruling as far as it takes no waiting. It reports false when decide
// must be asked.
func (t *Tenant) peek(r Request) (ruling, bool) {
	var first ruling
	sure, doubt := true, false
	for i, s := range t.Sources {
		v, known := Verdict{}, false
		if p, ok := s.(Peeker); ok {
			v, known = p.Peek(r)
		}
		switch {
		case !known:
			sure = false
		case v.Answer == Allow && !t.AllOf:
			return ruling{answer: Allow, member: v.Member}, true
		case v.Answer == Refuse && v.Doubtful:
			doubt = true
		case v.Answer == Refuse && t.AllOf:
			return ruling{}, true
		case v.Answer == Unavailable:
			sure = false // decide says why
		case v.Answer == Allow && i == 0:
			first = ruling{answer: Allow, member: v.Member}
		}
	}
	if !t.AllOf || len(t.Sources) == 0 || doubt {
		return ruling{doubt: doubt}, sure
	}
	return ruling{answer: Allow, member: first.member}, sure
}

// answered is one source's word, in the order of arrival.
type answered struct {
	index   int
	verdict Verdict
	err     error
}

// decide asks all sources at once and stops listening when the matter is settled.
// The sources have ended when it returns.
func (t *Tenant) decide(ctx context.Context, r Request) ruling {
	ctx, cancel := context.WithCancel(ctx)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	answers := make(chan answered, len(t.Sources))
	for i, s := range t.Sources {
		asked.Go(func() {
			v, err := s.Decide(ctx, r)
			if err != nil { // whatever the answer: an Allow that failed is none
				v = Verdict{Answer: Unavailable}
			}
			answers <- answered{i, v, err}
		})
	}
	return t.settle(answers)
}

func (t *Tenant) settle(answers <-chan answered) ruling {
	var failed []string
	var first Member
	doubt := false
	for range t.Sources {
		a := <-answers
		switch {
		case a.verdict.Answer == Unavailable:
			why := "unavailable"
			if a.err != nil {
				why = a.err.Error()
			}
			failed = append(failed, t.Sources[a.index].Name()+": "+why)
		case a.verdict.Answer == Allow && !t.AllOf:
			return ruling{answer: Allow, member: a.verdict.Member}
		case a.verdict.Answer == Refuse && a.verdict.Doubtful:
			doubt = true
		case a.verdict.Answer == Refuse && t.AllOf:
			return ruling{}
		case a.verdict.Answer == Allow && a.index == 0:
			first = a.verdict.Member
		}
	}
	switch {
	case doubt && t.AllOf: // a refusal, whatever those say that could not tell
	case len(failed) > 0:
		return ruling{answer: Unavailable, failed: failed}
	case t.AllOf && len(t.Sources) > 0:
		return ruling{answer: Allow, member: first}
	}
	return ruling{doubt: doubt}
}

// outcome is what all tenants say of one peer.
type outcome struct {
	answer  Answer
	tenant  int // with Allow: which one
	member  Member
	failed  []string
	unsure  map[string]bool // tenants before the one that allows, or all, that could not tell
	doubt   bool            // with Refuse: see ruling
	sources bool            // there is a source at all
}

// ask takes the tenants in their order. One that must be waited for holds up those
// behind it, which are asked meanwhile.
func ask(ctx context.Context, tenants []Tenant, r Request) outcome {
	rulings := make([]func() ruling, len(tenants))
	ctx, cancel := context.WithCancel(ctx)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	o := outcome{unsure: map[string]bool{}}
	settled := true // all tenants so far have refused without being waited for
	for i := range tenants {
		t := &tenants[i]
		o.sources = o.sources || len(t.Sources) > 0
		now, sure := t.peek(r)
		if sure {
			if settled && now.answer == Allow {
				o.answer, o.tenant, o.member = Allow, i, now.member
				return o
			}
			rulings[i] = func() ruling { return now }
			continue
		}
		settled = false
		later := make(chan ruling, 1)
		asked.Go(func() { later <- t.decide(ctx, r) })
		rulings[i] = func() ruling { return <-later }
	}
	for i, ruled := range rulings {
		switch now := ruled(); now.answer {
		case Allow:
			o.answer, o.tenant, o.member = Allow, i, now.member
			return o
		case Unavailable:
			o.answer = Unavailable
			o.unsure[tenants[i].Name] = true
			o.failed = append(o.failed, now.failed...)
		case Refuse:
			o.doubt = o.doubt || now.doubt
		}
	}
	return o
}

func (o outcome) failure() string { return strings.Join(o.failed, "; ") }
