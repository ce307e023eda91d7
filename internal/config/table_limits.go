package config

const maxLimit = 1_000_000_000

// limitSettings bound what connections may cost the relay before they are admitted.
func limitSettings() []setting {
	limit := func(name, usage, note, value string, field func(c *Config) *int) setting {
		return setting{
			Setting: Setting{Name: name, Kind: KindInt, Usage: usage, Note: note},
			value:   value,
			field:   func(c *Config) any { return field(c) },
			check:   func(c *Config) []fault { return checkLimit(*field(c)) },
		}
	}
	return []setting{
		limit("login_pending_per_source", "connections of one address that may be unfinished at once",
			"An address is an IPv4 one or an IPv6 /64. Unfinished is what is neither logged in nor handed to the web server. "+
				"Loopback, unix sockets and trusted_proxies are exempt; behind proxy_protocol the client's address counts. "+
				"What is over a limit is refused, never banned. 0: no limit.",
			"64", func(c *Config) *int { return &c.LoginPending }),
		limit("login_rate_per_source", "new connections of one address in a second",
			"Connections of peers that are admitted do not count, so that a carrier's NAT may hold any number of them. 0: no limit.",
			"30", func(c *Config) *int { return &c.LoginRate }),
		limit("login_burst_per_source", "new connections of one address at once, above which login_rate_per_source holds",
			"Not less than that in any case.",
			"200", func(c *Config) *int { return &c.LoginBurst }),
		limit("accept_rate", "new connections of all addresses together in a second",
			"At listen and also_listen, whoever they are of. 0: no limit.",
			"0", func(c *Config) *int { return &c.AcceptRate }),
		limit("accept_burst", "new connections of all addresses together at once, above which accept_rate holds",
			"0: as many as accept_rate. Without effect while that is 0.",
			"0", func(c *Config) *int { return &c.AcceptBurst }),
	}
}

func checkLimit(n int) []fault {
	if n < 0 || n > maxLimit {
		return bad("0 means no limit", "%d is not in 0..%d", n, maxLimit)
	}
	return nil
}
