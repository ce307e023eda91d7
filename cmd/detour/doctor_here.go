package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/daemon"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/probe"
)

// here is the relay on this host, by its settings: its map, and what it says itself.
func (d *doctoring) here(ctx context.Context, o probe.DoctorOptions) ([]probe.DoctorOptions, error) {
	cfg, err := d.settings.load()
	if err != nil {
		return nil, err
	}
	m, _, err := daemon.Map(cfg, false)
	if err != nil {
		return nil, err
	}
	o.Known = true
	o.Local = &probe.Local{Addr: dialable(cfg.Listen), STUN: dialable(cfg.STUNListen)}
	if runtime.GOOS == "linux" {
		o.Local.Root = os.DirFS("/")
	}
	asked := askRelay(ctx, cfg, o.Local)
	if asked != nil {
		o.Vouch = func(ctx context.Context, k key.Public) (bool, error) {
			var answer struct{ Allow bool }
			err := asked.Call(ctx, "POST", "/verify", map[string]any{"NodePublic": k, "Source": ""}, &answer)
			return answer.Allow, err
		}
		if o.Token == nil {
			o.Invite = func(ctx context.Context, keys []key.Public) error {
				return asked.Call(ctx, "POST", "/v1/probe-keys", admin.ProbeRequest{Keys: keys, Seconds: probeSeconds}, new(admin.ProbeResult))
			}
		}
	}
	var visits []probe.DoctorOptions
	for _, r := range m.Regions {
		for i, n := range r.Nodes {
			v := o
			v.Node = n
			if i > 0 { // another port of the same relay
				local := *o.Local
				local.Addr, local.Root = "", nil
				v.Local, v.Member = &local, key.Public{}
			}
			visits = append(visits, v)
		}
	}
	slices.SortStableFunc(visits, func(a, b probe.DoctorOptions) int { return a.Node.RegionID - b.Node.RegionID })
	return visits, nil
}

// probeSeconds is how long the relay lets doctor's keys in.
const probeSeconds = 60

// askRelay asks the running relay about itself. It returns nil when it cannot be
// asked, and notes why.
func askRelay(ctx context.Context, cfg config.Config, l *probe.Local) *admin.Client {
	if cfg.AdminListen == config.Off {
		l.Down = errors.New("admin_listen is off, so the relay cannot be asked")
		return nil
	}
	c, err := admin.NewClient(cfg.AdminListen)
	if err != nil {
		l.Down = err
		return nil
	}
	if cfg.AdminTokenFile != "" {
		// Over the unix socket none is needed, so one that cannot be read is no error here.
		if token, err := os.ReadFile(cfg.AdminTokenFile); err == nil {
			c.UseToken(strings.TrimSpace(string(token)))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	health, err := c.Health(ctx)
	if err != nil {
		l.Down = err
		return nil
	}
	l.Problems = health.Problems
	if stats, err := c.Stats(ctx); err == nil {
		l.Version = decodeStats(stats).Version
	}
	if path, ok := strings.CutPrefix(cfg.AdminListen, "unix:"); ok {
		l.PID = listenerPID(path)
	}
	return c
}

// dialable is where a listener can be dialled on this host, or nothing.
func dialable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return ""
	}
	if n, err := strconv.Atoi(port); err != nil || n == 0 {
		return ""
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if err == nil && ip.Is6() {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}
