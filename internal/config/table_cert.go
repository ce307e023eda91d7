package config

import (
	"net/netip"
	"strings"
)

func moreCertSettings() []setting {
	return []setting{
		{
			Setting: Setting{
				Name: "cert_pair", Kind: KindList,
				Usage: "a further certificate and key, as CERT,KEY, or one PEM file with both; repeatable",
				Note:  "For other names, or another key type for the same. A client gets the certificate that covers the name it asks for, and the first one otherwise. All files are read again when they change. In the environment, spaces part the pairs.",
			},
			spaced: true,
			field:  func(c *Config) any { return &c.CertPair },
			check:  func(c *Config) []fault { return checkCertPairs(c.CertPair) },
		},
		{
			Setting: Setting{
				Name: "strict_sni", Kind: KindBool,
				Usage: "refuse clients that ask for no name, or one that no certificate covers",
				Note:  "Not for a relay that clients dial by its address: they ask for no name then.",
			},
			value: "false",
			field: func(c *Config) any { return &c.StrictSNI },
		},
	}
}

// CertPair is the files of one certificate.
type CertPair struct {
	Cert, Key string // paths; the same when one file holds both
	Extra     bool   // from cert_pair, not from cert and key
}

// CertPairs returns the files of CertFiles: cert and key first, then cert_pair.
func (c Config) CertPairs() []CertPair {
	var pairs []CertPair
	if c.Cert != "" {
		pairs = append(pairs, CertPair{Cert: c.Cert, Key: c.Key})
	}
	for _, text := range c.CertPair {
		cert, key, two := strings.Cut(text, ",")
		if !two {
			key = cert
		}
		pairs = append(pairs, CertPair{Cert: strings.TrimSpace(cert), Key: strings.TrimSpace(key), Extra: true})
	}
	return pairs
}

func checkCertPairs(list []string) []fault {
	var faults []fault
	seen := map[string]bool{}
	for _, text := range list {
		p := (Config{CertPair: []string{text}}).CertPairs()[0]
		switch {
		case strings.Count(text, ",") > 1 || p.Cert == "" || p.Key == "":
			faults = append(faults, bad("write CERT,KEY, or one path when one file holds both; repeat the setting for more",
				"%s is not a pair of files", quote(text))...)
		case seen[p.Cert]:
			faults = append(faults, bad("remove one of the two", "%s is there twice", quote(p.Cert))...)
		default:
			faults = append(faults, checkPath(p.Cert)...)
			if p.Key != p.Cert {
				faults = append(faults, checkPath(p.Key)...)
			}
		}
		seen[p.Cert] = true
	}
	return faults
}

// checkCertsTogether finds what is wrong in cert_pair and strict_sni beside other settings.
func checkCertsTogether(c Config) (pair, strict []fault) {
	if c.CertMode == CertPin && len(c.CertPair) > 0 {
		pair = bad("remove cert_pair, or use cert_mode files", "cert_mode pin serves one certificate of its own")
	}
	if !c.StrictSNI {
		return pair, nil
	}
	_, err := netip.ParseAddr(c.Hostname)
	switch {
	case err == nil:
		strict = bad("set hostname to a domain, or strict_sni to false", "hostname is an address, and clients that dial an address ask for no name: all would be refused")
	case c.CertMode == CertPin && c.Hostname == "":
		strict = bad("set hostname to a domain, or strict_sni to false", "without a hostname clients dial the address and ask for no name: all would be refused")
	}
	return pair, strict
}
