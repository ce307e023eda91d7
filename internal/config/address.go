package config

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

const (
	unixPrefix = "unix:"
	localhost  = "localhost"
)

// checkListen checks HOST:PORT or Off. example is the port that hints suggest.
func checkListen(s, example string) []fault {
	if s == Off {
		return nil
	}
	if IsUnix(s) {
		return bad("use HOST:PORT or :PORT", "%s is no address here", quote(s))
	}
	if IsSystemd(s) {
		return checkSystemd(s)
	}
	_, _, faults := splitListen(s, example)
	return faults
}

// splitListen splits HOST:PORT. The host is empty, an IP literal or a DNS name:
// some hosting services name the address to bind.
func splitListen(s, example string) (host string, number uint16, faults []fault) {
	host, digits, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, bad(listenHint(s, example), "%s is not HOST:PORT", quote(s))
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return "", 0, bad("write the number, as in "+net.JoinHostPort(host, example), "the port of %s is not a number in 0..65535", quote(s))
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && !isName(host) {
		return "", 0, bad("use :"+digits+" for every address, or an IP address", "%s is not an address to listen on", quote(host))
	}
	return host, uint16(n), nil
}

func listenHint(s, example string) string {
	switch strings.ToLower(s) {
	case "off", "none", "no", "false", "disabled", "disable", "-":
		return "write off to turn it off"
	case "":
		return "write :" + example + ", or off to turn it off"
	}
	bare := strings.Trim(s, "[]")
	switch _, err := netip.ParseAddr(bare); {
	case err == nil:
		return "add the port, as in " + net.JoinHostPort(bare, example)
	case strings.Trim(s, "0123456789") == "":
		return "write :" + s
	case isName(s):
		return "add the port, as in " + net.JoinHostPort(s, example)
	}
	return "write an address such as :" + example + " or 192.0.2.1:" + example + ", or off"
}

// port returns the port of a listen address, and 0 for one that has none.
func port(s string) uint16 {
	_, n, _ := splitListen(s, "")
	return n
}

// checkAdmin refuses every address that another machine could reach: whoever
// reaches the admin API may use it.
func checkAdmin(s string) []fault {
	path, isUnix := strings.CutPrefix(s, unixPrefix)
	switch {
	case s == Off:
		return nil
	case IsSystemd(s):
		return checkSystemd(s)
	case isUnix && path == "":
		return bad("write a path after it, as in unix:/run/detour/admin.sock", "unix: without a path")
	case isUnix:
		return checkPath(path)
	case !strings.Contains(s, ":") && strings.ContainsAny(s, "/\\"):
		return bad("write "+unixPrefix+s, "%s is not HOST:PORT", quote(s))
	}
	host, n, faults := splitListen(s, "9090")
	if len(faults) > 0 {
		return faults
	}
	if ip, err := netip.ParseAddr(host); host == localhost || err == nil && ip.Unmap().IsLoopback() {
		return nil
	}
	return bad("use a unix socket, or "+net.JoinHostPort("127.0.0.1", strconv.Itoa(int(n))),
		"%s can be reached from outside, and the admin API asks for no password", quote(s))
}

// checkHostname takes what a client can dial and verify: a DNS name or an IP
// literal, without brackets or zone.
func checkHostname(s string) []fault {
	ip, err := netip.ParseAddr(s)
	switch {
	case s == "" || err != nil && isName(s):
		return nil
	case err == nil && (ip.Zone() != "" || ip.Is4In6()):
		return bad("write "+ip.Unmap().WithZone("").String(), "%s is not how an address is published", quote(s))
	case err == nil && (ip.IsUnspecified() || ip.IsMulticast()):
		return bad("write the address that clients dial", "nobody can dial %s", quote(s))
	case err == nil:
		return nil
	}
	hint := "write a DNS name or an IP address"
	if bare := stripHost(s); bare != s && bare != "" && checkHostname(bare) == nil {
		hint = "write " + bare + " alone; clients learn the port from listen"
	} else if strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) {
		hint = "write an international name in its ASCII form, which begins with xn--"
	}
	return bad(hint, "%s is neither a DNS name nor an IP address", quote(s))
}

// stripHost takes away what people paste around a host: scheme, path, port,
// brackets, spaces and the final dot.
func stripHost(s string) string {
	s = strings.TrimSpace(s)
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	if i := strings.IndexAny(s, "/?#"); i >= 0 {
		s = s[:i]
	}
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	return strings.TrimSuffix(strings.Trim(s, "[]"), ".")
}

// isName reports whether s is a DNS name in its ASCII form. One that ends in a
// number is a mistyped IPv4 address.
func isName(s string) bool {
	const maxName, maxLabel = 253, 63 // bytes, RFC 1035
	if len(s) > maxName {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, notInName) {
			return false
		}
		last = label
	}
	return strings.Trim(last, "0123456789") != ""
}

// notInName allows the underscore, which no host name has by the standard and
// some have all the same.
func notInName(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	return !letter && (r < '0' || r > '9') && r != '-' && r != '_'
}

// checkPublic checks the family (4 or 6) of an address to publish.
func checkPublic(ip netip.Addr, family int) []fault {
	switch {
	case !ip.IsValid():
		return nil
	case ip.Zone() != "" || ip.Is4In6():
		return bad("write "+ip.Unmap().WithZone("").String(), "%s is not how an address is published", ip)
	case ip.IsUnspecified() || ip.IsMulticast():
		return bad("write the address that clients dial", "nobody can dial %s", ip)
	case family == 4 && !ip.Is4():
		return bad("give it as public_ipv6", "%s is an IPv6 address", ip)
	case family == 6 && !ip.Is6():
		return bad("give it as public_ipv4", "%s is an IPv4 address", ip)
	}
	return nil
}
