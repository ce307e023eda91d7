package config

import (
	"net/url"
	"regexp"
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
	AdmitURL:        {target: "URL", check: checkSourceURL, options: append([]string{"ca_file", "derper"}, perKeyOptions...)},
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

// checkEntryTogether finds options that are right alone and wrong together.
func checkEntryTogether(e Entry) []fault {
	has := func(names ...string) (n int) {
		for _, name := range names {
			if e.Options[name] != "" {
				n++
			}
		}
		return n
	}
	switch {
	case e.Kind == AdmitHeadscale && has("token_file", "token_env") > 1:
		return bad("keep one", "token_file and token_env are both given")
	case e.Kind == AdmitHeadscale && has("refresh", "expired") > 0 && has("token_file", "token_env") == 0:
		return bad("add token_file= with an API key, or leave them out", "refresh and expired need Headscale's API, which needs a token")
	case e.Kind != AdmitTailscale:
		return nil
	case has("key_file", "key_env", "oauth_secret_file", "oauth_secret_env") != 1:
		return bad("add one of key_file=, key_env=, or oauth_id= with oauth_secret_file= or oauth_secret_env=",
			"tailscale needs an API access token or an OAuth client")
	case has("oauth_id") != has("oauth_secret_file", "oauth_secret_env"):
		return bad("give both", "oauth_id and its secret belong together")
	}
	return nil
}

func durationFrom(least time.Duration) func(string) []fault {
	return func(text string) []fault {
		d, err := time.ParseDuration(text)
		if err != nil {
			return bad(durationHint(text), "want a duration, got %s", quote(text))
		}
		const most = 366 * 24 * time.Hour
		if d < least || d > most {
			return bad("", "%s is not in %s to %s", text, formatDuration(least), formatDuration(most))
		}
		return nil
	}
}

func checkOnUnavailable(text string) []fault {
	all := []string{UnavailableCached, UnavailableRefuse, UnavailableAdmit}
	if slices.Contains(all, text) {
		return nil
	}
	return bad(didYouMean(text, all), "unknown value %s of on_unavailable", quote(text))
}

func checkOnOff(text string) []fault {
	var b bool
	return assignBool(&b, text)
}

func checkAdmitRefuse(text string) []fault {
	all := []string{"admit", "refuse"}
	if slices.Contains(all, text) {
		return nil
	}
	return bad(didYouMean(text, all), "want admit or refuse, got %s", quote(text))
}

var (
	variable   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	tenantName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)
)

func checkVariable(text string) []fault {
	if variable.MatchString(text) {
		return nil
	}
	return bad("write its name, and put the secret into its value", "%s is not the name of a variable", quote(text))
}

func checkLabel(text string) []fault {
	if len(text) > 64 || !printable(text) || strings.ContainsAny(text, " \t") {
		return bad("use up to 64 characters without spaces", "%s is no name", quote(text))
	}
	return nil
}

func checkTailnet(text string) []fault {
	if strings.ContainsAny(text, "/ ?#") {
		return bad("write the tailnet's name, as example.com, or - for that of the key", "%s is no tailnet", quote(text))
	}
	return nil
}

func checkSourceURL(text string) []fault {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return bad("write it as in https://headscale.example.com", "%s is not an http or https URL", quote(redacted(text)))
	}
	return nil
}

// redacted leaves out what may be a password.
func redacted(text string) string {
	if at := strings.LastIndex(text, "@"); at >= 0 {
		return "…" + text[at:]
	}
	return text
}

// checkAdmit checks each entry, and that any and none do not contradict.
func checkAdmit(entries []string) []fault {
	var faults []fault
	kinds := map[string]bool{}
	whole := joinEntries(entries)
	for _, text := range whole {
		e, f := parseEntry(text)
		faults = append(faults, f...)
		kinds[e.Kind] = true
	}
	switch {
	case kinds[AdmitNone] && kinds[AdmitAny]:
		faults = append(faults, bad("keep one of them", "any and none contradict each other")...)
	case kinds[AdmitNone] && len(whole) > 1:
		faults = append(faults, bad("leave none out", "none stands beside other sources")...)
	}
	return append(faults, checkTwice(whole)...)
}

// checkTwice takes the very same entry twice, as flags in a script may give it.
func checkTwice(entries []string) []fault {
	seen := map[string]string{}
	for _, text := range entries {
		e, _ := parseEntry(text)
		if before := seen[e.Name()]; before != "" && before != text {
			return bad("remove one of them, or tell them apart with name=", "%s is given twice", quote(e.Name()))
		}
		seen[e.Name()] = text
	}
	return nil
}

// NamedKey splits an entry of admit_key.
func NamedKey(entry string) (nodeKey, name string) {
	nodeKey, name, _ = strings.Cut(entry, "=")
	return nodeKey, name
}

// checkAdmitKeys takes a key, and after it = and a name.
func checkAdmitKeys(keys []string) []fault {
	var faults []fault
	for _, text := range keys {
		k, name := NamedKey(text)
		faults = append(faults, checkLabel(name)...)
		if _, err := key.ParsePublic(k); err != nil {
			faults = append(faults, bad("copy it whole from the relay's log or from the client's status: nodekey: and 64 hex digits",
				"%s is not a node key: %v", quote(k), err)...)
		}
	}
	return faults
}

// maxTenants bounds them: each is looked at for every unknown key.
const maxTenants = 64

func checkTenants(entries []string) []fault {
	var faults []fault
	byName := map[string][]string{}
	for _, text := range joinEntries(entries) {
		name, rest, ok := strings.Cut(text, ":")
		if !ok || !tenantName.MatchString(name) {
			faults = append(faults, bad("write NAME:SOURCE, as in home:headscale=https://headscale.example.com, with a name of a-z, 0-9, - and _",
				"%s does not begin with a tenant's name", quote(text))...)
			continue
		}
		if rest == PolicyAllOf || rest == PolicyAnyOf {
			byName[name] = append(byName[name], []string{}...)
			continue
		}
		byName[name] = append(byName[name], rest)
		e, f := parseEntry(rest)
		if e.Kind == AdmitNone {
			f = bad("leave the tenant out", "a tenant that admits none")
		}
		faults = append(faults, f...)
	}
	for name, list := range byName {
		if len(list) == 0 {
			faults = append(faults, bad("give it one, or leave it out", "tenant %s has no source", name)...)
		}
		faults = append(faults, checkTwice(list)...)
	}
	if len(byName) > maxTenants {
		faults = append(faults, bad("", "%d tenants are more than %d", len(byName), maxTenants)...)
	}
	return faults
}

// admissionProblems finds what does not go together.
func admissionProblems(c Config) []Problem {
	if !c.Isolate {
		return nil
	}
	if c.MeshKeyFile != "" {
		return []Problem{{
			Setting: "isolate", What: "a sibling relay's packets do not say whose they are, so tenants cannot be kept apart with mesh_key_file",
			Hint: "leave one of the two out",
		}}
	}
	return nil
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
