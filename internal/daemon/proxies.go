package daemon

import (
	"crypto/tls"

	"github.com/detour-relay/detour/internal/sni"
	"github.com/detour-relay/detour/internal/web"
)

// buildWeb makes the HTTP around the relay, with what stands around it in turn:
// trusted proxies, the site behind fallback, and routes by name.
func (d *Daemon) buildWeb(tlsConfig *tls.Config) error {
	from, unix := d.cfg.TrustedFrom()
	o := web.Options{
		Relay: d.relay, TLS: tlsConfig, FrontPage: d.cfg.FrontPage, Logger: d.log,
		Proxies: web.Proxies{From: from, Unix: unix}, Also: d.publicMap,
	}
	if d.cfg.Fallback != "" {
		site, err := web.NewFallback(d.cfg.Fallback, d.log)
		if err != nil {
			return err
		}
		o.Fallback = site
	}
	var routes []sni.Route
	for _, r := range d.cfg.Routes() {
		routes = append(routes, sni.Route{Name: r.Name, Network: r.Network, Addr: r.Addr, ProxyV2: r.ProxyV2})
	}
	if len(routes) > 0 {
		d.router = sni.New(sni.Options{Routes: routes, Own: d.cfg.Hostname, Logger: d.log})
		o.Router = d.router
	}
	d.webOptions = o
	d.web = web.New(o)
	return nil
}
