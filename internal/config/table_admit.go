package config

import "time"

// The values of Refusal.
const (
	RefusalLobby = "lobby" // refused clients wait, connected, and are told why
	RefusalClose = "close" // their connection is closed without a word, as derper does
)

// admitSettings say who may connect.
func admitSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "admit", Kind: KindList, Values: entryKinds,
				Usage: "who may connect: any, none, ask, keys=FILE, url=URL, headscale=URL, tailscale=TAILNET, tailscaled[=SOCKET] or exec=PATH; repeatable",
				Note:  "ask lets unknown nodes wait until you decide with detour admit. any lets everybody use this relay who finds it. Options follow commas, as in headscale=https://headscale.example.com,token_file=/etc/detour/headscale.token; docs/admission.md lists them. Secrets come from files or variables, never from here. Quote an entry with options in YAML; in the variable only spaces part entries.",
			},
			value: AdmitAsk, spaced: true,
			field: func(c *Config) any { return &c.Admit },
			check: func(c *Config) []fault { return checkAdmit(c.Admit) },
		},
		{
			Setting: Setting{
				Name: "admit_key", Kind: KindList,
				Usage: "node key that may connect, nodekey:<64 hex digits>[=NAME]; repeatable",
				Note:  "The relay logs the key of everyone it refuses.",
			},
			field: func(c *Config) any { return &c.AdmitKey },
			check: func(c *Config) []fault { return checkAdmitKeys(c.AdmitKey) },
		},
	}
}

// moreAdmitSettings say how sources are combined, and what becomes of those who
// are not admitted.
func moreAdmitSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "admit_policy", Kind: KindText, Values: []string{PolicyAnyOf, PolicyAllOf},
				Usage: "whether one source that allows is enough, or all must: any_of or all_of",
				Note:  "Of the sources in admit and admit_key; each tenant has its own.",
			},
			value: PolicyAnyOf,
			field: func(c *Config) any { return &c.AdmitPolicy },
		},
		{
			Setting: Setting{
				Name: "admit_on_unavailable", Kind: KindText, Values: []string{UnavailableCached, UnavailableRefuse, UnavailableAdmit},
				Usage: "what to do while a source cannot be asked: cached, refuse or admit",
				Note:  "cached admits whom the source allowed within admit_max_age, also after a restart, and refuses others; they are admitted when it returns. Nobody who is connected is cut off because a source is down.",
			},
			value: UnavailableCached,
			field: func(c *Config) any { return &c.AdmitOnUnavailable },
		},
		{
			Setting: Setting{
				Name: "admit_max_age", Kind: KindDuration,
				Usage: "how old an answer may be that admits while its source is down",
				Note:  "0 to 8760h.",
			},
			value: "168h",
			field: func(c *Config) any { return &c.AdmitMaxAge },
			check: func(c *Config) []fault { return checkDuration(c.AdmitMaxAge, 0, 8760*time.Hour) },
		},
		{
			Setting: Setting{
				Name: "admit_recheck", Kind: KindDuration,
				Usage: "how often everybody who is connected or waits is looked at again",
				Note:  "5s to 24h. Changes that a source reports by itself are carried out at once.",
			},
			value: "1m",
			field: func(c *Config) any { return &c.AdmitRecheck },
			check: func(c *Config) []fault { return checkDuration(c.AdmitRecheck, 5*time.Second, 24*time.Hour) },
		},
		{
			Setting: Setting{
				Name: "tenants", Kind: KindList,
				Usage: "sources of a tenant, as NAME:SOURCE; repeatable",
				Note:  "A node belongs to the first tenant that admits it, the relay's own sources in admit coming first. NAME:all_of lets all sources of that tenant decide together. In YAML also as a mapping: a name, and below it admit (a list) and policy.",
			},
			spaced: true, mapping: tenantMapping,
			field: func(c *Config) any { return &c.TenantList },
			check: func(c *Config) []fault { return checkTenants(c.TenantList) },
		},
		{
			Setting: Setting{
				Name: "isolate", Kind: KindBool,
				Usage: "whether nodes of different tenants are kept from exchanging packets",
				Note:  "Off by default, because nodes can be shared between tailnets.",
			},
			value: "false",
			field: func(c *Config) any { return &c.Isolate },
		},
		{
			Setting: Setting{
				Name: "refusal", Kind: KindText, Values: []string{RefusalLobby, RefusalClose},
				Usage: "what refused clients get: lobby or close",
				Note:  "lobby lets them log in, tells them why in tailscale status, lets them send and receive nothing, and admits them where they are once they may; close hangs up without a word, as derper does.",
			},
			value: RefusalLobby,
			field: func(c *Config) any { return &c.Refusal },
		},
		{
			Setting: Setting{
				Name: "admin_token_file", Kind: KindPath,
				Usage: "file of the token for the control API and /verify, where admin_listen is TCP",
				Note:  "16 characters at least. The unix socket, whose owner is checked, needs none.",
			},
			field: func(c *Config) any { return &c.AdminTokenFile },
			check: func(c *Config) []fault { return checkPath(c.AdminTokenFile) },
		},
	}
}
