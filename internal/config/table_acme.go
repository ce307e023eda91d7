package config

// ProfileNone is the value of ACMEIPProfile that asks for no profile.
const ProfileNone = "none"

// LetsEncrypt is the directory of Let's Encrypt's production authority.
const LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

func acmeSettings() []setting {
	return append(acmeAuthoritySettings(), []setting{
		{
			Setting: Setting{
				Name: "acme_name", Kind: KindList, Default: "hostname, or else the published addresses",
				Usage: "domain name or IP address to get a certificate for; repeatable",
				Note:  "For cert_mode acme. A domain is proved on port 80 or 443 (whichever leads here) or by acme_dns_hook; an address on port 80 or 443.",
			},
			field: func(c *Config) any { return &c.ACMEName },
			check: func(c *Config) []fault { return checkACMENames(c.ACMEName) },
		},
		{
			Setting: Setting{
				Name: "acme_dns_hook", Kind: KindPath,
				Usage: "program that proves domains by DNS (DNS-01)",
				Note:  "Called as PROGRAM present FQDN VALUE, to set the TXT record FQDN and return once all name servers show it, and as PROGRAM cleanup FQDN VALUE. Status 0 is success; it may take 5 minutes. With it no port need lead here.",
			},
			field: func(c *Config) any { return &c.ACMEDNSHook },
			check: func(c *Config) []fault { return checkPath(c.ACMEDNSHook) },
		},
		{
			Setting: Setting{
				Name: "acme_ip_profile", Kind: KindText,
				Usage: "profile to ask for with certificates of addresses",
				Note:  "shortlived (six days) is what Let's Encrypt gives addresses; none asks for no profile.",
			},
			value: "shortlived",
			field: func(c *Config) any { return &c.ACMEIPProfile },
			check: func(c *Config) []fault {
				return append(required(c.ACMEIPProfile, "write none to ask for no profile"), checkWord(c.ACMEIPProfile)...)
			},
		},
		{
			Setting: Setting{
				Name: "acme_switch", Kind: KindBool,
				Usage: "serve the authority's certificate in place of the pinned one from now on",
				Note:  "Needed once where a map with the pin is in use: paste the map without it first, then restart with this. It may stay on. With it from the first start on, no map with a pin is ever printed.",
			},
			value: "false",
			field: func(c *Config) any { return &c.ACMESwitch },
		},
	}...)
}

func acmeAuthoritySettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "acme_directory", Kind: KindText, Default: LetsEncrypt,
				Usage: "https URL of the certificate authority's ACME directory",
			},
			value: LetsEncrypt,
			field: func(c *Config) any { return &c.ACMEDirectory },
			check: func(c *Config) []fault { return checkDirectory(c.ACMEDirectory) },
		},
		{
			Setting: Setting{
				Name: "acme_email", Kind: KindText,
				Usage: "contact that the certificate authority may write to",
			},
			field: func(c *Config) any { return &c.ACMEEmail },
			check: func(c *Config) []fault { return checkEmail(c.ACMEEmail) },
		},
		{
			Setting: Setting{
				Name: "acme_eab_kid", Kind: KindText,
				Usage: "key id of an account at the authority (external account binding)",
				Note:  "For authorities that ask for one, such as Google's or ZeroSSL.",
			},
			field: func(c *Config) any { return &c.ACMEEABKeyID },
		},
		{
			Setting: Setting{
				Name: "acme_eab_key_file", Kind: KindPath,
				Usage: "file that holds the base64 key of that account",
				Note:  "Or the variable DETOUR_ACME_EAB_KEY with the key itself; there is no flag for it, as flags are seen by other users.",
			},
			field: func(c *Config) any { return &c.ACMEEABKeyFile },
			check: func(c *Config) []fault { return checkPath(c.ACMEEABKeyFile) },
		},
		{
			Setting: Setting{
				Name: "acme_ca_file", Kind: KindPath,
				Usage: "PEM file of the roots of a private ACME server",
				Note:  "Empty: the system's roots.",
			},
			field: func(c *Config) any { return &c.ACMECAFile },
			check: func(c *Config) []fault { return checkPath(c.ACMECAFile) },
		},
	}
}
