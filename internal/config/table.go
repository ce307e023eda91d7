package config

import (
	"path/filepath"
	"slices"
	"time"
)

// table describes every setting once. The YAML loader, the environment, the
// flags, the checks, the example and --help all read it, so a setting that is
// added here is added everywhere.
func table() []setting {
	all := slices.Concat(
		section("State", stateSettings()),
		section("Listeners", listenSettings()),
		section("Further listeners", doorSettings()),
		section("Behind a proxy, or in front of a site", proxySettings()),
		section("What the DERP map says", mapSettings()),
		section("What the DERP map says", portSettings()),
		section("The DERP map that is kept", keepSettings()),
		section("Certificate", certSettings()),
		section("Certificate", moreCertSettings()),
		section("Certificate from an authority (cert_mode acme)", acmeSettings()),
		section("Who may connect", admitSettings()),
		section("Who may connect", moreAdmitSettings()),
		section("What strangers may cost", limitSettings()),
		section("Timeouts", timeSettings()),
		section("Log", logSettings()),
		section("The process", runSettings()),
	)
	for i := range all {
		if all[i].Default == "" {
			all[i].Default = all[i].value
		}
	}
	return all
}

func section(name string, rows []setting) []setting {
	for i := range rows {
		rows[i].section = name
	}
	return rows
}

func stateSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "state_dir", Kind: KindPath,
				Default: "/var/lib/detour as root, ~/.local/state/detour otherwise",
				Usage:   "directory of keys, certificate and admin socket",
				Note:    "Made with mode 0700 when missing. Keep it: a relay that loses its server key is another relay to its clients. A relative path starts at the working directory. Where $XDG_STATE_HOME is set, it takes the place of ~/.local/state.",
			},
			value: "/var/lib/detour", user: userStateDir,
			field: func(c *Config) any { return &c.StateDir },
			check: func(c *Config) []fault {
				return append(required(c.StateDir, "name it, or set HOME or XDG_STATE_HOME"), checkPath(c.StateDir)...)
			},
		},
		{
			Setting: Setting{
				Name: "server_key", Kind: KindPath, Default: "<state_dir>/server.key",
				Usage: "file of the relay's private key",
				Note:  "In derper's format, so a derper.key file works as it is. Made with mode 0600 when missing.",
			},
			field: func(c *Config) any { return &c.ServerKey },
			check: func(c *Config) []fault { return append(follows(c, c.ServerKey), checkPath(c.ServerKey)...) },
		},
		{
			Setting: Setting{
				Name: "mesh_key_file", Kind: KindPath,
				Usage: "file of the mesh key that sibling relays share",
				Note:  "Holds 64 hex digits. Empty: this relay has no mesh.",
			},
			field: func(c *Config) any { return &c.MeshKeyFile },
			check: func(c *Config) []fault { return checkPath(c.MeshKeyFile) },
		},
	}
}

// follows refuses an empty value that complete takes from the state directory.
// Without a state directory only that is reported.
func follows(c *Config, s string) []fault {
	if c.StateDir == "" {
		return nil
	}
	return required(s, "name it")
}

// userStateDir follows the XDG base directory specification, which says that a
// relative $XDG_STATE_HOME is to be ignored. It returns "" when it finds nothing.
func userStateDir(h Host) string {
	if h.Getenv != nil {
		if dir := h.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
			return filepath.Join(dir, "detour")
		}
	}
	if h.Home == "" {
		return ""
	}
	return filepath.Join(h.Home, ".local", "state", "detour")
}

func listenSettings() []setting {
	return append(relayListenSettings(), []setting{
		{
			Setting: Setting{
				Name: "http_listen", Kind: KindAddress, Default: ":80 as root, off otherwise",
				Usage: "TCP address of plain HTTP for captive-portal checks",
				Note:  "Clients ask it on port 80 alone whether a network is behind a captive portal. With cert_mode acme the authority may ask here too (HTTP-01). No packet is relayed here. An address as for listen, or off.",
			},
			value: ":80", user: func(Host) string { return Off },
			field: func(c *Config) any { return &c.HTTPListen },
			check: func(c *Config) []fault { return checkDoor("http_listen", c.HTTPListen, "80") },
		},
		{
			Setting: Setting{
				Name: "admin_listen", Kind: KindAddress, Default: "unix:<state_dir>/admin.sock",
				Usage: "where health and statistics are served",
				Note:  "unix: and a path (mode 0600, peers' user checked), a TCP address on the loopback interface, systemd:NAME, or off. It asks for no password, so other TCP addresses are refused.",
			},
			field: func(c *Config) any { return &c.AdminListen },
			check: func(c *Config) []fault {
				if c.AdminListen == "" {
					return follows(c, c.AdminListen)
				}
				return checkAdmin(c.AdminListen)
			},
		},
		{
			Setting: Setting{
				Name: "front_page", Kind: KindText, Default: "neutral, or fallback where that is set",
				Usage: "what a browser sees: neutral, blank, fallback or a URL to redirect to",
				Note:  "neutral is a plain page that names neither DERP nor Tailscale nor Detour; blank is an empty page; fallback is the site that the setting fallback names; an http or https URL is redirected to.",
			},
			field: func(c *Config) any { return &c.FrontPage },
			check: func(c *Config) []fault { return checkFrontPage(c.FrontPage) },
		},
	}...)
}

func relayListenSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "listen", Kind: KindAddress, Default: ":443 as root, :8443 otherwise",
				Usage: "TCP address of the relay",
				Note:  "HOST:PORT; :PORT for every address, 0.0.0.0:PORT for every IPv4 one and [::]:PORT for every IPv6 one; unix: and a path, which ,mode=0660 may follow, behind a proxy; systemd or systemd:NAME for a socket that systemd passes; or off for a relay that only answers STUN. Any port works; 443 passes most firewalls. Port 0 takes a free one.",
			},
			value: ":443", user: func(Host) string { return ":8443" },
			field: func(c *Config) any { return &c.Listen },
			check: func(c *Config) []fault { return checkDoor("listen", c.Listen, "443") },
		},
		{
			Setting: Setting{
				Name: "tls", Kind: KindBool,
				Usage: "whether listen speaks TLS",
				Note:  "Clients always dial with TLS: turn it off only behind a proxy that ends TLS itself, or for tests.",
			},
			value: "true",
			field: func(c *Config) any { return &c.TLS },
		},
		{
			Setting: Setting{
				Name: "stun_listen", Kind: KindAddress,
				Usage: "UDP address of the STUN server",
				Note:  "Clients learn their public address here and measure how far the relay is. HOST:PORT as for listen, systemd or systemd:NAME, or off.",
			},
			value: ":3478",
			field: func(c *Config) any { return &c.STUNListen },
			check: func(c *Config) []fault { return checkListen(c.STUNListen, "3478") },
		},
		{
			Setting: Setting{
				Name: "stun_mode", Kind: KindText, Values: []string{STUNTailscale, STUNRFC},
				Usage: "which STUN requests are answered: tailscale or rfc",
				Note:  "tailscale answers only requests as Tailscale clients send them, which is of less use to those who forge addresses; rfc answers any binding request of RFC 8489 too.",
			},
			value: STUNTailscale,
			field: func(c *Config) any { return &c.STUNMode },
		},
	}
}

func mapSettings() []setting {
	return append(addressSettings(), []setting{
		{
			Setting: Setting{
				Name: "region_id", Kind: KindInt,
				Usage: "number of this relay's region, 1 to 65535",
				Note:  "900 to 999 are reserved for private relays. Two relays of one DERP map that are not a mesh need different numbers.",
			},
			value: "900",
			field: func(c *Config) any { return &c.RegionID },
			check: func(c *Config) []fault { return checkRegionID(c.RegionID) },
		},
		{
			Setting: Setting{
				Name: "region_code", Kind: KindText, Default: "detour-<region_id>",
				Usage: "short name of the region, for ping and netcheck",
				Note:  "At most 64 bytes, without spaces.",
			},
			field: func(c *Config) any { return &c.RegionCode },
			check: func(c *Config) []fault {
				return append(required(c.RegionCode, "name the region"), checkWord(c.RegionCode)...)
			},
		},
		{
			Setting: Setting{
				Name: "region_name", Kind: KindText, Default: "Detour <region_id>",
				Usage: "long name of the region, for people",
				Note:  "At most 128 bytes.",
			},
			field: func(c *Config) any { return &c.RegionName },
			check: func(c *Config) []fault {
				return append(required(c.RegionName, "name the region"), checkTitle(c.RegionName)...)
			},
		},
		{
			Setting: Setting{
				Name: "node_name", Kind: KindText, Default: "made from region and server key",
				Usage: "name of this relay, unique over all regions of the map",
				Note:  "At most 64 bytes, without spaces. Clients look relays up by it, so two relays with one name break their measurements.",
			},
			field: func(c *Config) any { return &c.NodeName },
			check: func(c *Config) []fault { return checkWord(c.NodeName) },
		},
	}...)
}

func addressSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "hostname", Kind: KindText, Default: "the public address",
				Usage: "DNS name or IP address that clients dial",
				Note:  "Without scheme, port or path. An IPv6 address does not work with port 443: current clients cannot parse the URL they make of it.",
			},
			field: func(c *Config) any { return &c.Hostname },
			check: func(c *Config) []fault { return checkHostname(c.Hostname) },
		},
		{
			Setting: Setting{
				Name: "public_ipv4", Kind: KindIP, Default: "found on the interfaces",
				Usage: "IPv4 address to publish",
				Note:  "Needed behind NAT and in a container, where the interfaces have private addresses only.",
			},
			field: func(c *Config) any { return &c.PublicIPv4 },
			check: func(c *Config) []fault { return checkPublic(c.PublicIPv4, 4) },
		},
		{
			Setting: Setting{
				Name: "public_ipv6", Kind: KindIP, Default: "found on the interfaces",
				Usage: "IPv6 address to publish",
			},
			field: func(c *Config) any { return &c.PublicIPv6 },
			check: func(c *Config) []fault { return checkPublic(c.PublicIPv6, 6) },
		},
	}
}

func certSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "cert_mode", Kind: KindText, Values: []string{CertPin, CertFiles, CertACME},
				Default: "files when cert and key or cert_pair are given, pin otherwise",
				Usage:   "where the certificate comes from: pin, files or acme",
				Note:    "pin makes a self-signed certificate once, valid for ten years, and publishes its fingerprint in the DERP map: no domain and no authority needed. files reads a certificate that an authority issued. acme gets one from an authority such as Let's Encrypt, for a domain or for a public address, and renews it.",
			},
			field: func(c *Config) any { return &c.CertMode },
		},
		{
			Setting: Setting{
				Name: "cert", Kind: KindPath, Default: "<state_dir>/pin.crt with cert_mode pin",
				Usage: "PEM file of the certificate chain",
				Note:  "Given together with key or not at all.",
			},
			field: func(c *Config) any { return &c.Cert },
			check: func(c *Config) []fault { return checkPath(c.Cert) },
		},
		{
			Setting: Setting{
				Name: "key", Kind: KindPath, Default: "<state_dir>/pin.key with cert_mode pin",
				Usage: "PEM file of the certificate's private key",
			},
			field: func(c *Config) any { return &c.Key },
			check: func(c *Config) []fault { return checkPath(c.Key) },
		},
	}
}

func timeSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "write_timeout", Kind: KindDuration,
				Usage: "longest that a peer may take no byte before it is cut off",
				Note:  "1ms to 5m; 0 is no limit.",
			},
			value: "2s",
			field: func(c *Config) any { return &c.WriteTimeout },
			check: func(c *Config) []fault { return checkDuration(c.WriteTimeout, time.Millisecond, 5*time.Minute) },
		},
		{
			Setting: Setting{
				Name: "tcp_user_timeout", Kind: KindDuration,
				Usage: "how long sent data may stay unacknowledged before TCP gives up",
				Note:  "TCP_USER_TIMEOUT, on Linux only. 1ms to 1h; 0 is the system's.",
			},
			value: "15s",
			field: func(c *Config) any { return &c.TCPUserTimeout },
			check: func(c *Config) []fault { return checkDuration(c.TCPUserTimeout, time.Millisecond, time.Hour) },
		},
		{
			Setting: Setting{
				Name: "tcp_keepalive", Kind: KindDuration,
				Usage: "idle time before TCP keepalive probes",
				Note:  "1s to 24h; 0 is the system's.",
			},
			value: "10m",
			field: func(c *Config) any { return &c.TCPKeepAlive },
			check: func(c *Config) []fault { return checkDuration(c.TCPKeepAlive, time.Second, 24*time.Hour) },
		},
	}
}

func logSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "log_format", Kind: KindText, Values: []string{"text", "json"},
				Usage: "form of the log: text or json",
			},
			value: "text",
			field: func(c *Config) any { return &c.LogFormat },
		},
		{
			Setting: Setting{
				Name: "log_level", Kind: KindText, Values: []string{"debug", "info", "warn", "error"},
				Usage: "least that is logged: debug, info, warn or error",
			},
			value: "info",
			field: func(c *Config) any { return &c.LogLevel },
		},
	}
}
