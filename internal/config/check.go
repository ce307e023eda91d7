package config

import (
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of texts, in bytes.
const (
	maxWord  = 64   // region code and node name: netcheck prints them in columns
	maxTitle = 128  // region name
	maxURL   = 2048 // front page; browsers take more, proxies may not
)

// Check returns an *Error with everything that is wrong with c, or nil. Load
// has done it already; it is for a Config that was made by other means, in which
// every setting that Defaults fills must be filled.
func Check(c Config) error { return errorOf(problems(c)) }

// problems checks every setting alone and then those that must agree. The
// origins are not known here.
func problems(c Config) []Problem {
	var list []Problem
	for _, s := range table() {
		for _, f := range s.faults(&c) {
			list = append(list, Problem{Setting: s.Name, What: f.what, Hint: f.hint})
		}
	}
	return append(list, crossChecks(c)...)
}

// crossChecks finds settings that are right alone and wrong together.
func crossChecks(c Config) []Problem {
	list := append(append(listenerChecks(c), proxyChecks(c)...), acmeProblems(c)...)
	list = append(append(list, admissionProblems(c)...), mapProblems(c)...)
	add := func(setting string, faults []fault) {
		for _, f := range faults {
			list = append(list, Problem{Setting: setting, What: f.what, Hint: f.hint})
		}
	}
	if c.Listen == Off && c.STUNListen == Off && c.HTTPListen == Off {
		add("listen", bad("turn one of them on", "listen, stun_listen and http_listen are all off, so there is nothing to serve"))
	}
	switch {
	case c.Cert != "" && c.Key == "":
		add("cert", bad("set key too, or remove cert", "given without key"))
	case c.Cert == "" && c.Key != "":
		add("key", bad("set cert too, or remove key", "given without cert"))
	case c.Cert == "" && c.CertMode == CertFiles && len(c.CertPair) == 0:
		add("cert_mode", bad("set both, or use cert_mode pin", "files needs cert and key"))
	case c.Cert == "" && c.CertMode != CertFiles && c.StateDir != "":
		add("cert", bad("set both to files in the state directory", "cert and key are empty"))
	case c.CertMode == CertPin && c.Cert != "" && filepath.Clean(c.Cert) == filepath.Clean(c.Key):
		add("key", bad("name two files", "the same file as cert, and cert_mode pin writes both"))
	}
	pair, strict := checkCertsTogether(c)
	add("cert_pair", pair)
	add("strict_sni", strict)
	if ip, err := netip.ParseAddr(c.Hostname); err == nil && ip.Is6() && c.dialledPort() == 443 {
		add("hostname", bad("use a DNS name, an IPv4 address or another port in listen",
			"current clients cannot use an IPv6 address with port 443, since they leave out its brackets in the URL"))
	}
	return list
}

// checkRegionID holds the bound that clients impose: they carry the region as
// the port of a made-up address, cut to 16 bits.
func checkRegionID(id int) []fault {
	if id < 1 || id > 65535 {
		return bad("use 900 to 999, which are reserved for private relays",
			"%d is not in 1..65535, and clients carry the number as a 16-bit port", id)
	}
	return nil
}

// checkWord checks a name that is printed in columns and logs.
func checkWord(s string) []fault {
	switch {
	case len(s) > maxWord:
		return bad("shorten it", "is %d bytes long, more than %d", len(s), maxWord)
	case !printable(s) || strings.ContainsFunc(s, unicode.IsSpace):
		return bad("use letters, digits, - and _", "%s has spaces or characters that do not print", quote(s))
	}
	return nil
}

func checkTitle(s string) []fault {
	switch {
	case strings.TrimSpace(s) != s:
		return bad("", "%s begins or ends with a space", quote(s))
	case len(s) > maxTitle:
		return bad("shorten it", "is %d bytes long, more than %d", len(s), maxTitle)
	case !printable(s):
		return bad("", "%s has characters that do not print", quote(s))
	}
	return nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// required gives the hint for an empty value, where there must be one.
func required(s, hint string) []fault {
	if s == "" {
		return bad(hint, "is empty")
	}
	return nil
}

// checkPath checks what is wrong with a path on every machine; whether the file
// is there is for those who open it. It takes an empty path.
func checkPath(path string) []fault {
	switch {
	case strings.ContainsFunc(path, unicode.IsControl):
		return bad("", "%s has control characters", quote(path))
	case path == "~" || strings.HasPrefix(path, "~/"):
		return bad("write the whole path", "%s begins with ~, which only a shell understands", quote(path))
	}
	return nil
}

func checkFrontPage(page string) []fault {
	if page == FrontNeutral || page == FrontBlank || page == FrontFallback {
		return nil
	}
	hint := "use neutral, blank, fallback, or a URL such as https://example.com/"
	if near, ok := nearest(page, []string{FrontNeutral, FrontBlank, FrontFallback}); ok {
		hint = "did you mean " + near + "?"
	}
	u, err := url.Parse(page)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !printable(page):
		return bad(hint, "%s is neither neutral nor blank nor fallback nor an http or https URL", quote(page))
	case len(page) > maxURL:
		return bad("use a shorter URL", "is %d bytes long, more than %d", len(page), maxURL)
	}
	return nil
}

// checkDuration takes 0, which is no limit or the system's, and least..most.
func checkDuration(d, least, most time.Duration) []fault {
	if d == 0 || d >= least && d <= most {
		return nil
	}
	return bad("", "%s is neither 0 nor in %s..%s", formatDuration(d), formatDuration(least), formatDuration(most))
}
