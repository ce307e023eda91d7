package config

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// TrustUnix in TrustedProxies stands for whoever connects over a unix socket.
const TrustUnix = "unix"

// proxyOption is what may follow a route's target, behind a comma. In the
// environment, where commas part entries, it comes as an entry of its own.
const proxyOption = "proxy_protocol="

// Route is one entry of SNIRoute.
type Route struct {
	Name    string // DNS name, or "*." and the rest
	Network string // "tcp" or "unix"
	Addr    string // HOST:PORT or a path
	ProxyV2 bool   // whether a PROXY v2 header comes first
}

// TrustedFrom returns TrustedProxies as prefixes, IPv4 never in its IPv6 form,
// and whether unix sockets are trusted. Of a Config that was not checked it
// leaves out what is wrong.
func (c Config) TrustedFrom() (from []netip.Prefix, unix bool) {
	from, unix, _ = parseTrusted(c.TrustedProxies)
	return from, unix
}

// Routes returns SNIRoute. Of a Config that was not checked it leaves out what
// is wrong.
func (c Config) Routes() []Route {
	routes, _ := parseRoutes(c.SNIRoute)
	return routes
}

func parseTrusted(entries []string) (from []netip.Prefix, unix bool, faults []fault) {
	for _, e := range entries {
		if e == TrustUnix {
			unix = true
			continue
		}
		prefix, err := netip.ParsePrefix(e)
		if ip, ipErr := netip.ParseAddr(e); ipErr == nil && ip.Zone() == "" {
			prefix, err = netip.PrefixFrom(ip, ip.BitLen()), nil
		}
		switch {
		case err != nil:
			faults = append(faults, bad("write 192.0.2.0/24, 2001:db8::/32, an address, or unix", "%s is not a range of addresses", quote(e))...)
			continue
		case prefix.Addr().Is4In6() && prefix.Bits() < 96:
			faults = append(faults, bad("write the IPv4 range alone", "%s holds every IPv4 address and more", quote(e))...)
			continue
		case prefix.Addr().Is4In6():
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
		from = append(from, prefix.Masked())
	}
	return from, unix, faults
}

func checkFallback(s string) []fault {
	path, isUnix := strings.CutPrefix(s, unixPrefix)
	switch {
	case s == "":
		return nil
	case isUnix && path == "":
		return bad("write a path after it, as in unix:/run/site.sock", "unix: without a path")
	case isUnix:
		return checkPath(path)
	case !strings.Contains(s, "://") && strings.ContainsAny(s, "/\\"), s == ".":
		return checkPath(s)
	}
	const hint = "use http://HOST:PORT, unix:/PATH, or a directory's path with a / in it"
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme == "" || u.Host == "":
		return bad(hint, "%s is neither a web server nor a directory", quote(s))
	case u.Scheme != "http":
		return bad("use http:// to a server on this machine, or sni_route for one that ends TLS itself", "%s is not an http URL", quote(s))
	case u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return bad("write http://"+u.Host, "%s has more than a host and a port, and every path is passed on as it is", quote(s))
	}
	return checkTarget(hostAndPort(u.Host))
}

// hostAndPort adds the port that http means to a host that names none.
func hostAndPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "80")
}

// checkTarget checks an address that is dialled.
func checkTarget(s string) []fault {
	host, n, faults := splitListen(s, "8443")
	switch {
	case len(faults) > 0:
		return faults
	case host == "":
		return bad("write 127.0.0.1"+s, "%s names no host", quote(s))
	case n == 0:
		return bad("", "%s has port 0, which cannot be dialled", quote(s))
	}
	return nil
}

func parseRoutes(entries []string) (routes []Route, faults []fault) {
	names := map[string]bool{}
	for _, e := range entries {
		if option, ok := strings.CutPrefix(e, proxyOption); ok && len(routes) > 0 {
			faults = append(faults, routes[len(routes)-1].option(option)...)
			continue
		}
		r, wrong := parseRoute(e)
		if len(wrong) > 0 {
			faults = append(faults, wrong...)
			continue
		}
		if names[r.Name] {
			faults = append(faults, bad("keep one of them", "%s has two routes", r.Name)...)
			continue
		}
		names[r.Name] = true
		routes = append(routes, r)
	}
	return routes, faults
}

func parseRoute(e string) (Route, []fault) {
	name, target, ok := strings.Cut(e, "=")
	if !ok {
		return Route{}, bad("write other.example.com=127.0.0.1:8443", "%s is not NAME=HOST:PORT", quote(e))
	}
	r := Route{Name: strings.ToLower(strings.TrimSuffix(name, ".")), Network: "tcp"}
	plain := strings.TrimPrefix(r.Name, "*.")
	if _, err := netip.ParseAddr(plain); err == nil || !isName(plain) || plain != r.Name && !strings.Contains(plain, ".") {
		return Route{}, bad("use a DNS name, or *. and one", "%s is not a name that a TLS client asks for", quote(name))
	}
	target, option, more := strings.Cut(target, ",")
	if more {
		value, isProxy := strings.CutPrefix(option, proxyOption)
		if !isProxy {
			return Route{}, bad("use proxy_protocol=v2", "unknown option %s", quote(option))
		}
		if faults := r.option(value); len(faults) > 0 {
			return Route{}, faults
		}
	}
	if path, isUnix := strings.CutPrefix(target, unixPrefix); isUnix {
		r.Network, r.Addr = "unix", path
		if path == "" {
			return Route{}, bad("write a path after it, as in unix:/run/site.sock", "unix: without a path")
		}
		return r, checkPath(path)
	}
	r.Addr = target
	return r, checkTarget(target)
}

func (r *Route) option(value string) []fault {
	if value != "v2" {
		return bad("use proxy_protocol=v2", "%s is not a version of the PROXY protocol that is sent", quote(value))
	}
	r.ProxyV2 = true
	return nil
}

// proxyChecks finds what is set in vain, and connections that would come back to
// the relay without an end.
func proxyChecks(c Config) []Problem {
	var list []Problem
	add := func(setting string, faults []fault) {
		for _, f := range faults {
			list = append(list, Problem{Setting: setting, What: f.what, Hint: f.hint})
		}
	}
	switch {
	case c.Fallback != "" && c.FrontPage != FrontFallback && c.FrontPage != "":
		add("front_page", bad("remove front_page or fallback", "is %s, so that fallback would answer nothing", quote(c.FrontPage)))
	case c.Fallback == "" && c.FrontPage == FrontFallback:
		add("front_page", bad("set fallback to http://HOST:PORT or a directory", "is fallback, and no fallback is set"))
	}
	if u, err := url.Parse(c.Fallback); err == nil && u.Scheme == "http" && u.Host != "" {
		if reaches(c, hostAndPort(u.Host)) {
			add("fallback", bad("name the web server's own port", "%s is the relay itself", quote(c.Fallback)))
		}
	}
	routes := c.Routes()
	if len(routes) > 0 && !c.AnyTLS() {
		add("sni_route", bad("remove it, or turn tls on", "needs TLS, which is off: the names are in it"))
	}
	for _, r := range routes {
		if strings.EqualFold(r.Name, c.Hostname) {
			add("sni_route", bad("remove this route", "%s is the relay's own hostname, so no client would reach the relay", r.Name))
		}
		if r.Network == "tcp" && reaches(c, r.Addr) {
			add("sni_route", bad("name the other server's own port", "%s is the relay itself", quote(r.Addr)))
		}
	}
	return list
}

// reaches reports whether who dials target reaches the relay's own listener: as
// far as that can be told from the address alone.
func reaches(c Config, target string) bool {
	listeners := []string{c.HTTPListen}
	for _, d := range c.Doors() {
		listeners = append(listeners, d.Address)
	}
	for _, own := range listeners {
		host, n, faults := splitListen(own, "")
		if own == Off || len(faults) > 0 || n == 0 || n != port(target) {
			continue
		}
		to, _, _ := splitListen(target, "")
		ip, err := netip.ParseAddr(hostIP(to))
		everywhere := host == "" || host == "::" && !ip.Unmap().Is4() || host == "0.0.0.0" && !ip.Unmap().Is6()
		if everywhere && err == nil && (ip.IsLoopback() || ip.IsUnspecified()) || to == host {
			return true
		}
		if own, ownErr := netip.ParseAddr(hostIP(host)); err == nil && ownErr == nil && own.Unmap() == ip.Unmap() {
			return true
		}
	}
	return false
}

// around says what stands around the relay.
func (e *explainer) around(c Config) {
	if c.Fallback != "" {
		e.line("a browser sees: what %s answers", c.Fallback)
	}
	for _, r := range c.Routes() {
		header := ""
		if r.ProxyV2 {
			header = ", with a PROXY v2 header"
		}
		e.line("TLS for %s: is handed on to %s%s", r.Name, r.Addr, header)
	}
	if len(c.TrustedProxies) > 0 {
		e.line("X-Forwarded-For and X-Real-IP: are believed from %s", strings.Join(c.TrustedProxies, ", "))
	}
}
