package config

func proxySettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "trusted_proxies", Kind: KindList,
				Usage: "proxy whose X-Forwarded-For is believed, as a CIDR, or unix; repeatable",
				Note:  "The client's address, which limits, logs and other relays see, is then the last one in X-Forwarded-For that is no trusted proxy, or without that header X-Real-IP. From everybody else the headers are ignored. An address alone is itself; unix is whoever connects over a unix socket.",
			},
			field: func(c *Config) any { return &c.TrustedProxies },
			check: func(c *Config) []fault { _, _, faults := parseProxies(c.TrustedProxies); return faults },
		},
		{
			Setting: Setting{
				Name: "fallback", Kind: KindText,
				Usage: "web server or directory that answers whatever is not the relay's",
				Note:  "http://HOST:PORT or unix: and a path, which keep the client's Host and learn its address from X-Forwarded-For; or a directory, whose files are served without listings and without names that begin with a dot. The relay keeps /derp, /derp/probe, /derp/latency-check, /generate_204 and /bootstrap-dns.",
			},
			field: func(c *Config) any { return &c.Fallback },
			check: func(c *Config) []fault { return checkFallback(c.Fallback) },
		},
		{
			Setting: Setting{
				Name: "sni_route", Kind: KindList,
				Usage: "NAME=HOST:PORT: hand TLS connections for NAME on, unopened; repeatable",
				Note:  "NAME may be *.example.com, which leaves out the relay's own hostname. The target may be unix: and a path. With ,proxy_protocol=v2 behind it, it is told the client's address by a PROXY v2 header. A connection on which nothing moves for an hour is closed.",
			},
			field: func(c *Config) any { return &c.SNIRoute },
			check: func(c *Config) []fault { _, faults := parseRoutes(c.SNIRoute); return faults },
		},
	}
}
