package admin

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/detour-relay/detour/internal/unixsock"
)

// The two kinds of admin address, by the names that package net has for them.
const (
	networkUnix = "unix"
	networkTCP  = "tcp"
)

// address is a checked admin address: the path of a socket, or a loopback IP and
// a port.
type address struct {
	network string // networkUnix or networkTCP
	target  string // as net.Dial takes it
}

// String returns the form that parseAddress reads.
func (a address) String() string {
	if a.network == networkUnix {
		return "unix:" + a.target
	}
	return a.target
}

// parseAddress reads "unix:" and a path, or a loopback host and a port.
func parseAddress(s string) (address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return parseSocketPath(path)
	}
	host, port, err := splitHostPort(s)
	if err != nil {
		return address{}, fmt.Errorf("admin: address %q: %w; hint: use unix:PATH, 127.0.0.1:PORT or [::1]:PORT", s, err)
	}
	if host == "localhost" {
		// Not looked up: what a resolver makes of the name may lie elsewhere.
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !isLoopback(ip) {
		return address{}, fmt.Errorf("admin: address %q is not on this machine's loopback, and the admin API asks for no password; "+
			"hint: use unix:PATH or 127.0.0.1:PORT, and reach it from elsewhere through ssh -L", s)
	}
	return address{networkTCP, netip.AddrPortFrom(ip.Unmap(), port).String()}, nil
}

func parseSocketPath(path string) (address, error) {
	switch {
	case path == "":
		return address{}, errors.New("admin: unix: names no path; hint: use unix:/run/detour/admin.sock or the like")
	case path[0] == '@' || strings.ContainsRune(path, 0):
		// Linux would take either for an abstract socket, which has no owner and no mode.
		return address{}, fmt.Errorf("admin: %q is no path; hint: use unix: and the path of a file", path)
	}
	path = filepath.Clean(path)
	if err := unixsock.CheckPath(path); err != nil {
		return address{}, socketError(path, err)
	}
	return address{networkUnix, path}, nil
}

// splitHostPort wants a numeric port, so that nothing depends on /etc/services.
func splitHostPort(s string) (host string, port uint16, err error) {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 {
		return "", 0, errors.New("no port")
	}
	host = s[:colon]
	n, err := strconv.ParseUint(s[colon+1:], 10, 16)
	if err != nil {
		return "", 0, errors.New("the port is not a number from 0 to 65535")
	}
	bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]")
	if bracketed {
		host = host[1 : len(host)-1]
	}
	if bracketed != strings.Contains(host, ":") {
		return "", 0, errors.New("an IPv6 address, and nothing else, stands in brackets")
	}
	return host, uint16(n), nil
}

// isLoopback refuses zones: a scoped ::1 is nobody's loopback.
func isLoopback(ip netip.Addr) bool {
	return ip.Zone() == "" && ip.Unmap().IsLoopback()
}

// isLoopbackHost reports whether an HTTP Host header names this machine itself.
// A web page whose own name was made to resolve to a loopback address (DNS
// rebinding) sends that name, and is told apart by it. The port may be missing.
func isLoopbackHost(host string) bool {
	if h, _, err := splitHostPort(host); err == nil {
		host = h
	} else if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && isLoopback(ip)
}
