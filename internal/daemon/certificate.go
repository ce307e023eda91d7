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
	d.tellOfEarly(certs)
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
	if d.acme != nil {
		d.log.Info("looking again at what the authority has given; of the settings a reload takes those of the DERP map alone")
		d.acme.lookAgain()
		return
	}
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
	now := time.Now()
	expired, late := "restart the relay to see what to do about it", "change it by detour cert rotate, which takes a week"
	if d.watch != nil {
		expired = "replace its files, which are read again by themselves"
		late = expired
	}
	var list []string
	for _, c := range d.source.Certificates() {
		what := "the certificate for " + strings.Join(c.Names(), ", ")
		switch {
		case c.Expired(now):
			list = append(list, fmt.Sprintf("%s expired on %s: clients refuse it; %s", what, c.NotAfter().Format(time.DateOnly), expired))
		case c.Late(now):
			list = append(list, fmt.Sprintf("%s ends on %s UTC, and should have been renewed by now; %s", what, c.NotAfter().UTC().Format(time.DateTime), late))
		case c.Early(now) && c.Mode() != cert.ModePin: // a pin works whatever the time
			list = append(list, earlyText(what, c, now))
		}
	}
	return list
}

// earlyText says that a certificate's time has not come, by this machine's clock.
func earlyText(what string, c *cert.Certificate, now time.Time) string {
	return fmt.Sprintf("%s is valid from %s on, and this machine's clock says %s: it is served, and clients with the right time take it, but "+
		"nothing here can be relied on; set the clock, best by NTP (timedatectl set-ntp true)",
		what, c.NotBefore().UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
}

// tellOfEarly logs what certProblems says of certificates whose time has not come.
func (d *Daemon) tellOfEarly(certs []*cert.Certificate) {
	for _, c := range certs {
		if now := time.Now(); c.Early(now) && c.Mode() != cert.ModePin {
			d.log.Error(earlyText("the certificate for "+strings.Join(c.Names(), ", "), c, now))
		}
	}
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
