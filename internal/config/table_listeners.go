package config

// doorSettings are the addresses besides the main ones, who speaks for others at
// them, and how they are published.
func doorSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "also_listen", Kind: KindList,
				Usage: "further address of the relay, ADDRESS[,option=value...]; repeatable",
				Note:  "ADDRESS as for listen. Options: tls=on|off; map=on|off, whether the DERP map lists the port (on, except without TLS or for a unix socket); public_port=N, the port that clients dial; proxy_protocol=CIDR|CIDR, as the setting of that name; mode=0660, of a unix socket. Quote an entry in YAML.",
			},
			field: func(c *Config) any { return &c.AlsoListen },
			check: func(c *Config) []fault { return checkAlsoListen(c.AlsoListen) },
		},
		{
			Setting: Setting{
				Name: "also_stun_listen", Kind: KindList,
				Usage: "further UDP address of the STUN server; repeatable",
				Note:  "HOST:PORT, or systemd:NAME. A second port helps clients whose way to the first is blocked.",
			},
			field: func(c *Config) any { return &c.AlsoSTUNListen },
			check: func(c *Config) []fault { return checkAlsoSTUN(c.AlsoSTUNListen) },
		},
		{
			Setting: Setting{
				Name: "proxy_protocol", Kind: KindList,
				Usage: "network of proxies that send a PROXY header at listen; repeatable",
				Note:  "PROXY protocol version 1 or 2, as of HAProxy, nginx stream and load balancers: a connection from there must begin with its header, which names the client. From elsewhere the header is not read. A CIDR, an address, or unix for whoever connects to a unix socket.",
			},
			field: func(c *Config) any { return &c.ProxyProtocol },
			check: func(c *Config) []fault { _, _, faults := parseProxies(c.ProxyProtocol); return faults },
		},
	}
}

// portSettings say which ports clients dial.
func portSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "public_port", Kind: KindInt, Default: "that of listen",
				Usage: "TCP port to publish, where a NAT or proxy leads another one to listen",
				Note:  "As with docker run -p 8443:443. 0 is the port of listen.",
			},
			value: "0",
			field: func(c *Config) any { return &c.PublicPort },
			check: func(c *Config) []fault { return checkPublicPort(c.PublicPort) },
		},
		{
			Setting: Setting{
				Name: "public_stun_port", Kind: KindInt, Default: "that of stun_listen",
				Usage: "UDP port to publish, where a NAT leads another one to stun_listen",
				Note:  "0 is the port of stun_listen.",
			},
			value: "0",
			field: func(c *Config) any { return &c.PublicSTUNPort },
			check: func(c *Config) []fault { return checkPublicPort(c.PublicSTUNPort) },
		},
	}
}
