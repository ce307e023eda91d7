package config

import "time"

// The kinds of MapAddress entries.
const (
	AddressDNS        = "dns"        // a name that a DDNS client keeps
	AddressSTUN       = "stun"       // as a STUN server sees this machine
	AddressInterfaces = "interfaces" // those of this machine, looked at again
)

// keepSettings are about the DERP map that the running relay keeps.
func keepSettings() []setting {
	return append([]setting{
		{
			Setting: Setting{
				Name: "map_write", Kind: KindPath,
				Usage: "file in which the running relay keeps its DERP map for Headscale",
				Note:  "Written as a whole, and only when the map changes: by a rotation of the certificate, another address, a source in map_sources. A name that ends in .json gets JSON, any other the YAML of Headscale's derp.paths. The relay's user must be able to make files in that directory.",
			},
			field: func(c *Config) any { return &c.MapWrite },
			check: func(c *Config) []fault { return checkPath(c.MapWrite) },
		},
		{
			Setting: Setting{
				Name: "map_sources", Kind: KindList,
				Usage: "another DERP map that goes into the kept one, FILE|URL[,option=value...]; repeatable",
				Note:  "Later ones win, for a region as a whole, and this relay's own region wins over all. What cannot be read stays as it was last read, over restarts too. Options of a URL: token_file=, whose content is sent as a bearer token; pin=sha256-raw:..., of a pinned relay; ca_file=. Ask a relay that combines maps itself for /derpmap.json?own=1. In the environment, spaces part the entries.",
			},
			spaced: true,
			field:  func(c *Config) any { return &c.MapSources },
			check:  func(c *Config) []fault { return checkMapSources(c.MapSources) },
		},
		{
			Setting: Setting{
				Name: "map_refresh", Kind: KindDuration,
				Usage: "time between two fetches of a URL in map_sources",
				Note:  "1m to 168h. Files are looked at every ten seconds.",
			},
			value: "3h",
			field: func(c *Config) any { return &c.MapRefresh },
			check: func(c *Config) []fault { return checkRefresh(c.MapRefresh) },
		},
	}, append(serveMapSettings(), setting{
		Setting: Setting{
			Name: "map_address", Kind: KindList,
			Usage: "where the address to publish is learned while it changes: dns:NAME, stun:HOST:PORT or interfaces; repeatable",
			Note:  "For home lines. It is asked every minute, and a new address counts when it is seen twice. dns is a name that DDNS keeps; stun is a STUN server of your choice, which says where it sees this machine; interfaces looks at this machine's own again, as after another IPv6 prefix. The first that knows an address of a family decides; public_ipv4 and public_ipv6 win over all.",
		},
		field: func(c *Config) any { return &c.MapAddress },
		check: func(c *Config) []fault { return checkMapAddress(c.MapAddress) },
	})...)
}

// serveMapSettings say where the kept map is served, besides admin_listen.
func serveMapSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "map_listen", Kind: KindAddress, Default: Off,
				Usage: "TCP address of plain HTTP that serves the kept map, as /derpmap.json",
				Note:  "For derp.urls of a Headscale on this machine: 127.0.0.1:PORT. On any other than a loopback address map_token_file is needed, and whoever is on the way could put another relay's pin into the map. off, or HOST:PORT.",
			},
			value: Off,
			field: func(c *Config) any { return &c.MapListen },
			check: func(c *Config) []fault { return checkMapListen(c.MapListen) },
		},
		{
			Setting: Setting{
				Name: "map_public", Kind: KindBool,
				Usage: "whether the relay's own port serves the kept map too, as /derpmap.json",
				Note:  "To who shows the token in map_token_file, as Authorization: Bearer or as ?token=. Headscale trusts the system's roots alone, so it cannot fetch from a relay with a pinned certificate; sibling relays can.",
			},
			value: "false",
			field: func(c *Config) any { return &c.MapPublic },
		},
		{
			Setting: Setting{
				Name: "map_token_file", Kind: KindPath,
				Usage: "file of the token that opens /derpmap.json, where it is served to other machines",
				Note:  "16 characters at least. Read again when it changes.",
			},
			field: func(c *Config) any { return &c.MapTokenFile },
			check: func(c *Config) []fault { return checkPath(c.MapTokenFile) },
		},
	}
}

func checkRefresh(d time.Duration) []fault {
	const least, most = time.Minute, 168 * time.Hour
	if d < least || d > most {
		return bad("", "%s is not in %s..%s", formatDuration(d), formatDuration(least), formatDuration(most))
	}
	return nil
}
