package daemon

import (
	"encoding/hex"
	"net/netip"
	"os"
	"strings"
)

// routes is where Linux lists the IPv4 routes of this process's network.
const routes = "/proc/net/route"

// tellOfBridge is told that all STUN requests so far came from one private
// address. When that is this machine's gateway, clients are told the gateway's
// address for their own.
func (d *Daemon) tellOfBridge(from netip.Addr) {
	text, err := os.ReadFile(routes)
	if err != nil || gatewayIn(string(text)) != from {
		return // another system, or a network that is its own world
	}
	d.log.Warn("every STUN request so far came from this machine's gateway, as in a container behind a bridge: "+
		"clients are told its address for their own, and will find no direct paths to each other; "+
		"hint: run the container in the host's network (docker run --network host, or network_mode: host in a compose file); "+
		"or keep the bridge, set \"userland-proxy\": false in /etc/docker/daemon.json, and give --public-ipv4 ADDRESS",
		"addr", from)
}

// gatewayIn finds the default gateway in the form of /proc/net/route: a heading,
// then a line for each route with interface, destination and gateway, both as
// eight hex digits of the address in the byte order of the machine, which is
// little-endian wherever containers run. Invalid when there is none.
func gatewayIn(text string) netip.Addr {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != "00000000" {
			continue
		}
		b, err := hex.DecodeString(f[2])
		if err != nil || len(b) != 4 || f[2] == "00000000" {
			continue
		}
		return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]})
	}
	return netip.Addr{}
}
