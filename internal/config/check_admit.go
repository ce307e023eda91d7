package config

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

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
	case has("token_file", "token_env") > 1:
		return bad("keep one", "token_file and token_env are both given")
	case has("token_file", "token_env") > 0 && withUser(e.Target):
		return bad("keep the token", "a token and a password in the URL are both given")
	case e.Kind == AdmitHeadscale && has("token_file", "token_env") > 0 && has("allow_for", "refuse_for", "timeout") > 0:
		return bad("leave them out, and set refresh=", "allow_for, refuse_for and timeout are for /verify, and with a token the list of nodes is asked for instead")
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

// withUser reports whether a URL has a user or password in it.
func withUser(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.User != nil
}

// shownSecrets finds passwords in entries of admit or tenants that came as flags:
// every user of the machine sees command lines.
func shownSecrets(s setting, entries []string) (faults []fault) {
	for _, text := range joinEntries(entries) {
		switch s.Name {
		case "admit":
		case "tenants":
			_, text, _ = strings.Cut(text, ":")
		default:
			return nil
		}
		e, _ := parseEntry(text)
		hint := "put it into the configuration file or a variable"
		switch e.Kind {
		case AdmitURL:
			hint = "write the URL without it, and token_file=FILE or token_env=NAME behind a comma: that is sent as Authorization: Bearer"
		case AdmitHeadscale:
			hint = "write url=https://HOST/verify,token_file=FILE where a proxy in front of Headscale's /verify wants a token"
		}
		if withUser(e.Target) || withUser(e.Options["base_url"]) {
			faults = append(faults, bad(hint, "the URL of %s holds a user or password, and command lines are seen by all users of a machine", e.Name())...)
		}
	}
	return faults
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
