package daemon

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
)

// certificate reads or makes what the relay shows to clients; nil without TLS.
func (d *Daemon) certificate() (*tls.Config, error) {
	if !d.cfg.TLS {
		return nil, nil
	}
	c, err := d.loadOrCreateCert()
	if err != nil {
		return nil, err
	}
	if d.cfg.Hostname != "" && (d.acme == nil || d.acme.published(c) == c) { // else c only stands in
		if err := cert.CheckName(c, d.cfg.Hostname); err != nil {
			return nil, err
		}
	}
	d.id.cert = c
	o := cert.Options{Certificate: c, ServerKeyHex: d.id.serverKey.Hex(), Logger: d.log}
	if d.acme != nil {
		o.Challenge = d.acme.manager.TLSChallenge
	}
	if d.source, err = cert.New(o); err != nil {
		return nil, err
	}
	if d.acme != nil {
		d.acme.serve = d.source.Replace
		d.acme.loadStored()
	}
	return d.source.TLSConfig(), nil
}

func (d *Daemon) loadOrCreateCert() (*cert.Certificate, error) {
	if d.cfg.CertMode == config.CertFiles {
		return cert.LoadFiles(d.cfg.Cert, d.cfg.Key, time.Now())
	}
	if err := d.retireNameless(); err != nil {
		return nil, err
	}
	c, created, err := cert.LoadOrCreatePin(d.cfg.Cert, d.cfg.Key, certNames(d.cfg, d.id.addrs), time.Now())
	if created {
		d.log.Info("made a certificate to be pinned by clients", "file", d.cfg.Cert, "names", strings.Join(c.Names(), " "), "not_after", c.NotAfter())
	}
	return c, err
}

// retireNameless moves a pinned certificate aside that holds no name at all, once
// there is a domain to put into a new one: it was made when the relay had nothing
// to be called by, so Detour has printed no map with its pin.
func (d *Daemon) retireNameless() error {
	if _, err := netip.ParseAddr(d.cfg.Hostname); d.cfg.Hostname == "" || err == nil {
		return nil
	}
	c, err := cert.LoadPin(d.cfg.Cert, d.cfg.Key, time.Now())
	if err != nil || len(c.Names()) > 0 {
		return nil // it is there to stay, or LoadOrCreatePin says what is wrong with it
	}
	for _, file := range []string{d.cfg.Cert, d.cfg.Key} {
		if err := os.Rename(file, file+".nameless"); err != nil {
			return fmt.Errorf("move aside the certificate that holds no name: %w; hint: move %s and %s away by hand", err, d.cfg.Cert, d.cfg.Key)
		}
	}
	d.log.Warn("the certificate was made before the relay had a name; it is kept beside the new one, whose pin is another",
		"file", d.cfg.Cert+".nameless", "old_pin", c.Pin())
	return nil
}
