package config

import (
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	systemdWord = "systemd"
	fromUnix    = "unix" // in proxy_protocol: whoever connects over a unix socket
	// maxAlso bounds the further addresses of one kind; each costs goroutines and a
	// node of the map.
	maxAlso = 16
)

// Door is one address of the relay with its options, as Config.Doors reads them.
type Door struct {
	Setting string // listen or also_listen
	Address string // HOST:PORT, "unix:" and a path, or "systemd" with or without ":" and a name
	TLS     bool
	// ProxyProtocol are the networks of proxies that must name their clients, and
	// ProxyUnix says it of those over a unix socket.
	ProxyProtocol []netip.Prefix
	ProxyUnix     bool
	InMap         bool        // whether the DERP map lists it
	PublicPort    int         // port that clients dial; 0: that of Address
	Mode          fs.FileMode // of a unix socket; 0: the default
}

// Doors returns the addresses of a checked c, the main one first; none when the
// relay is off.
func (c Config) Doors() []Door {
	if c.Listen == Off {
		return nil
	}
	main, _ := parseDoor(c.Listen, Door{Setting: "listen", TLS: c.TLS, InMap: true, PublicPort: c.PublicPort})
	main.ProxyProtocol, main.ProxyUnix, _ = parseProxies(c.ProxyProtocol)
	doors := []Door{main}
	for _, entry := range c.AlsoEntries() {
		d, _ := parseAlso(entry)
		doors = append(doors, d)
	}
	return doors
}

// AlsoEntries returns the entries of AlsoListen, each whole.
func (c Config) AlsoEntries() []string { return joinOptions(c.AlsoListen) }

// AnyTLS reports whether an address of the relay speaks TLS, so that it needs a
// certificate.
func (c Config) AnyTLS() bool {
	return slices.ContainsFunc(c.Doors(), func(d Door) bool { return d.TLS })
}

// parseAlso reads an entry of also_listen.
func parseAlso(entry string) (Door, []fault) {
	d, faults := parseDoor(entry, Door{Setting: "also_listen", TLS: true, InMap: true})
	if len(faults) > 0 {
		return d, faults
	}
	// What clients cannot dial as it stands is in the map only if that is asked for.
	if !hasOption(entry, "map") && (!d.TLS || IsUnix(d.Address)) {
		d.InMap = false
	}
	return d, nil
}

// AddressAndMode splits the value of http_listen; the mode is 0 when it has none.
func AddressAndMode(s string) (address string, mode fs.FileMode) {
	d, _ := parseDoor(s, Door{Setting: "http_listen"})
	return d.Address, d.Mode
}

// joinOptions mends entries that were cut at their commas, as the environment and
// a YAML list without quotes do: what begins with an option belongs to the entry
// before.
func joinOptions(entries []string) []string {
	var whole []string
	for _, e := range entries {
		name, _, isOption := strings.Cut(e, "=")
		if _, known := doorOptions[name]; isOption && known && len(whole) > 0 {
			whole[len(whole)-1] += "," + e
			continue
		}
		whole = append(whole, e)
	}
	return whole
}

func hasOption(entry, name string) bool {
	return strings.Contains(entry, ","+name+"=")
}

// doorOptions reads the options of an entry, by their names.
var doorOptions = map[string]func(d *Door, text string) []fault{
	"tls": func(d *Door, text string) []fault { return assignBool(&d.TLS, text) },
	"map": func(d *Door, text string) []fault { return assignBool(&d.InMap, text) },
	"public_port": func(d *Door, text string) (faults []fault) {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return bad("write the number of the port that clients dial", "%s is not a port in 1..65535", quote(text))
		}
		d.PublicPort = int(n)
		return nil
	},
	"proxy_protocol": func(d *Door, text string) (faults []fault) {
		list := strings.FieldsFunc(text, func(r rune) bool { return r == '|' || r == '+' })
		d.ProxyProtocol, d.ProxyUnix, faults = parseProxies(list)
		return faults
	},
	"mode": func(d *Door, text string) []fault {
		n, err := strconv.ParseUint(text, 8, 9)
		if err != nil || n == 0 {
			return bad("write it as for chmod, as in mode=0660", "%s is not the mode of a socket", quote(text))
		}
		d.Mode = fs.FileMode(n)
		return nil
	},
}

// optionsOf lists what may stand behind an address of each setting.
var optionsOf = map[string][]string{
	"listen": {"mode"}, "http_listen": {"mode"}, "also_listen": {"tls", "proxy_protocol", "map", "public_port", "mode"},
}

// parseDoor reads ADDRESS[,option=value…] over the defaults in d.
func parseDoor(entry string, d Door) (Door, []fault) {
	address, rest, some := strings.Cut(entry, ",")
	d.Address = address
	known := optionsOf[d.Setting]
	for option := range strings.SplitSeq(rest, ",") {
		if !some {
			break
		}
		name, text, ok := strings.Cut(option, "=")
		switch {
		case !slices.Contains(known, name):
			if len(known) == 1 {
				return d, bad("give it as a setting of its own; only mode may follow the path of a unix socket", "unknown option %s", quote(option))
			}
			return d, bad(didYouMean(name, known), "unknown option %s", quote(option))
		case !ok || text == "":
			return d, bad("write "+name+"=VALUE", "option %s has no value", quote(option))
		case name == "mode" && !IsUnix(address):
			return d, bad("leave it out", "mode is for unix sockets, and %s is none", quote(address))
		}
		if faults := doorOptions[name](&d, text); len(faults) > 0 {
			return d, faults
		}
	}
	return d, nil
}

// parseProxies reads the entries of a proxy_protocol.
func parseProxies(entries []string) (list []netip.Prefix, unix bool, faults []fault) {
	for _, e := range entries {
		if e == fromUnix {
			unix = true
			continue
		}
		p, err := netip.ParsePrefix(e)
		if ip, ipErr := netip.ParseAddr(e); err != nil && ipErr == nil && ip.Zone() == "" {
			p, err = netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()), nil
		}
		switch {
		case err != nil:
			faults = append(faults, bad("write the proxy's address or network, as in 192.0.2.7 or 10.0.0.0/8, or unix for a unix socket",
				"%s is not a network", quote(e))...)
		case p != p.Masked():
			faults = append(faults, bad("write "+p.Masked().String()+", or "+p.Addr().String()+" for that address alone",
				"%s has bits set behind its prefix", quote(e))...)
		case p.Addr().Is4In6():
			faults = append(faults, bad("write it as IPv4", "%s is not how an address is compared", quote(e))...)
		default:
			list = append(list, p)
		}
	}
	return list, unix, faults
}

// dialledPort is the port that clients dial for Listen; 0 when it is not known yet.
func (c Config) dialledPort() int {
	if c.PublicPort != 0 {
		return c.PublicPort
	}
	return int(port(c.Listen))
}

// IsUnix reports whether a listen address is that of a unix socket.
func IsUnix(address string) bool { return strings.HasPrefix(address, unixPrefix) }

// IsSystemd reports whether a listen address is a socket that systemd passes.
func IsSystemd(address string) bool {
	return address == systemdWord || strings.HasPrefix(address, systemdWord+":")
}
