package config

import "strings"

// runSettings are about the process and not about the relay in it.
func runSettings() []setting {
	return []setting{{
		Setting: Setting{
			Name: "run_as", Kind: KindText,
			Usage: "user to become once the ports are bound, when root starts the relay",
			Note:  "USER, USER:GROUP or UID:GID; a USER brings its further groups along. Linux only. Without effect where another user than root starts it. The state directory is handed over to that user; files that it cannot read again, as a renewed certificate, are named at the start. Empty: stay who started it.",
		},
		field: func(c *Config) any { return &c.RunAs },
		check: func(c *Config) []fault { return checkRunAs(c.RunAs) },
	}}
}

// checkRunAs checks the form. Whether there is such a user, the machine knows.
func checkRunAs(s string) []fault {
	const hint = "write USER, USER:GROUP or UID:GID, as in 65532:65532"
	if s == "" {
		return nil
	}
	user, group, two := strings.Cut(s, ":")
	switch {
	case user == "" || two && group == "" || strings.Contains(group, ":") || !printable(s) || strings.ContainsAny(s, " /"):
		return bad(hint, "%s is not a user", quote(s))
	case user == "root" || strings.Trim(user, "0") == "":
		return bad("leave run_as empty to stay root, or name another user", "%s is root, who has nothing to give up", quote(user))
	}
	return nil
}

// runAs is silent where nothing changes.
func (e *explainer) runAs(c Config) {
	if c.RunAs != "" {
		e.line("runs as: %s once the ports are bound, when root starts it", c.RunAs)
	}
}
