package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// checkDoor checks the value of listen or http_listen: Off, or an address that a
// unix socket's mode may follow.
func checkDoor(setting, s, example string) []fault {
	if address, _, _ := strings.Cut(s, ","); !IsUnix(address) && !IsSystemd(address) {
		return checkListen(s, example)
	}
	d, faults := parseDoor(s, Door{Setting: setting})
	if len(faults) > 0 {
		return faults
	}
	return checkPlace(d.Address, example)
}

// checkPlace checks an address that is on.
func checkPlace(address, example string) []fault {
	path, isUnix := strings.CutPrefix(address, unixPrefix)
	switch {
	case isUnix && path == "":
		return bad("write a path after it, as in unix:/run/detour/relay.sock", "unix: without a path")
	case isUnix:
		return checkPath(path)
	case IsSystemd(address):
		return checkSystemd(address)
	case address == Off:
		return bad("remove the entry", "an address to listen on cannot be off")
	}
	_, _, faults := splitListen(address, example)
	return faults
}

func checkSystemd(address string) []fault {
	_, name, named := strings.Cut(address, ":")
	if named && (name == "" || strings.ContainsAny(name, ":, ") || !printable(name)) {
		return bad("write systemd:NAME, as FileDescriptorName= has it", "%s names no socket", quote(address))
	}
	return nil
}

func checkAlsoListen(entries []string) []fault {
	whole := joinOptions(entries)
	faults := tooMany(len(whole))
	for _, entry := range whole {
		d, wrong := parseAlso(entry)
		if len(wrong) == 0 {
			wrong = checkPlace(d.Address, "8443")
		}
		if len(wrong) == 0 && d.InMap && IsUnix(d.Address) && d.PublicPort == 0 {
			wrong = bad("say which port clients dial with public_port=, or leave map=on out", "%s has no port for the DERP map", quote(entry))
		}
		faults = append(faults, wrong...)
	}
	return faults
}

func checkAlsoSTUN(entries []string) []fault {
	faults := tooMany(len(entries))
	for _, e := range entries {
		switch {
		case IsUnix(e):
			faults = append(faults, bad("write HOST:PORT", "%s is no UDP address", quote(e))...)
		default:
			faults = append(faults, checkPlace(e, "3478")...)
		}
	}
	return faults
}

func tooMany(n int) []fault {
	if n <= maxAlso {
		return nil
	}
	return bad("remove some", "%d entries are more than %d", n, maxAlso)
}

func checkPublicPort(n int) []fault {
	if n < 0 || n > 65535 {
		return bad("write the number of the port that clients dial", "%d is not in 0..65535", n)
	}
	return nil
}

// listenerChecks finds addresses that are right alone and wrong together.
func listenerChecks(c Config) []Problem {
	list := sameAddress(c)
	add := func(setting string, faults []fault) {
		for _, f := range faults {
			list = append(list, Problem{Setting: setting, What: f.what, Hint: f.hint})
		}
	}
	if c.Listen == Off && len(c.AlsoListen) > 0 {
		add("also_listen", bad("make the first of them listen", "given while listen is off"))
	}
	if c.STUNListen == Off && len(c.AlsoSTUNListen) > 0 {
		add("also_stun_listen", bad("make the first of them stun_listen", "given while stun_listen is off"))
	}
	return list
}

// listener is one address that is bound.
type listener struct{ setting, addr string }

// sameAddress finds listeners that would take each other's address. STUN is UDP
// and may share a port number with any of the others.
func sameAddress(c Config) []Problem {
	tcp := []listener{{"listen", c.Listen}}
	for _, entry := range c.AlsoEntries() {
		d, _ := parseAlso(entry)
		tcp = append(tcp, listener{"also_listen", d.Address})
	}
	tcp = append(tcp, listener{"http_listen", c.HTTPListen}, listener{"admin_listen", c.AdminListen}, listener{"map_listen", c.MapListen})
	udp := []listener{{"stun_listen", c.STUNListen}}
	for _, addr := range c.AlsoSTUNListen {
		udp = append(udp, listener{"also_stun_listen", addr})
	}
	return append(collisions("TCP", tcp), collisions("UDP", udp)...)
}

func collisions(network string, all []listener) []Problem {
	var list []Problem
	for i, b := range all {
		for _, a := range all[:i] {
			kind := network + " address"
			switch {
			case overlap(a.addr, b.addr):
			case sameSocket(a.addr, b.addr):
				kind = "socket"
			default:
				continue
			}
			list = append(list, Problem{
				Setting: b.setting, What: fmt.Sprintf("%s and %s (%s) are the same %s", b.addr, a.setting, a.addr, kind),
				Hint: "change the port of one, or turn one off",
			})
		}
	}
	return list
}

// sameSocket reports whether two addresses are one unix socket, or one that
// systemd passes under a name.
func sameSocket(a, b string) bool {
	pathA, _, _ := strings.Cut(a, ",")
	pathB, _, _ := strings.Cut(b, ",")
	return pathA == pathB && (IsUnix(a) || strings.HasPrefix(a, systemdWord+":"))
}

// overlap reports whether two addresses cannot be listened on together. The empty
// host takes both families, 0.0.0.0 every IPv4 address and :: every IPv6 one.
func overlap(a, b string) bool {
	hostA, portA, faultsA := splitListen(a, "")
	hostB, portB, faultsB := splitListen(b, "")
	if len(faultsA) > 0 || len(faultsB) > 0 || portA != portB || portA == 0 {
		return false // port 0 is a free port for each
	}
	return hostA == hostB || covers(hostA, hostB) || covers(hostB, hostA)
}

func covers(wide, narrow string) bool {
	if wide == "" {
		return true
	}
	ip, err := netip.ParseAddr(hostIP(narrow))
	switch wide {
	case "::":
		return narrow != "" && (err != nil || ip.Unmap().Is6())
	case "0.0.0.0":
		return narrow != "" && (err != nil || ip.Unmap().Is4())
	}
	w, werr := netip.ParseAddr(hostIP(wide))
	return err == nil && werr == nil && w.Unmap() == ip.Unmap()
}

func hostIP(host string) string {
	if host == localhost {
		return "127.0.0.1"
	}
	return host
}
