package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/listen"
	"github.com/detour-relay/detour/internal/stun"
	"github.com/detour-relay/detour/internal/web"
)

// listenRelay binds the relay's own address.
func (d *Daemon) listenRelay(ctx context.Context) (err error) {
	if d.cfg.Listen == config.Off {
		return nil
	}
	if d.door, err = listen.Listen(ctx, d.cfg.Listen, d.doorOptions("--listen")); err != nil {
		return err
	}
	d.cfg.Listen = withPort(d.cfg.Listen, d.door.Addr())
	return nil
}

func (d *Daemon) listenHTTP(ctx context.Context) (err error) {
	if d.cfg.HTTPListen == config.Off {
		return nil
	}
	if d.httpDoor, err = listen.Listen(ctx, d.cfg.HTTPListen, d.doorOptions("--http-listen")); err != nil {
		return err
	}
	d.cfg.HTTPListen = withPort(d.cfg.HTTPListen, d.httpDoor.Addr())
	o := web.HTTPOptions{Logger: d.log}
	if d.acme != nil {
		o.Before = d.acme.manager.HTTPChallenge
	}
	d.portal = web.NewHTTP(o)
	return nil
}

func (d *Daemon) listenSTUN(context.Context) error {
	if d.cfg.STUNListen == config.Off {
		return nil
	}
	mode := stun.Tailscale
	if d.cfg.STUNMode == config.STUNRFC {
		mode = stun.RFC
	}
	d.stun = stun.New(stun.Options{Mode: mode, Logger: d.log})
	if err := d.stun.Listen(d.cfg.STUNListen); err != nil {
		return err
	}
	d.cfg.STUNListen = withPort(d.cfg.STUNListen, d.stun.Addrs()[0])
	return nil
}

func (d *Daemon) doorOptions(flag string) listen.Options {
	return listen.Options{Flag: flag, KeepAlive: d.cfg.TCPKeepAlive, UserTimeout: d.cfg.TCPUserTimeout, Logger: d.log}
}

// withPort puts the port that was really bound into a listen setting.
func withPort(setting string, bound netip.AddrPort) string {
	host, _, err := net.SplitHostPort(setting)
	if err != nil {
		return setting
	}
	return net.JoinHostPort(host, fmt.Sprint(bound.Port()))
}
