package cert

import (
	"strings"
	"testing"
	"time"
)

func TestReload(t *testing.T) {
	ca := authority(t)
	b := newWatchBed(t, &ca, nil, []string{"a.example"}, []string{"b.example"})
	first := b.Source.Certificates()
	if again := b.scan(false); again || b.log.take() != "" {
		t.Error("nothing has changed, and something was done")
	}
	next := b.putPair(1, &ca, "b.example", "c.example")
	if again := b.scan(false); again {
		t.Error("wants to look again")
	}
	b.serves("b.example", next)
	b.serves("c.example", next)
	if b.Source.Certificates()[0] != first[0] {
		t.Error("the other pair was replaced too")
	}
	text := b.log.take()
	for _, part := range []string{"serving a new certificate", "b.example c.example", "2026-09-01", "1.crt"} {
		if !strings.Contains(text, part) {
			t.Errorf("the log does not say %q:\n%s", part, text)
		}
	}
	if strings.Contains(text, "PIN") || strings.Count(text, "\n") != 1 {
		t.Errorf("logged:\n%s", text)
	}
	b.scan(true)
	if text := b.log.take(); !strings.Contains(text, "nothing new") {
		t.Errorf("asked, and logged: %s", text)
	}
	if s := b.Stats(); s.Reloads != 1 || s.Refused != 0 || s.Refusing == nil || len(s.Refusing) != 0 {
		t.Errorf("stats %+v", s)
	}
}

// A writer that replaces one file after the other is never complained of.
func TestHalfWrittenPair(t *testing.T) {
	ca := authority(t)
	b := newWatchBed(t, &ca, nil, []string{"a.example"})
	old := b.Source.Certificates()[0]
	next := issue(t, named("a.example"), &ca)
	steps := []string{pemCerts(next)[:100], "", pemCerts(next)}
	for _, text := range steps {
		write(t, b.Pairs[0].CertFile, text)
		if again := b.scan(false); !again || b.Source.Certificates()[0] != old {
			t.Errorf("after %d bytes: look again %v", len(text), again)
		}
		b.clock.advance(time.Second)
	}
	if got := b.Stats().Refusing; len(got) != 1 || got[0] != b.Pairs[0].CertFile {
		t.Errorf("refusing %q", got)
	}
	write(t, b.Pairs[0].KeyFile, pemKey(t, next.key))
	if again := b.scan(false); again {
		t.Error("it is whole now")
	}
	b.serves("a.example", next)
	if text := b.log.take(); strings.Contains(text, "refused") || b.Stats().Refused != 0 {
		t.Errorf("logged:\n%s", text)
	}
}

// What stays wrong is said once for each content, and the old one is served.
func TestRefusedAtReload(t *testing.T) {
	ca := authority(t)
	b := newWatchBed(t, &ca, nil, []string{"a.example"}, []string{"b.example"})
	old := b.Source.Certificates()
	other := issue(t, named("b.example"), &ca)
	b.put(b.Pairs[1].CertFile, pemCerts(other))
	for range 4 { // at 0, 2, 4 and 6 s
		b.scan(false)
		b.clock.advance(2 * time.Second)
	}
	text := b.log.take()
	for _, part := range []string{"refused", "1.crt", "it is not the key of certificate", "hint: ", "still served"} {
		if !strings.Contains(text, part) {
			t.Errorf("the log does not say %q:\n%s", part, text)
		}
	}
	b.scan(false)
	if more := b.log.take(); strings.Count(text, "\n") != 1 || more != "" {
		t.Errorf("said more than once:\n%s%s", text, more)
	}
	if b.scan(true); !strings.Contains(b.log.take(), "it is not the key of certificate") {
		t.Error("one who asked was not told")
	}
	// The other pair goes its own way meanwhile.
	next := b.putPair(0, &ca, "a.example")
	b.scan(false)
	b.serves("a.example", next)
	if b.Source.Certificates()[1] != old[1] || b.Stats().Refused != 1 {
		t.Errorf("stats %+v", b.Stats())
	}
	b.log.take()
	// Another wrong content is another line; the old content back is none.
	write(t, b.Pairs[1].CertFile, "x")
	b.scan(false)
	if text := b.log.take(); !strings.Contains(text, "it is not PEM") {
		t.Errorf("logged:\n%s", text)
	}
	write(t, b.Pairs[1].CertFile, block("CERTIFICATE", old[1].chain[0]))
	b.scan(false)
	if text := b.log.take(); text != "" || len(b.Stats().Refusing) != 0 {
		t.Errorf("the old files are back; stats %+v, logged:\n%s", b.Stats(), text)
	}
}

// At a reload, what is wrong for itself or beside others is refused; of several
// new pairs the good ones are taken.
func TestRefusedTogether(t *testing.T) {
	ca := authority(t)
	b := newWatchBed(t, &ca, func(o *WatchOptions) {
		o.Check = func(certs []*Certificate) error { return CheckName(ForName(certs, "a.example"), "a.example") }
	}, []string{"a.example"}, []string{"b.example"}, []string{"c.example"})
	old := b.Source.Certificates()
	b.putPair(0, &ca, "z.example") // would leave the relay without its name
	b.putPair(1, &ca, "c.example") // a second one for that name
	fine := b.putPair(2, &ca, "c.example", "d.example")
	b.scan(true)
	if got := b.Source.Certificates(); got[0] != old[0] || got[1] != old[1] {
		t.Error("a wrong one is served")
	}
	b.serves("d.example", fine)
	text := b.log.take()
	for _, part := range []string{`not valid for \"a.example\"`, `are both for \"c.example\"`, "ECDSA"} {
		if !strings.Contains(text, part) {
			t.Errorf("the log does not say %q:\n%s", part, text)
		}
	}
	// Two that only fit together, as when names move from one file to another.
	b = newWatchBed(t, &ca, nil, []string{"a.example"}, []string{"b.example"})
	second, first := b.putPair(1, &ca, "a.example"), b.putPair(0, &ca, "b.example")
	b.scan(false)
	b.serves("a.example", second)
	b.serves("b.example", first)
}

func TestPinChangesLoudly(t *testing.T) {
	ca := authority(t)
	b := newWatchBed(t, nil, nil, []string{"a.example"})
	old := b.Source.Certificates()[0].Pin()
	b.putPair(0, nil, "a.example")
	b.scan(false)
	text, next := b.log.take(), b.Source.Certificates()[0].Pin()
	for _, part := range []string{"PIN HAS CHANGED", "level=WARN", "old_pin=" + old, "new_pin=" + next} {
		if !strings.Contains(text, part) {
			t.Errorf("the log does not say %q:\n%s", part, text)
		}
	}
	b.putPair(0, &ca, "a.example")
	b.scan(false)
	if text := b.log.take(); !strings.Contains(text, "new_pin=none") {
		t.Errorf("from self-signed to issued: %s", text)
	}
}

// Expired files are refused, and files that are not valid yet are taken later.
func TestDatesAtReload(t *testing.T) {
	ca := authority(t)
	b := newWatchBed(t, &ca, nil, []string{"a.example"})
	old := b.Source.Certificates()[0]
	put := func(from, to time.Duration) issued {
		template := named("a.example")
		template.NotBefore, template.NotAfter = testNow.Add(from), testNow.Add(to)
		leaf := issue(t, template, &ca)
		b.put(b.Pairs[0].CertFile, pemCerts(leaf))
		b.put(b.Pairs[0].KeyFile, pemKey(t, leaf.key))
		return leaf
	}
	put(-days(9), -days(1))
	if b.scan(true); b.Source.Certificates()[0] != old || !strings.Contains(b.log.take(), "expired at") {
		t.Error("an expired one was taken, or it was not said")
	}
	next := put(days(1), days(9))
	if b.scan(true); b.Source.Certificates()[0] != old || !strings.Contains(b.log.take(), "is not valid before") {
		t.Error("one of tomorrow was taken, or it was not said")
	}
	b.clock.advance(days(1))
	b.scan(false)
	b.serves("a.example", next)
	b.clock.advance(-days(300)) // back to when nothing that is there is valid
	newest := put(days(2), days(9))
	b.scan(true)
	b.serves("a.example", newest)
}
