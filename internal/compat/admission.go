package compat

import (
	"strings"

	"github.com/detour-relay/detour/internal/config"
)

// Both of derper's sources are asked at every login, and nothing is kept.
const askedEachTime = ",allow_for=0s,refuse_for=0s,timeout=5s"

// admission carries out -verify-clients and -verify-client-url, which must both
// allow where both are given. tailscaled is fail-closed in derper, the URL as it
// is told to be.
func (c *command) admission(cfg *config.Config) {
	var sources []string
	if c.verify {
		source := config.AdmitTailscaled
		if c.socket != "" {
			source += "=" + c.socket
		}
		sources = append(sources, source+askedEachTime+",on_unavailable="+config.UnavailableRefuse)
	}
	if c.verifyURL != "" {
		unreachable := config.UnavailableRefuse
		if c.failOpen {
			unreachable = config.UnavailableAdmit
		}
		// A comma would end the URL; in this form it is the same URL.
		at := strings.ReplaceAll(c.verifyURL, ",", "%2C")
		sources = append(sources, config.AdmitURL+"="+at+askedEachTime+",derper=on,on_unavailable="+unreachable)
	}
	switch {
	case len(sources) > 0 && c.host.Admits:
		c.fail("%s and DETOUR_ADMIT, DETOUR_ADMIT_KEY or DETOUR_TENANTS both say who may connect; hint: unset one of them", c.verifyRef())
	case len(sources) > 0:
		cfg.Admit, cfg.AdmitKey, cfg.AdmitPolicy = sources, nil, config.PolicyAllOf
	case !c.host.Admits:
		cfg.Admit, cfg.AdmitKey = []string{config.AdmitAny}, nil
		c.warnFirst("every Tailscale client that knows the address may use this relay, as with derper; " +
			"`detour serve` asks you about each node instead")
	}
}

func (c *command) verifyRef() string {
	if c.verify {
		return c.ref("verify-clients")
	}
	return c.ref("verify-client-url")
}
