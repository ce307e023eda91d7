package config

import (
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
)

// checkACMENames takes domains and addresses; wildcards need acme_dns_hook, which
// acmeProblems checks.
func checkACMENames(names []string) []fault {
	var faults []fault
	for _, n := range names {
		if ip, err := netip.ParseAddr(n); err == nil && (ip.IsLoopback() || ip.IsUnspecified()) {
			faults = append(faults, bad("name the address that clients dial", "no authority can reach %s", quote(n))...)
			continue
		}
		if n == "" {
			faults = append(faults, bad("leave it out", "an empty name")...)
			continue
		}
		for _, f := range checkHostname(strings.TrimPrefix(n, "*.")) {
			faults = append(faults, fault{what: f.what, hint: f.hint})
		}
	}
	return faults
}

func checkDirectory(s string) []fault {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || !printable(s) {
		return bad("write it as the authority gives it, as in "+LetsEncrypt, "%s is not an https URL", quote(s))
	}
	return nil
}

// checkEmail refuses only what cannot be an address: the authority knows the rest.
func checkEmail(s string) []fault {
	user, host, ok := strings.Cut(s, "@")
	if s == "" || ok && user != "" && isName(host) && printable(s) && !strings.ContainsAny(s, " <>,") {
		return nil
	}
	return bad("write one address, as in admin@example.com", "%s is not an e-mail address", quote(s))
}

// acmeProblems finds ACME settings that are right alone and wrong together.
func acmeProblems(c Config) []Problem {
	if c.CertMode != CertACME {
		return nil
	}
	var list []Problem
	add := func(setting string, faults []fault) {
		for _, f := range faults {
			list = append(list, Problem{Setting: setting, What: f.what, Hint: f.hint})
		}
	}
	hasKey := c.ACMEEABKeyFile != "" || c.ACMEEABKey != ""
	switch {
	case c.ACMEEABKeyID != "" && !hasKey:
		add("acme_eab_kid", bad("set acme_eab_key_file, or the variable DETOUR_ACME_EAB_KEY", "given without its key"))
	case c.ACMEEABKeyID == "" && hasKey:
		add("acme_eab_kid", bad("give the id that belongs to the key", "the key of an external account is given without its id"))
	case c.ACMEEABKeyFile != "" && c.ACMEEABKey != "":
		add("acme_eab_key_file", bad("keep one of them", "given together with DETOUR_ACME_EAB_KEY"))
	}
	if c.Listen != Off && !c.TLS {
		add("cert_mode", bad("leave it out: the proxy in front needs the certificate", "acme with tls false, where no certificate is shown"))
	}
	if c.Cert != "" && c.Key != "" && filepath.Clean(c.Cert) == filepath.Clean(c.Key) {
		add("key", bad("name two files", "the same file as cert"))
	}
	for _, n := range c.ACMEName {
		if strings.HasPrefix(n, "*.") && c.ACMEDNSHook == "" {
			add("acme_name", bad("set acme_dns_hook, or name the hosts one by one", "%s needs a proof by DNS", quote(n)))
		}
	}
	return list
}

// completeACME fills what cert_mode acme derives from other settings.
func completeACME(c *Config) {
	if c.CertMode != CertACME {
		return
	}
	if c.Cert == "" && c.Key == "" && c.StateDir != "" {
		c.Cert, c.Key = filepath.Join(c.StateDir, "pin.crt"), filepath.Join(c.StateDir, "pin.key")
	}
	// Clients must dial what the certificate is for.
	for _, n := range c.ACMEName {
		if _, err := netip.ParseAddr(n); c.Hostname == "" && err != nil && isName(n) {
			c.Hostname = n
		}
	}
}
