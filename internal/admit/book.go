package admit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/detour-relay/detour/internal/key"
)

// Bounds of a Book.
const (
	maxRules = 100_000
	maxBans  = 10_000
	maxNote  = 200 // bytes of a name or note
)

// Rule is what the operator has said of one key.
type Rule struct {
	Key    key.Public `json:"key"`
	Allow  bool       `json:"allow"`            // else it is denied, whatever the sources say
	Tenant string     `json:"tenant,omitempty"` // whose "ask" an allow answers
	Name   string     `json:"name,omitempty"`
	Note   string     `json:"note,omitempty"`
	At     time.Time  `json:"at"`
}

// Ban keeps a key or a network out, for a time or for ever.
type Ban struct {
	Key   key.Public   `json:"key,omitzero"`
	Net   netip.Prefix `json:"net,omitzero"`   // set when Key is not
	Until time.Time    `json:"until,omitzero"` // zero: for ever
	Note  string       `json:"note,omitempty"`
	At    time.Time    `json:"at"`
}

// Target is the key or network in words.
func (b Ban) Target() string {
	if b.Net.IsValid() {
		return b.Net.String()
	}
	return b.Key.String()
}

func (b Ban) over(now time.Time) bool { return !b.Until.IsZero() && !now.Before(b.Until) }

// Book holds the operator's rules and the sources' kept answers, in memory and in
// one file. What a login needs is answered from memory; a change is on disk before
// its method returns. It is safe for concurrent use.
type Book struct {
	file   *bookFile
	now    func() time.Time
	logger *slog.Logger
	wake   chan struct{} // holds one at most: a ban with an end was added

	writing sync.Mutex // one change at a time: file, then memory

	mu    sync.RWMutex
	rules map[key.Public]Rule        // guarded by mu
	keys  map[key.Public]Ban         // guarded by mu
	nets  map[int]map[netip.Addr]Ban // guarded by mu; by length, IPv6 ones with 1000 added
}

// BookOptions configure OpenBook. All of them may be left zero.
type BookOptions struct {
	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: silent
}

// OpenBook opens the book at path, or begins one with mode 0600. A file that is
// damaged is moved aside and reported, since the relay must start. A file that
// another process has open is an error after a second.
func OpenBook(path string, o BookOptions) (*Book, error) {
	b := &Book{
		now: o.Now, logger: o.Logger, wake: make(chan struct{}, 1),
		rules: make(map[key.Public]Rule), keys: make(map[key.Public]Ban), nets: make(map[int]map[netip.Addr]Ban),
	}
	if b.now == nil {
		b.now = time.Now
	}
	if b.logger == nil {
		b.logger = slog.New(slog.DiscardHandler)
	}
	file, err := openBookFile(path, b.logger, b.now())
	if err != nil {
		return nil, err
	}
	b.file = file
	odd, err := file.load(func(r Rule) { b.rules[r.Key] = r }, b.put)
	if err != nil {
		_ = file.close() // the first error says it
		return nil, err
	}
	if odd > 0 {
		b.logger.Error("some of what was decided about nodes cannot be read and does not count; hint: was the file written by a newer Detour? "+
			"detour admit list and detour ban --list show what counts", "file", path, "records", odd)
	}
	return b, nil
}

// Close closes the file. What a method did before is on disk.
func (b *Book) Close() error {
	b.writing.Lock()
	defer b.writing.Unlock()
	return b.file.close()
}

// netIndex says under which length of Book.nets a prefix is.
func netIndex(p netip.Prefix) int {
	if p.Addr().Is6() {
		return 1000 + p.Bits()
	}
	return p.Bits()
}

// put takes a ban into memory. The caller holds mu, or is alone.
func (b *Book) put(ban Ban) {
	if !ban.Net.IsValid() {
		b.keys[ban.Key] = ban
		return
	}
	i := netIndex(ban.Net)
	if b.nets[i] == nil {
		b.nets[i] = make(map[netip.Addr]Ban)
	}
	b.nets[i][ban.Net.Addr()] = ban
}

// drop is the opposite of put.
func (b *Book) drop(ban Ban) {
	if !ban.Net.IsValid() {
		delete(b.keys, ban.Key)
		return
	}
	i := netIndex(ban.Net)
	delete(b.nets[i], ban.Net.Addr())
	if len(b.nets[i]) == 0 {
		delete(b.nets, i)
	}
}

// Bars returns ReasonBanned or ReasonDenied for a peer that the operator keeps out,
// and "" for others. A peer without an address is of no network.
func (b *Book) Bars(r Request) string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if len(b.keys)+len(b.nets) > 0 && b.banned(r) {
		return ReasonBanned
	}
	if rule, ok := b.rules[r.Key]; ok && !rule.Allow {
		return ReasonDenied
	}
	return ""
}

func (b *Book) banned(r Request) bool {
	now := b.now()
	if ban, ok := b.keys[r.Key]; ok && !ban.over(now) {
		return true
	}
	addr := r.Addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return false
	}
	for i, nets := range b.nets {
		bits, v6 := i, i >= 1000
		if v6 {
			bits -= 1000
		}
		if v6 != addr.Is6() {
			continue
		}
		p, err := addr.Prefix(bits)
		if err != nil {
			continue
		}
		if ban, ok := nets[p.Addr()]; ok && !ban.over(now) {
			return true
		}
	}
	return false
}

// Put keeps a rule, in place of the one that the key has, and returns what is kept: At
// is set, and an empty Name or Note stays as it was.
func (b *Book) Put(r Rule) (Rule, error) {
	if r.Key.IsZero() {
		return Rule{}, errors.New("a rule needs a key; hint: detour admit pending lists those that tried")
	}
	if err := errors.Join(checkWords("name", r.Name), checkWords("note", r.Note)); err != nil {
		return Rule{}, err
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.RLock()
	before, known := b.rules[r.Key]
	full := !known && len(b.rules) >= maxRules
	b.mu.RUnlock()
	if full {
		return Rule{}, fmt.Errorf("there are %d rules, and no room for more; hint: revoke some, or name a source that knows your nodes", maxRules)
	}
	r.Name, r.Note = cmp.Or(r.Name, before.Name), cmp.Or(r.Note, before.Note)
	r.At = b.now().UTC().Truncate(time.Second)
	if err := b.file.putRule(r); err != nil {
		return Rule{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rules[r.Key] = r
	return r, nil
}

// Revoke forgets the rule of a key, and returns it and whether there was one.
func (b *Book) Revoke(k key.Public) (was Rule, had bool, err error) {
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.RLock()
	was, had = b.rules[k]
	b.mu.RUnlock()
	if !had {
		return Rule{}, false, nil
	}
	if err := b.file.removeRule(k); err != nil {
		return Rule{}, false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.rules, k)
	return was, true, nil
}

// Rule returns the rule of a key.
func (b *Book) Rule(k key.Public) (Rule, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	r, ok := b.rules[k]
	return r, ok
}

// Rules returns all rules, the newest first.
func (b *Book) Rules() []Rule {
	b.mu.RLock()
	list := make([]Rule, 0, len(b.rules))
	for _, r := range b.rules {
		list = append(list, r)
	}
	b.mu.RUnlock()
	slices.SortFunc(list, func(x, y Rule) int {
		if c := y.At.Compare(x.At); c != 0 {
			return c
		}
		return strings.Compare(x.Key.String(), y.Key.String())
	})
	return list
}

// Ban keeps a ban, in place of the one that its target has, and returns what is kept:
// At is set; an IPv4 network in IPv6 form becomes one of IPv4, and its host bits go.
func (b *Book) Ban(ban Ban) (Ban, error) {
	ban, err := b.checkBan(ban)
	if err != nil {
		return Ban{}, err
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	if b.countBans() >= maxBans && !b.isBanned(ban) {
		return Ban{}, fmt.Errorf("there are %d bans, and no room for more; hint: remove some with detour ban --remove, or let a firewall do it", maxBans)
	}
	if err := b.file.putBan(ban); err != nil {
		return Ban{}, err
	}
	b.mu.Lock()
	b.put(ban)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return ban, nil
}

func (b *Book) checkBan(ban Ban) (Ban, error) {
	if err := checkWords("note", ban.Note); err != nil {
		return ban, err
	}
	now := b.now()
	ban.At = now.UTC().Truncate(time.Second)
	if ban.over(now) {
		return ban, errors.New("the ban would be over already; hint: give a time in the future, as in --for 24h")
	}
	if ban.Net.IsValid() {
		ban.Net = unmapped(ban.Net)
		if ban.Net.Addr().Is4In6() {
			return ban, fmt.Errorf("%s is half IPv4 and half IPv6; hint: write the IPv4 network as in 192.0.2.0/24", ban.Net)
		}
		if ban.Net.Bits() == 0 {
			return ban, fmt.Errorf("%s is everybody; hint: --admit none closes the relay", ban.Net)
		}
		ban.Key = key.Public{}
		return ban, nil
	}
	if ban.Key.IsZero() {
		return ban, errors.New("a ban needs a key or a network; hint: detour status lists who is connected")
	}
	return ban, nil
}

func unmapped(p netip.Prefix) netip.Prefix {
	const mapped = 96 // bits before the IPv4 address
	if p.Addr().Is4In6() && p.Bits() >= mapped {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
	}
	return p.Masked()
}

// isBanned reports whether there is a ban of exactly this target.
func (b *Book) isBanned(ban Ban) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if !ban.Net.IsValid() {
		_, ok := b.keys[ban.Key]
		return ok
	}
	_, ok := b.nets[netIndex(ban.Net)][ban.Net.Addr()]
	return ok
}

func (b *Book) countBans() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	n := len(b.keys)
	for _, nets := range b.nets {
		n += len(nets)
	}
	return n
}

// Unban forgets the ban of exactly this target, and returns it and whether there was
// one.
func (b *Book) Unban(target Ban) (was Ban, had bool, err error) {
	if target.Net.IsValid() {
		target.Net = unmapped(target.Net)
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	for _, ban := range b.Bans() {
		if ban.Target() != target.Target() {
			continue
		}
		if err := b.file.removeBan(ban); err != nil {
			return Ban{}, false, err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drop(ban)
		return ban, true, nil
	}
	return target, false, nil
}

// Bans returns all bans, the newest first, those that are over left out.
func (b *Book) Bans() []Ban {
	now := b.now()
	var list []Ban
	add := func(ban Ban) {
		if !ban.over(now) {
			list = append(list, ban)
		}
	}
	b.mu.RLock()
	for _, ban := range b.keys {
		add(ban)
	}
	for _, nets := range b.nets {
		for _, ban := range nets {
			add(ban)
		}
	}
	b.mu.RUnlock()
	slices.SortFunc(list, func(x, y Ban) int {
		if c := y.At.Compare(x.At); c != 0 {
			return c
		}
		return strings.Compare(x.Target(), y.Target())
	})
	return list
}

// Serve forgets bans when they are over, until ctx is done. It calls changed then.
func (b *Book) Serve(ctx context.Context, changed func()) {
	for {
		timer := time.NewTimer(b.untilNextEnd())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-b.wake:
			timer.Stop()
		case <-timer.C:
			if b.forgetOver() {
				changed()
			}
		}
	}
}

// longest is how long Serve sleeps when nothing ends.
const longest = time.Hour

func (b *Book) untilNextEnd() time.Duration {
	now, next := b.now(), longest
	b.eachBan(func(ban Ban) {
		if !ban.Until.IsZero() {
			next = min(next, ban.Until.Sub(now))
		}
	})
	return max(next, 0)
}

func (b *Book) eachBan(f func(Ban)) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, ban := range b.keys {
		f(ban)
	}
	for _, nets := range b.nets {
		for _, ban := range nets {
			f(ban)
		}
	}
}

func (b *Book) forgetOver() (some bool) {
	b.writing.Lock()
	defer b.writing.Unlock()
	now := b.now()
	var over []Ban
	b.eachBan(func(ban Ban) {
		if ban.over(now) {
			over = append(over, ban)
		}
	})
	for _, ban := range over {
		if err := b.file.removeBan(ban); err != nil { // it counts no more either way
			b.logger.Warn("cannot forget a ban that is over", "target", ban.Target(), "err", err)
		}
		b.mu.Lock()
		b.drop(ban)
		b.mu.Unlock()
	}
	return len(over) > 0
}

// unprintable are characters that turn what stands around them, or cannot be seen.
// Spaces of all widths are none.
func unprintable(r rune) bool { return !unicode.IsPrint(r) && !unicode.Is(unicode.Zs, r) }

func checkWords(what, text string) error {
	switch {
	case len(text) > maxNote:
		return fmt.Errorf("the %s is %d bytes long, more than %d; hint: shorten it", what, len(text), maxNote)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, unprintable):
		return fmt.Errorf("the %s has characters that do not print; hint: write it in one line of text", what)
	}
	return nil
}

// Ask returns the source of a tenant that allows whom the operator has allowed
// there, and refuses others until then.
func (b *Book) Ask(tenant string) Source { return askSource{b, tenant} }

type askSource struct {
	book   *Book
	tenant string
}

func (askSource) Name() string { return "ask" }

func (s askSource) Decide(_ context.Context, r Request) (Verdict, error) {
	v, _ := s.Peek(r)
	return v, nil
}

func (s askSource) Peek(r Request) (Verdict, bool) {
	rule, ok := s.book.Rule(r.Key)
	if !ok || !rule.Allow || rule.Tenant != s.tenant {
		return Verdict{}, true
	}
	return Verdict{Answer: Allow, Member: Member{Name: rule.Name}}, true
}
