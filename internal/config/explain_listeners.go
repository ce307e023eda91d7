package config

import (
	"fmt"
	"net"
	"strings"
)

// doors explains the addresses besides the main one, and who speaks for others.
func (e *explainer) doors(c Config) {
	for i, d := range c.Doors() {
		if i > 0 {
			e.line("relay too: %s, %s; %s", place("TCP", d.Address), tlsWords(d.TLS), mapWords(d))
		}
		for _, p := range d.ProxyProtocol {
			e.line("  connections from %s must begin with a PROXY header, which names the client", p)
		}
		if d.ProxyUnix && IsUnix(d.Address) {
			e.line("  connections must begin with a PROXY header, which names the client")
		}
	}
}

func tlsWords(tls bool) string {
	if tls {
		return "with TLS"
	}
	return "without TLS"
}

func mapWords(d Door) string {
	switch {
	case !d.InMap:
		return "not in the DERP map"
	case d.PublicPort != 0:
		return fmt.Sprintf("clients dial it at port %d where they cannot reach the port before", d.PublicPort)
	}
	return "clients dial it where they cannot reach the port before"
}

// place says where a checked address listens.
func place(network, addr string) string {
	addr, _, _ = strings.Cut(addr, ",")
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		return "unix socket " + path
	}
	if IsSystemd(addr) {
		_, name, named := strings.Cut(addr, ":")
		if named {
			return fmt.Sprintf("the %s socket that systemd passes as %s", network, name)
		}
		return fmt.Sprintf("the %s socket that systemd passes", network)
	}
	host, n, _ := splitListen(addr, "")
	where := host
	switch host {
	case "":
		where = "every address"
	case "::":
		where = "every IPv6 address"
	case "0.0.0.0":
		where = "every IPv4 address"
	}
	if n == 0 {
		return network + " on a port chosen at start, on " + where
	}
	return fmt.Sprintf("%s port %d on %s", network, n, where)
}

// dialled says what clients dial. The port is that of listen, unless another one is
// published: the map knows of no proxy in between.
func dialled(c Config) string {
	host := orWords(c.Hostname, "the public address")
	n := c.dialledPort()
	switch {
	case n == 0 && IsUnix(c.Listen):
		return host + ", on a port that public_port must name"
	case n == 0:
		return host + ", on the port chosen at start"
	case c.Hostname == "":
		return fmt.Sprintf("%s, port %d", host, n)
	}
	return net.JoinHostPort(host, fmt.Sprint(n))
}
