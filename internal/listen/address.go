package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/detour-relay/detour/internal/unixsock"
)

const (
	unixPrefix = "unix:"
	// defaultMode lets the relay's group connect: most often a proxy in it.
	defaultMode fs.FileMode = 0o660
)

// networkOf returns what package net calls the addresses of one host part. Left
// alone, Go takes IPv4's 0.0.0.0 for both families.
func networkOf(host string) string {
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil: // empty, or a name
		return "tcp"
	case ip.Unmap().Is4():
		return "tcp4"
	}
	return "tcp6"
}

// bindError says what to do about an address that cannot be had.
func bindError(addr, flag string, err error) error {
	setting := orAddress(flag)
	var hint string
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "another program has this port: stop it, or choose another port with " + setting
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		hint = "ports below 1024 need privilege: run as root, give the binary the right with " +
			"setcap cap_net_bind_service=+ep, or choose another port with " + setting
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		hint = "no interface has this address: leave the host out to listen on all, or correct " + setting
	default:
		hint = "write " + setting + " as HOST:PORT, such as :443 or 192.0.2.1:443"
	}
	// The operation and address of a net.OpError only repeat what is said here.
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	return fmt.Errorf("cannot listen on %q: %w; hint: %s", addr, err, hint)
}

// orAddress names the setting of an address in a hint.
func orAddress(flag string) string {
	if flag == "" {
		return "the listen address"
	}
	return flag
}

// listenUnix opens the socket of an address without its prefix.
func listenUnix(path string, o Options) (net.Listener, error) {
	mode := o.Mode
	if mode == 0 {
		mode = defaultMode
	}
	err := unixsock.CheckPath(path)
	if strings.HasPrefix(path, "@") {
		err = errors.New("an abstract socket has no mode to keep users out")
	}
	if err == nil {
		var l net.Listener
		if l, err = unixsock.Listen(path, mode); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("cannot listen on the socket %s: %w; hint: %s", path, err, unixHint(orAddress(o.Flag), err))
}

func unixHint(setting string, err error) string {
	switch {
	case errors.Is(err, unixsock.ErrNotSocket):
		return "move it away, or name another path with " + setting
	case errors.Is(err, unixsock.ErrInUse):
		return "stop the program that does, or name another path with " + setting
	case errors.Is(err, unixsock.ErrDirectory):
		return "make the directory and give it to the relay's user, or name another path with " + setting
	case errors.Is(err, unixsock.ErrUncertain):
		return "if nobody does, remove the file"
	case errors.Is(err, unixsock.ErrNoMode):
		return "use 127.0.0.1 and a port with " + setting
	}
	return "name another path with " + setting
}
