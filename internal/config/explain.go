package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Explain says in plain words what a relay with the checked configuration c
// does: for a person, in lines that end in a newline. It names no secret.
func Explain(c Config) string {
	var e explainer
	e.listeners(c)
	e.admission(c)
	e.certificate(c)
	e.derpMap(c)
	e.rest(c)
	return e.b.String()
}

type explainer struct{ b strings.Builder }

// head begins a section.
func (e *explainer) head(s string) {
	if e.b.Len() > 0 {
		e.b.WriteByte('\n')
	}
	e.b.WriteString(s + "\n")
}

func (e *explainer) line(format string, args ...any) {
	fmt.Fprintf(&e.b, "  "+format+"\n", args...)
}

func (e *explainer) listeners(c Config) {
	e.head("Listens")
	switch {
	case c.Listen == Off:
		e.line("relay: off; no packet is relayed")
	case c.TLS:
		e.line("relay: %s, with TLS", place("TCP", c.Listen))
	default:
		e.line("relay: %s, without TLS; clients need a proxy in front that ends TLS", place("TCP", c.Listen))
	}
	e.doors(c)
	switch {
	case c.STUNListen == Off:
		e.line("STUN: off; clients cannot measure this relay by UDP or learn their address here")
	case c.STUNMode == STUNRFC:
		e.line("STUN: %s, answering every binding request", place("UDP", c.STUNListen))
	default:
		e.line("STUN: %s, answering Tailscale clients only", place("UDP", c.STUNListen))
	}
	for _, addr := range c.AlsoSTUNListen {
		e.line("STUN too: %s", place("UDP", addr))
	}
	switch {
	case c.HTTPListen == Off:
		e.line("plain HTTP: off; clients cannot check for captive portals here")
	case port(c.HTTPListen) == 80:
		e.line("plain HTTP: %s, for captive-portal checks", place("TCP", c.HTTPListen))
	default:
		e.line("plain HTTP: %s, for captive-portal checks; clients ask on port 80, so forward that to it", place("TCP", c.HTTPListen))
	}
	path, isUnix := strings.CutPrefix(c.AdminListen, unixPrefix)
	switch {
	case c.AdminListen == Off:
		e.line("admin API: off; detour healthcheck has nothing to ask")
	case isUnix:
		e.line("admin API: unix socket %s", path)
	case IsSystemd(c.AdminListen):
		e.line("admin API: %s", place("TCP", c.AdminListen))
	default:
		e.line("admin API: %s", place("TCP", c.AdminListen))
	}
	e.frontPage(c.FrontPage)
	e.around(c)
}

func (e *explainer) frontPage(page string) {
	switch page {
	case FrontNeutral:
		e.line("a browser sees: a page that does not say what runs here")
	case FrontBlank:
		e.line("a browser sees: an empty page")
	case FrontFallback: // around names the site
	default:
		e.line("a browser is sent to: %s", page)
	}
}

func (e *explainer) admission(c Config) {
	e.head("Who may connect")
	tenants := c.Tenants()
	switch {
	case len(tenants) == 0:
		e.line("nobody; let people in by admit: [ask], or everybody by admit: [any]")
	case c.AdmitsAll():
		e.line("everybody who finds the relay (admit: any)")
	}
	for _, t := range tenants {
		who := "nodes that one of these allows"
		if t.AllOf && len(t.Entries) > 1 {
			who = "nodes that all of these allow"
		}
		if t.Name != "" {
			who = "tenant " + t.Name + ": " + who
		}
		e.line("%s:", who)
		for _, s := range t.Entries {
			e.line("  %s", s.Explain())
		}
	}
	for _, k := range c.AdmitKey {
		e.line("  %s", k)
	}
	if c.Isolate {
		e.line("nodes of different tenants exchange no packets")
	}
	if c.Refusal == RefusalClose {
		e.line("the connections of others are closed without a word")
		return
	}
	e.line("others may log in and wait, and tailscale status tells them why; they can send and receive nothing")
}

func (e *explainer) certificate(c Config) {
	e.head("Certificate")
	switch {
	case !c.AnyTLS():
		e.line("none is needed")
	case c.CertMode == CertPin:
		e.line("self-signed, made once and kept; clients know it by the fingerprint in the DERP map")
		e.line("certificate: %s", c.Cert)
		e.line("private key: %s", c.Key)
	case c.CertMode == CertACME:
		e.line("from the authority at %s, for %s, renewed by itself", c.ACMEDirectory,
			orWords(strings.Join(c.ACMEName, ", "), orWords(c.Hostname, "the published addresses")))
		e.line("until it is there, self-signed and known to clients by its fingerprint: %s", c.Cert)
	default:
		e.line("from files, which are read again when they change; clients accept it when it is valid for the name they dial and an authority they trust issued it")
		for _, p := range c.CertPairs() {
			e.line("certificate: %s", p.Cert)
			e.line("private key: %s", p.Key)
		}
	}
	if c.StrictSNI {
		e.line("clients that ask for no name, or one that no certificate covers, are refused")
	}
}

func (e *explainer) derpMap(c Config) {
	e.head("The DERP map will say")
	e.line("region: %d, code %s, name %s", c.RegionID, c.RegionCode, c.RegionName)
	e.line("node: %s", orWords(c.NodeName, "a name made from the region and the server key"))
	if c.Listen != Off {
		e.line("clients dial: %s", dialled(c))
	}
	e.line("IPv4: %s", c.followed(c.PublicIPv4))
	e.line("IPv6: %s", c.followed(c.PublicIPv6))
	e.keeps(c)
}

func (e *explainer) rest(c Config) {
	e.head("Keeps")
	e.line("state directory: %s", c.StateDir)
	e.line("server key: %s", c.ServerKey)
	e.line("mesh key: %s", orWords(c.MeshKeyFile, "none; this relay has no siblings"))
	e.head("Limits and log")
	e.line("a peer that takes no byte: %s", durationWords(c.WriteTimeout, "is cut off after ", "is never cut off"))
	e.line("data that is not acknowledged: %s", durationWords(c.TCPUserTimeout, "ends the connection after ", "is left to the system"))
	e.line("TCP keepalive: %s", durationWords(c.TCPKeepAlive, "begins after silence of ", "is left to the system"))
	e.line("log: %s, from level %s", c.LogFormat, c.LogLevel)
	e.runAs(c)
}

func orWords(s, words string) string {
	if s == "" {
		return words
	}
	return s
}

func ipWords(ip netip.Addr) string {
	if !ip.IsValid() {
		return "found on the interfaces at start"
	}
	return ip.String()
}

func durationWords(d time.Duration, limited, unlimited string) string {
	if d == 0 {
		return unlimited
	}
	return limited + formatDuration(d)
}
