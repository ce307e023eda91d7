package config

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// The kinds of admission sources, besides AdmitAny and AdmitNone.
const (
	AdmitAsk        = "ask"        // unknown keys wait for the operator
	AdmitKeys       = "keys"       // a file of node keys
	AdmitURL        = "url"        // asked for each key, by derper's contract
	AdmitHeadscale  = "headscale"  // a Headscale: its API with a token, else its /verify
	AdmitTailscale  = "tailscale"  // a tailnet, by Tailscale's API
	AdmitTailscaled = "tailscaled" // the tailscaled of this machine
	AdmitExec       = "exec"       // a program
)

// The values of AdmitPolicy.
const (
	PolicyAnyOf = "any_of" // one source that allows is enough
	PolicyAllOf = "all_of" // every source must allow
)

// The values of AdmitOnUnavailable, and of the option on_unavailable.
const (
	UnavailableCached = "cached" // who was allowed lately is allowed
	UnavailableRefuse = "refuse"
	UnavailableAdmit  = "admit"
)

// Entry is one admission source as the settings name it.
type Entry struct {
	Kind    string            // one of the Admit constants
	Target  string            // file, URL, tailnet, socket or program; may be empty for some kinds
	Options map[string]string // checked texts by name; see Option's users
}

// Name is the kind and what tells it from others of its kind: for logs.
func (e Entry) Name() string {
	if name := e.Options["name"]; name != "" {
		return name
	}
	target := e.Target
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		target = u.Host // whatever else is in a URL may be secret
	}
	if target == "" {
		return e.Kind
	}
	return e.Kind + ":" + target
}

// Duration returns an option that is a duration, or otherwise.
func (e Entry) Duration(name string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(e.Options[name]); err == nil {
		return d
	}
	return otherwise
}

// On returns an option that is on or off, or otherwise.
func (e Entry) On(name string, otherwise bool) bool {
	on := otherwise
	_ = assignBool(&on, e.Options[name]) // empty: it stays
	return on
}

// Tenant is a group of admission sources under a name.
type Tenant struct {
	Name    string // empty: the relay's own sources
	Entries []Entry
	AllOf   bool
}

// Tenants returns the admission sources of a checked c: first the relay's own,
// with AdmitKey as one of them, then those of each tenant in the order of the
// settings. Without any source the list is empty: the relay is closed.
func (c Config) Tenants() []Tenant {
	var list []Tenant
	own := Tenant{AllOf: c.AdmitPolicy == PolicyAllOf}
	for _, text := range once(joinEntries(c.Admit)) {
		if e, _ := parseEntry(text); e.Kind != AdmitNone {
			own.Entries = append(own.Entries, e)
		}
	}
	if len(c.AdmitKey) > 0 {
		own.Entries = append(own.Entries, Entry{Kind: AdmitKeys})
	}
	if len(own.Entries) > 0 {
		list = append(list, own)
	}
	for _, text := range once(joinEntries(c.TenantList)) {
		name, rest, _ := strings.Cut(text, ":")
		i := slices.IndexFunc(list, func(t Tenant) bool { return t.Name == name })
		if i < 0 {
			i = len(list)
			list = append(list, Tenant{Name: name})
		}
		switch rest {
		case PolicyAllOf, PolicyAnyOf:
			list[i].AllOf = rest == PolicyAllOf
		default:
			e, _ := parseEntry(rest)
			list[i].Entries = append(list[i].Entries, e)
		}
	}
	return list
}

// AdmissionFiles lists the files that the admission sources of a checked c read
// while the relay runs: lists of keys, and secrets.
func (c Config) AdmissionFiles() (files []string) {
	for _, t := range c.Tenants() {
		for _, e := range t.Entries {
			if e.Kind == AdmitKeys && e.Target != "" {
				files = append(files, e.Target)
			}
			for _, option := range []string{"token_file", "key_file", "oauth_secret_file"} {
				if file := e.Options[option]; file != "" {
					files = append(files, file)
				}
			}
		}
	}
	return files
}

// once leaves out what has been there already.
func once(list []string) (kept []string) {
	for _, text := range list {
		if !slices.Contains(kept, text) {
			kept = append(kept, text)
		}
	}
	return kept
}

// AdmitsAll reports whether everybody may connect.
func (c Config) AdmitsAll() bool {
	return slices.ContainsFunc(c.Tenants(), func(t Tenant) bool {
		only := !slices.ContainsFunc(t.Entries, func(e Entry) bool { return e.Kind != AdmitAny })
		open := slices.ContainsFunc(t.Entries, func(e Entry) bool { return e.Kind == AdmitAny })
		return open && (only || !t.AllOf)
	})
}

// Asks reports whether a tenant leaves it to the operator who may connect.
func (c Config) Asks() bool {
	return slices.ContainsFunc(c.Tenants(), func(t Tenant) bool {
		return slices.ContainsFunc(t.Entries, func(e Entry) bool { return e.Kind == AdmitAsk })
	})
}

// kindRules says what each kind of source takes.
type kindRule struct {
	target   string // what stands behind =; empty: nothing may
	optional bool   // the target may be left out
	check    func(target string) []fault
	options  []string // besides name
}

var (
	perKeyOptions = []string{"allow_for", "refuse_for", "timeout", "on_unavailable", "max_age"}
	listOptions   = []string{"refresh", "on_unavailable", "max_age"}
)

var kindRules = map[string]kindRule{
	AdmitAny:        {},
	AdmitNone:       {},
	AdmitAsk:        {},
	AdmitKeys:       {target: "FILE", check: checkPath},
	AdmitURL:        {target: "URL", check: checkSourceURL, options: append([]string{"token_file", "token_env", "ca_file", "derper"}, perKeyOptions...)},
	AdmitExec:       {target: "PATH", check: checkPath, options: perKeyOptions},
	AdmitTailscaled: {target: "SOCKET", optional: true, check: checkPath, options: perKeyOptions},
	AdmitHeadscale: {target: "URL", check: checkSourceURL, options: slices.Concat(
		[]string{"token_file", "token_env", "expired", "ca_file", "refresh"}, perKeyOptions)},
	AdmitTailscale: {target: "TAILNET", check: checkTailnet, options: slices.Concat(
		[]string{"key_file", "key_env", "oauth_id", "oauth_secret_file", "oauth_secret_env", "base_url", "expired", "unauthorized"}, listOptions)},
}

// entryKinds lists the kinds as the help does.
var entryKinds = []string{
	AdmitAny, AdmitNone, AdmitAsk, AdmitKeys, AdmitURL, AdmitHeadscale, AdmitTailscale, AdmitTailscaled, AdmitExec,
}

// optionChecks check the options of sources, by name.
var optionChecks = map[string]func(text string) []fault{
	"name":              checkLabel,
	"allow_for":         durationFrom(0),
	"refuse_for":        durationFrom(0),
	"timeout":           durationFrom(100 * time.Millisecond),
	"max_age":           durationFrom(0),
	"refresh":           durationFrom(time.Second),
	"on_unavailable":    checkOnUnavailable,
	"ca_file":           checkPath,
	"derper":            checkOnOff,
	"token_file":        checkPath,
	"key_file":          checkPath,
	"oauth_secret_file": checkPath,
	"token_env":         checkVariable,
	"key_env":           checkVariable,
	"oauth_secret_env":  checkVariable,
	"oauth_id":          checkLabel,
	"base_url":          checkSourceURL,
	"expired":           checkAdmitRefuse,
	"unauthorized":      checkAdmitRefuse,
}

// joinEntries mends entries that were cut at their commas, as a YAML list without
// quotes does: what begins with an option belongs to the entry before.
func joinEntries(entries []string) []string {
	var whole []string
	for _, e := range entries {
		name, _, isOption := strings.Cut(e, "=")
		if _, known := optionChecks[name]; isOption && known && len(whole) > 0 {
			whole[len(whole)-1] += "," + e
			continue
		}
		whole = append(whole, e)
	}
	return whole
}

// parseEntry reads KIND[=TARGET][,option=value…].
func parseEntry(text string) (Entry, []fault) {
	head, rest, some := strings.Cut(text, ",")
	e := Entry{Options: map[string]string{}}
	var has bool
	e.Kind, e.Target, has = strings.Cut(head, "=")
	rule, known := kindRules[e.Kind]
	switch {
	case !known:
		hint := didYouMean(e.Kind, entryKinds)
		if _, err := key.ParsePublic(head); err == nil {
			hint = "give it as admit_key"
		}
		return e, bad(hint, "unknown value %s", quote(text))
	case rule.target == "" && has:
		return e, bad("write "+e.Kind+" alone", "%s takes nothing behind =", e.Kind)
	case rule.target != "" && e.Target == "" && !rule.optional:
		return e, bad("write "+e.Kind+"="+rule.target, "%s does not say which", e.Kind)
	case e.Target != "":
		if faults := rule.check(e.Target); len(faults) > 0 {
			return e, faults
		}
	}
	for option := range strings.SplitSeq(rest, ",") {
		if !some {
			break
		}
		name, value, ok := strings.Cut(option, "=")
		allowed := append([]string{"name"}, rule.options...)
		switch {
		case !slices.Contains(allowed, name):
			return e, bad(didYouMean(name, allowed), "unknown option %s of %s", quote(name), e.Kind)
		case !ok || value == "":
			return e, bad("write "+name+"=VALUE", "option %s of %s has no value", name, e.Kind)
		}
		if faults := optionChecks[name](value); len(faults) > 0 {
			return e, faults
		}
		e.Options[name] = value
	}
	return e, checkEntryTogether(e)
}

// Explain says in words what a source is.
func (e Entry) Explain() string {
	switch e.Kind {
	case AdmitAny:
		return "any: everybody"
	case AdmitAsk:
		return "ask: those whom you let in with detour admit allow"
	case AdmitKeys:
		if e.Target == "" {
			return "the keys in admit_key:"
		}
		return "the keys in the file " + e.Target + ", read again when it changes"
	case AdmitURL:
		return "those whom " + e.Name() + " allows, asked for each"
	case AdmitHeadscale:
		if e.Options["token_file"]+e.Options["token_env"] == "" {
			return e.Name() + ": nodes that this Headscale knows, asked for each at /verify"
		}
		return e.Name() + ": nodes that this Headscale lists"
	case AdmitTailscale:
		return "devices of the tailnet " + e.Target
	case AdmitTailscaled:
		return "nodes that the tailscaled of this machine sees"
	case AdmitExec:
		return "those for whom the program " + e.Target + " exits with 0"
	}
	return e.Kind
}
