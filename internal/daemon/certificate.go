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
	if !d.cfg.AnyTLS() {
		return nil, nil
	}
	certs, err := d.loadOrCreateCerts()
	if err != nil {
		return nil, err
	}
	if d.acme == nil || d.acme.published(certs[0]) == certs[0] { // else it only stands in
		if err := d.checkName(certs); err != nil {
			return nil, err
		}
	}
	d.id.cert = cert.ForName(certs, d.cfg.Hostname)
	o := cert.Options{
		Certificate: certs[0], More: certs[1:], StrictSNI: d.cfg.StrictSNI, ServerKeyHex: d.id.serverKey.Hex(), Logger: d.log,
	}
	if d.acme != nil {
		o.Challenge = d.acme.manager.TLSChallenge
	}
	if d.source, err = cert.New(o); err != nil {
		return nil, err
	}
	if d.acme != nil {
		d.acme.serve, d.acme.remap = d.source.Replace, d.keeper.Poke
		d.acme.loadStored()
		return d.source.TLSConfig(), nil
	}
	// What derper's command line names belongs to the operator, in pin mode too.
	if d.cfg.CertMode == config.CertFiles || d.derper {
		d.watch = cert.NewWatcher(cert.WatchOptions{
			Source: d.source, Pairs: certPairs(d.cfg), Loaded: certs, Check: d.checkName, Logger: d.log,
		})
	}
	return d.source.TLSConfig(), nil
}

// checkName refuses certificates of which none is for the relay's own name.
func (d *Daemon) checkName(certs []*cert.Certificate) error {
	if d.cfg.Hostname == "" {
		return nil
	}
	return cert.CheckName(cert.ForName(certs, d.cfg.Hostname), d.cfg.Hostname)
}

// loadOrCreateCerts returns at least one certificate, the default first.
func (d *Daemon) loadOrCreateCerts() ([]*cert.Certificate, error) {
	if d.cfg.CertMode == config.CertFiles {
		return cert.LoadPairs(certPairs(d.cfg), time.Now())
	}
	if err := d.retireNameless(); err != nil {
		return nil, err
	}
	c, created, err := cert.LoadOrCreatePin(d.cfg.Cert, d.cfg.Key, certNames(d.cfg, d.id.addrs), time.Now())
	if created {
		d.log.Info("made a certificate to be pinned by clients", "file", d.cfg.Cert, "names", strings.Join(c.Names(), " "), "not_after", c.NotAfter())
	}
	return []*cert.Certificate{c}, err
}

func certPairs(c config.Config) []cert.Pair {
	var pairs []cert.Pair
	for _, p := range c.CertPairs() {
		pair := cert.Pair{CertFile: p.Cert, KeyFile: p.Key}
		if p.Extra {
			pair.Flag = "--cert-pair"
		}
		pairs = append(pairs, pair)
	}
	return pairs
}

// Reload looks at the certificate files at once, and takes the settings of the kept
// map anew, as SIGHUP asks for. The other settings stay as they are.
func (d *Daemon) Reload() {
	d.reloadMap()
	if d.watch == nil {
		d.log.Info("the relay reads no certificate files that could be read again, and of the settings a reload takes those of the DERP map alone; restart to change others")
		return
	}
	d.log.Info("reading the certificate files again; of the settings a reload takes those of the DERP map alone")
	d.watch.Reload()
}

// certParts keep the certificates fresh, and say when they are not.
func (d *Daemon) certParts() []part {
	var list []part
	if d.source != nil {
		list = append(list, part{"certificate expiry", d.source.LogExpiry})
	}
	if d.watch != nil {
		list = append(list, part{"certificate files", d.watch.Run})
	}
	return list
}

// certProblems are what clients refuse in the certificates, in sentences.
func (d *Daemon) certProblems() []string {
	if d.source == nil {
		return nil
	}
	now, cure := time.Now(), "restart the relay to see what to do about it"
	if d.watch != nil {
		cure = "replace its files, which are read again by themselves"
	}
	var list []string
	for _, c := range d.source.Certificates() {
		if now.After(c.NotAfter()) {
			list = append(list, fmt.Sprintf("the certificate for %s expired on %s: clients refuse it; %s",
				strings.Join(c.Names(), ", "), c.NotAfter().Format(time.DateOnly), cure))
		}
	}
	return list
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
