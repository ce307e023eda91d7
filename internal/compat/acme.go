package compat

import "github.com/detour-relay/detour/internal/config"

// gcpDirectory is Google's authority, which -certmode gcp means.
const gcpDirectory = "https://dv.acme-v02.api.pki.goog/directory"

// acme makes cert_mode acme of -certmode letsencrypt and gcp. The certificates
// are kept beside the server key; what derper has in -certdir is not read.
func (c *command) acme(cfg *config.Config) {
	switch {
	case isIP(c.hostname) && c.certMode == certGCP:
		c.fail("%s: derper has no %s certificate for an IP address as -hostname; "+
			"hint: use -certmode manual, which makes and pins one", c.ref("certmode"), c.certMode)
	case isIP(c.hostname) && !c.acmeIPs:
		c.fail("%s: no certificate for an IP address as -hostname without -acme-ip-certs; "+
			"hint: add it, or use -certmode manual, which makes and pins one", c.ref("certmode"))
	case c.acmeIPs && c.certMode == certGCP:
		c.fail("%s: only with -certmode letsencrypt; hint: drop it", c.ref("acme-ip-certs"))
	case c.acmeIPs && !isIP(c.hostname):
		c.warn("-acme-ip-certs: with a domain as -hostname only the domain gets a certificate; " +
			"`detour serve --acme-name` takes addresses beside it")
	}
	if c.certMode == certGCP && !isIP(c.hostname) {
		cfg.ACMEDirectory = gcpDirectory
		if c.acmeEmail == "" || c.acmeKeyID == "" || c.acmeKey == "" {
			c.fail("%s: gcp needs -acme-email, -acme-eab-kid and -acme-eab-key; hint: give all three", c.ref("certmode"))
		}
	}
	if c.origin["certdir"] != "" {
		c.warn("%s is not used: certificates are kept in the directory acme beside the server key", c.ref("certdir"))
	}
	cfg.CertMode = config.CertACME
	cfg.ACMEName = []string{c.hostname}
	cfg.ACMEEmail, cfg.ACMEEABKeyID, cfg.ACMEEABKey = c.acmeEmail, c.acmeKeyID, c.acmeKey
	cfg.ACMESwitch = true // derper's maps carry no pin, so the pin is of no use to clients
}
