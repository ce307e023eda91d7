package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/admit"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
)

// control is what the admin API's commands act on.
type control struct{ d *Daemon }

var errNoBook = errors.New("this relay keeps no rules, as it runs under derper's command line; hint: run detour serve, or set DETOUR_ADMIT=ask")

// Status tells what is so now.
func (c control) Status() admin.Status {
	d := c.d
	s := admin.Status{
		Version: d.version, ServerKey: d.id.serverKey.String(), Started: d.started.UTC(), Health: d.Health(), Peers: []admin.Peer{},
		Pending: len(d.gate.Pending()),
		Admission: admin.Admission{
			Open: d.cfg.AdmitsAll(), Lobby: d.cfg.Refusal == config.RefusalLobby, Isolate: d.cfg.Isolate, Tenants: []admin.Tenant{},
		},
	}
	if d.book != nil {
		s.Bans = len(d.book.Bans())
	}
	for _, p := range c.Probes() {
		if !p.Own {
			s.Probes++
		}
	}
	gate := d.gate.Stats()
	s.Admission.Refused = gate.Refused
	for _, t := range gate.Tenants {
		s.Admission.Tenants = append(s.Admission.Tenants, admin.Tenant(t))
	}
	for _, m := range d.relay.Members() {
		s.Peers = append(s.Peers, admin.Peer{
			Key: m.Key, Name: c.name(m), Tenant: m.Tenant, Addr: m.Addr, App: m.App, Since: m.Since.UTC(), Waiting: m.Waiting, Mesh: m.Mesh,
		})
	}
	slices.SortFunc(s.Peers, func(a, b admin.Peer) int { return a.Since.Compare(b.Since) })
	return s
}

// name is what the operator calls a peer, or else its source.
func (c control) name(m relay.Member) string {
	if c.d.book != nil {
		if r, ok := c.d.book.Rule(m.Key); ok && r.Name != "" {
			return r.Name
		}
	}
	return m.Name
}

// Pending lists the refused keys.
func (c control) Pending() (list []admin.Pending) {
	waiting := map[key.Public]bool{}
	for _, m := range c.d.relay.Members() {
		if m.Waiting {
			waiting[m.Key] = true
		}
	}
	for _, p := range c.d.gate.Pending() {
		list = append(list, admin.Pending{
			Key: p.Key, Addr: p.Addr, First: p.First.UTC(), Last: p.Last.UTC(), Tries: p.Tries, Reason: p.Reason, Waiting: waiting[p.Key],
		})
	}
	return list
}

// Rules lists what was decided.
func (c control) Rules() (list []admin.Rule) {
	if c.d.book == nil {
		return nil
	}
	for _, r := range c.d.book.Rules() {
		list = append(list, admin.Rule(r))
	}
	return list
}

// Allow lets a key in.
func (c control) Allow(q admin.RuleRequest) (admin.RuleResult, error) {
	if c.d.book == nil {
		return admin.RuleResult{}, errNoBook
	}
	tenant, err := c.askingTenant(q.Tenant)
	if err != nil {
		return admin.RuleResult{}, err
	}
	return c.rule(q, admit.Rule{Allow: true, Tenant: tenant})
}

// Deny keeps a key out, whatever the sources say.
func (c control) Deny(q admin.RuleRequest) (admin.RuleResult, error) {
	if c.d.book == nil {
		return admin.RuleResult{}, errNoBook
	}
	return c.rule(q, admit.Rule{})
}

// askingTenant is the tenant whose members the operator decides about.
func (c control) askingTenant(name string) (string, error) {
	var asking []string
	for _, t := range c.d.cfg.Tenants() {
		if slices.ContainsFunc(t.Entries, func(e config.Entry) bool { return e.Kind == config.AdmitAsk }) {
			asking = append(asking, t.Name)
		}
	}
	switch {
	case len(asking) == 0:
		return "", errors.New("ask is not among the sources of this relay, so nobody asks what you allow; hint: add ask to admit and restart, or add the node where admit looks")
	case slices.Contains(asking, name):
		return name, nil
	case name == "" && len(asking) == 1:
		return asking[0], nil
	case name == "": // the relay's own list, which has no name, does not ask
		return "", fmt.Errorf("several tenants ask; hint: name one with --tenant: %s", strings.Join(asking, ", "))
	}
	named := slices.DeleteFunc(asking, func(t string) bool { return t == "" })
	if len(named) == 0 {
		return "", fmt.Errorf("the tenant %q does not ask, and no other does; hint: leave --tenant out: the relay's own list asks", name)
	}
	return "", fmt.Errorf("the tenant %q does not ask; hint: those that do: %s", name, strings.Join(named, ", "))
}

func (c control) rule(q admin.RuleRequest, r admit.Rule) (admin.RuleResult, error) {
	k, err := c.find(q.Key)
	if err != nil {
		return admin.RuleResult{}, err
	}
	r.Key, r.Name, r.Note = k, q.Name, q.Note
	kept, err := c.d.book.Put(r)
	if err != nil {
		return admin.RuleResult{}, err
	}
	c.d.gate.Forget(k)
	c.d.gate.Changed()
	return admin.RuleResult{Rule: admin.Rule(kept), Present: c.present(k)}, nil
}

// Revoke forgets what was said of a key.
func (c control) Revoke(q admin.RuleRequest) (admin.RuleResult, error) {
	if c.d.book == nil {
		return admin.RuleResult{}, errNoBook
	}
	k, err := c.find(q.Key)
	if err != nil {
		return admin.RuleResult{}, err
	}
	before, had, err := c.d.book.Revoke(k)
	switch {
	case err != nil:
		return admin.RuleResult{}, err
	case !had:
		return admin.RuleResult{}, fmt.Errorf("%w: nothing was said of %v; hint: detour admit list shows the rules", admin.ErrNotFound, k)
	}
	c.d.gate.Changed()
	return admin.RuleResult{Rule: admin.Rule(before), Present: c.present(k)}, nil
}

func (c control) present(k key.Public) (n int) {
	for _, m := range c.d.relay.Members() {
		if m.Key == k {
			n++
		}
	}
	return n
}

// Kick ends the connections of a key.
func (c control) Kick(q admin.KickRequest) (admin.KickResult, error) {
	k, err := c.find(q.Key)
	if err != nil {
		return admin.KickResult{}, err
	}
	n := c.d.relay.Dismiss(k, "kicked", nil)
	if n == 0 {
		return admin.KickResult{}, fmt.Errorf("%w: %v is not connected; hint: detour status lists who is", admin.ErrNotFound, k)
	}
	c.d.log.Info("connections ended by the operator", "peer", k, "connections", n)
	return admin.KickResult{Key: k, Ended: n}, nil
}

// Bans lists the bans.
func (c control) Bans() (list []admin.Ban) {
	if c.d.book == nil {
		return nil
	}
	for _, b := range c.d.book.Bans() {
		list = append(list, banOf(b))
	}
	return list
}

func banOf(b admit.Ban) admin.Ban {
	return admin.Ban{Target: b.Target(), Until: b.Until, Note: b.Note, At: b.At}
}

// Ban keeps a key or network out, and ends its connections.
func (c control) Ban(q admin.BanRequest) (admin.BanResult, error) {
	b, err := c.banned(q)
	if err != nil {
		return admin.BanResult{}, err
	}
	b.Note = q.Note
	const most = 100 * 366 * 24 * 60 * 60 // seconds
	if q.Seconds < 0 || q.Seconds > most {
		return admin.BanResult{}, fmt.Errorf("a ban of %d seconds is none; hint: give 0 for one without an end, or up to a hundred years", q.Seconds)
	}
	if q.Seconds > 0 {
		b.Until = time.Now().Add(time.Duration(q.Seconds) * time.Second).UTC().Truncate(time.Second)
	}
	if b, err = c.d.book.Ban(b); err != nil {
		return admin.BanResult{}, err
	}
	ended := c.d.relay.Dismiss(key.Public{}, admit.ReasonBanned, func(m relay.Member) bool {
		return c.d.book.Bars(admit.Request{Key: m.Key, Addr: m.Addr.Addr()}) == admit.ReasonBanned
	})
	c.d.gate.Changed() // who is just logging in
	c.d.log.Info("banned by the operator", "target", b.Target(), "until", b.Until, "connections", ended)
	return admin.BanResult{Ban: banOf(b), Ended: ended}, nil
}

// Unban lets a key or network off.
func (c control) Unban(q admin.BanRequest) (admin.BanResult, error) {
	b, err := c.banned(q)
	if err != nil {
		return admin.BanResult{}, err
	}
	b, had, err := c.d.book.Unban(b)
	switch {
	case err != nil:
		return admin.BanResult{}, err
	case !had:
		return admin.BanResult{}, fmt.Errorf("%w: %s is not banned; hint: detour ban --list shows the bans, and each is removed by its own words", admin.ErrNotFound, b.Target())
	}
	c.d.gate.Changed()
	return admin.BanResult{Ban: banOf(b)}, nil
}

// banned reads a target: a network, an address, or a key.
func (c control) banned(q admin.BanRequest) (admit.Ban, error) {
	if c.d.book == nil {
		return admit.Ban{}, errNoBook
	}
	if p, err := netip.ParsePrefix(q.Target); err == nil {
		return admit.Ban{Net: p}, nil
	}
	if ip, err := netip.ParseAddr(q.Target); err == nil {
		ip = ip.Unmap().WithZone("")
		return admit.Ban{Net: netip.PrefixFrom(ip, ip.BitLen())}, nil
	}
	if _, ok := digitsOf(q.Target); !ok {
		return admit.Ban{}, fmt.Errorf("%q is neither a node key nor an address or network; hint: give a key as detour status shows it, "+
			"an address as 192.0.2.7 or 2001:db8::7, or a network as 192.0.2.0/24; names of hosts are not looked up", q.Target)
	}
	k, err := c.find(q.Target)
	return admit.Ban{Key: k}, err
}

// digitsOf is what a person has written of a key, in small letters and without what
// may stand around it.
func digitsOf(text string) (digits string, ok bool) {
	digits = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(text)), "nodekey:")
	digits = strings.TrimSuffix(digits, "…")
	return digits, len(digits) >= shortest && len(digits) <= 2*key.Size && strings.Trim(digits, "0123456789abcdef") == ""
}

// shortest is how many digits of a key must be given at least.
const shortest = 4

// find reads a key, or as much of one as tells it from all that the relay knows of.
func (c control) find(text string) (key.Public, error) {
	digits, ok := digitsOf(text)
	if k, err := key.ParsePublic("nodekey:" + digits); err == nil { // the relay may never have seen it
		return k, nil
	}
	if !ok {
		return key.Public{}, fmt.Errorf("%q is no node key; hint: give nodekey: and 64 hex digits, or the first of them, %d at least, "+
			"of a key that detour status, detour admit pending or detour admit list shows", text, shortest)
	}
	var found []key.Public
	for _, k := range c.known() {
		if strings.HasPrefix(k.Hex(), digits) && !slices.Contains(found, k) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return key.Public{}, fmt.Errorf("%w: no key that begins with %s is connected, pending or ruled on; hint: give it whole", admin.ErrNotFound, digits)
	case 1:
		return found[0], nil
	}
	var list []string
	for _, k := range found[:min(len(found), 5)] {
		list = append(list, k.String())
	}
	return key.Public{}, fmt.Errorf("%w: %d keys begin with %s; hint: give more digits: %s", admin.ErrAmbiguous, len(found), digits, strings.Join(list, ", "))
}

func (c control) known() (keys []key.Public) {
	for _, m := range c.d.relay.Members() {
		keys = append(keys, m.Key)
	}
	for _, p := range c.d.gate.Pending() {
		keys = append(keys, p.Key)
	}
	if c.d.book != nil {
		for _, r := range c.d.book.Rules() {
			keys = append(keys, r.Key)
		}
		for _, b := range c.d.book.Bans() {
			if !b.Key.IsZero() {
				keys = append(keys, b.Key)
			}
		}
	}
	return keys
}

// Vouch answers for another relay.
func (c control) Vouch(ctx context.Context, k key.Public, addr netip.Addr) (bool, error) {
	return c.d.gate.Vouch(ctx, k, addr)
}
