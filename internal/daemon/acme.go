package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/acme"
	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
)

// acmeMode is what a relay with cert_mode acme shows to clients, and so what the
// maps that they hold must say. It is kept in a file, since only the past knows
// which map was pasted:
//
//	new -> ca   the first certificate came before any map was printed
//	new -> ca   the operator said that no client holds a pin (acme_switch at the first start)
//	new -> pin  it did not come in time, so the map with the pin was printed
//	pin -> ca   a rotation with a second port came to its end (detour cert rotate)
//	pin -> ca   the operator said so (acme_switch), after pasting the other map
//
// There is no way back from ca: clients with a map without pin refuse the pin.
type acmeMode string

const (
	acmeNew acmeMode = "new" // no map was printed yet
	acmePin acmeMode = "pin" // clients may hold a map with the pin
	acmeCA  acmeMode = "ca"  // clients hold a map without pin
)

const (
	acmeFirstWait = time.Minute    // for the first certificate, before the map with the pin is printed
	acmeRemind    = 24 * time.Hour // between reminders that a certificate waits to be used
)

func acmeDir(c config.Config) string  { return filepath.Join(c.StateDir, "acme") }
func modeFile(c config.Config) string { return filepath.Join(acmeDir(c), "mode") }

// loadACMEMode reads the mode. Without one, a pin that is there is the one that
// clients hold: the relay was in cert_mode pin before.
func loadACMEMode(c config.Config) (acmeMode, error) {
	m, err := readACMEMode(c)
	if m != acmePin {
		return m, err
	}
	// A rotation that is so far has its end before it, and the relay may not have
	// followed yet.
	if r, err := rotationOf(c); err == nil && r.Authority && r.Phase == cert.PhaseClosing {
		return acmeCA, nil
	}
	return m, err
}

func readACMEMode(c config.Config) (acmeMode, error) {
	text, err := os.ReadFile(modeFile(c))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(c.Cert); err == nil {
			return acmePin, nil
		}
		return acmeNew, nil
	}
	if err != nil {
		return "", fmt.Errorf("read what clients hold: %w; hint: let this user read the state directory", err)
	}
	switch m := acmeMode(strings.TrimSpace(string(text))); m {
	case acmeNew, acmePin, acmeCA:
		return m, nil
	}
	return "", fmt.Errorf("%s says neither pin nor ca; hint: write pin into it if the map that clients hold has a CertName, ca if not", modeFile(c))
}

// acmeNames are what to certify: as set, or else what clients dial.
func acmeNames(c config.Config, a derpmap.Addresses) (names []string, ips []netip.Addr) {
	subjects := c.ACMEName
	if len(subjects) == 0 && c.Hostname != "" {
		subjects = []string{c.Hostname}
	}
	for _, s := range subjects {
		if ip, err := netip.ParseAddr(s); err == nil {
			ips = append(ips, ip)
		} else {
			names = append(names, strings.ToLower(s))
		}
	}
	if len(subjects) == 0 {
		for _, ip := range []netip.Addr{a.IPv4, a.IPv6} {
			if ip.IsValid() {
				ips = append(ips, ip)
			}
		}
	}
	return names, ips
}

// authority is cert_mode acme of one relay.
type authority struct {
	manager  *acme.Manager
	cfg      config.Config
	log      *slog.Logger
	subjects []string      // in the order of acme_name, domains first
	settled  chan struct{} // closed once the mode is not acmeNew
	changed  chan struct{} // closed once acmePin gives way to acmeCA after the start; made by loadStored
	serve    func([]*cert.Certificate) error

	mu   sync.Mutex
	mode acmeMode                     // guarded by mu
	have map[string]*cert.Certificate // guarded by mu
	// second serves them on the second port of a rotation; nil: there is none.
	// Guarded by mu.
	second func([]*cert.Certificate) error

	remap func() // hears that the relay's map is another now; it does not wait
}

// newAuthority makes what listeners need to answer the authority. It reads files
// and opens nothing.
func newAuthority(c config.Config, a derpmap.Addresses, log *slog.Logger) (*authority, error) {
	mode, err := loadACMEMode(c)
	if err != nil {
		return nil, err
	}
	names, ips := acmeNames(c, a)
	u := &authority{cfg: c, log: log, mode: mode, have: map[string]*cert.Certificate{}, settled: make(chan struct{}), subjects: names}
	for _, ip := range ips {
		u.subjects = append(u.subjects, ip.String())
	}
	o := acme.Options{
		Directory: c.ACMEDirectory, Email: c.ACMEEmail, EABKeyID: c.ACMEEABKeyID, EABMACKey: c.ACMEEABKey,
		Names: names, IPs: ips, IPProfile: c.ACMEIPProfile, Storage: acmeDir(c), DNSHook: c.ACMEDNSHook,
		HTTP: c.HTTPListen != config.Off, TLS: true, OnCertificate: u.take, Logger: log,
	}
	if c.ACMEIPProfile == config.ProfileNone {
		o.IPProfile = ""
	}
	if c.ACMEEABKeyFile != "" {
		text, err := os.ReadFile(c.ACMEEABKeyFile)
		if err != nil {
			return nil, fmt.Errorf("acme_eab_key_file: %w; hint: put the key there as the authority shows it, mode 0600", err)
		}
		o.EABMACKey = string(text)
	}
	if c.ACMECAFile != "" {
		text, err := os.ReadFile(c.ACMECAFile)
		if err != nil {
			return nil, fmt.Errorf("acme_ca_file: %w; hint: name the PEM file of the authority's root", err)
		}
		o.Roots = x509.NewCertPool()
		if !o.Roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("acme_ca_file: %s holds no PEM certificate; hint: name the PEM file of the authority's root", c.ACMECAFile)
		}
	}
	if u.manager, err = acme.New(o); err != nil {
		return nil, err
	}
	switch {
	case mode == acmeNew && c.ACMESwitch: // no client holds a pin, and none shall
		err = u.setMode(acmeCA)
		close(u.settled)
	case mode == acmeNew:
		err = u.setMode(acmeNew) // before the pin is made, whose being there would mean acmePin
	default:
		close(u.settled)
	}
	return u, err
}

// setMode keeps the mode in its file. The caller holds mu, or is alone.
func (u *authority) setMode(m acmeMode) error {
	if err := os.MkdirAll(acmeDir(u.cfg), 0o700); err != nil {
		return fmt.Errorf("make the directory for certificates: %w; hint: let this user write to the state directory", err)
	}
	err := replaceWithin(u.cfg.StateDir, filepath.Join("acme", "mode"), []byte(m+"\n"))
	if err != nil {
		return fmt.Errorf("keep what clients hold: %w; hint: let this user write to the state directory", err)
	}
	if u.mode == acmePin && m == acmeCA && u.changed != nil {
		close(u.changed) // there is no way back, so this comes once
	}
	u.mode = m
	if u.remap != nil {
		u.remap()
	}
	return nil
}

// replaceWithin writes a file below dir, of which nothing leads out of it: dir may
// belong to another user than the one who writes, who may be root.
func replaceWithin(dir, name string, data []byte) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	staged := name + ".new"
	if err := root.Remove(staged); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return root.Rename(staged, name)
}

// loadStored takes the certificates of the last run, so that not even the first
// client of this one sees another.
func (u *authority) loadStored() {
	for _, s := range u.subjects {
		if certPEM, keyPEM, err := acme.Stored(acmeDir(u.cfg), u.cfg.ACMEDirectory, s); err == nil {
			u.take(s, certPEM, keyPEM)
		}
	}
	u.changed = make(chan struct{}) // nobody has been told a map before
}

// take is given each certificate that there is, and serves it if clients expect one.
func (u *authority) take(subject string, certPEM, keyPEM []byte) {
	c, err := cert.ParsePEM(subject, certPEM, keyPEM, time.Now())
	if err != nil {
		u.log.Error("cannot serve the authority's certificate", "name", subject, "err", err)
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	first := u.have[u.subjects[0]] == nil
	u.have[subject] = c
	if first && u.changed != nil { // not one that was there at the start, of which settle reminds
		defer u.remindLocked()
	}
	wanted := u.mode == acmeNew || u.mode == acmePin && u.cfg.ACMESwitch
	if wanted && u.have[u.subjects[0]] != nil {
		was := u.mode
		if err := u.setMode(acmeCA); err != nil {
			u.log.Error("the authority's certificate is not served", "err", err)
			return
		}
		u.log.Warn("from now on clients are shown the authority's certificate; maps must not carry a pin; hint: detour map prints the one to paste", "names", u.subjects)
		if was == acmeNew {
			close(u.settled)
		}
	}
	if u.second != nil {
		if err := u.second(u.list()); err != nil {
			u.log.Error("cannot serve the authority's certificate on the second port", "name", subject, "err", err)
		}
	}
	if u.mode != acmeCA {
		return
	}
	if err := u.serve(u.list()); err != nil {
		u.log.Error("cannot serve the authority's certificate", "name", subject, "err", err)
	}
}

// errNoAuthorityCert is what a rotation to the authority's certificate waits for.
var errNoAuthorityCert = errors.New("there is no certificate from the authority; hint: read the relay's log for why, or give the rotation up with detour cert rotate --end")

// lend gives begin what is to be served on the second port of a rotation. The
// function that it returns is called with what takes its place later.
func (u *authority) lend(begin func([]*cert.Certificate) (serve func([]*cert.Certificate) error, err error)) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.have[u.subjects[0]] == nil {
		return errNoAuthorityCert
	}
	serve, err := begin(u.list())
	if err != nil {
		return err
	}
	u.second = serve
	return nil
}

// takeBack ends what lend began.
func (u *authority) takeBack() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.second = nil
}

// changeOver shows the authority's certificate to everybody from now on, as at the
// end of a rotation.
func (u *authority) changeOver() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.have[u.subjects[0]] == nil {
		return errNoAuthorityCert
	}
	if err := u.setMode(acmeCA); err != nil {
		return err
	}
	return u.serve(u.list())
}

// list returns the certificates that there are, in order. The caller holds mu.
func (u *authority) list() []*cert.Certificate {
	var list []*cert.Certificate
	for _, s := range u.subjects {
		if c := u.have[s]; c != nil {
			list = append(list, c)
		}
	}
	return list
}

// published is the certificate that the map is made for: pin, or else the
// authority's, which may be nil.
func (u *authority) published(pin *cert.Certificate) *cert.Certificate {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mode != acmeCA {
		return pin
	}
	return u.have[u.subjects[0]]
}

// settle gives the first certificate its minute, and then reminds of one that
// waits to be used, until ctx is done.
func (u *authority) settle(ctx context.Context) error {
	first := time.NewTimer(acmeFirstWait)
	defer first.Stop()
	remind := time.NewTicker(acmeRemind)
	defer remind.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-first.C:
			if err := u.giveUpFirst(); err != nil {
				return err
			}
			u.remind()
		case <-remind.C:
			u.remind()
		}
	}
}

// giveUpFirst leaves acmeNew for acmePin.
func (u *authority) giveUpFirst() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mode != acmeNew {
		return nil
	}
	if err := u.setMode(acmePin); err != nil {
		return err
	}
	close(u.settled)
	u.log.Warn("no certificate from the authority within a minute: the map carries the pin of a self-signed one, which works; " +
		"hint: read the errors above. When the authority's is there, the log says how to change over")
	return nil
}

func (u *authority) remind() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.remindLocked()
}

// remindLocked is remind for who holds mu.
func (u *authority) remindLocked() {
	if u.mode != acmePin || u.have[u.subjects[0]] == nil {
		return
	}
	if r, err := rotationOf(u.cfg); err == nil && r.Phase == "" {
		u.log.Warn("the authority's certificate is ready, and clients are still shown the pinned one, as their map says; " +
			"hint: change over without cutting anybody off by detour cert rotate --port PORT, or, where that does not matter, " +
			"paste the map of detour map --acme-switch and restart with --acme-switch")
	}
}

// problems are what is unhealthy about the certificates: in mode ca, and on the
// second port of a rotation. Otherwise clients do not need them.
func (u *authority) problems(now time.Time) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mode != acmeCA && u.second == nil {
		return nil
	}
	var list []string
	for _, s := range u.subjects {
		c := u.have[s]
		switch {
		case c == nil:
			list = append(list, "there is no certificate for "+s+" from the authority: clients refuse what is shown in its place; see the log")
		case now.After(c.NotAfter()):
			list = append(list, "the certificate of "+s+" expired on "+c.NotAfter().Format(time.DateOnly)+": clients refuse it; see the log for why it was not renewed")
		case c.NotAfter().Sub(now) < acme.RenewalWindow(s, c.Leaf().NotBefore, c.NotAfter())/3:
			list = append(list, "the certificate of "+s+" ends on "+c.NotAfter().Format(time.DateTime)+" UTC and its renewal fails; see the log")
		}
	}
	return list
}

// prepareACME comes before the listeners, which answer the authority.
func (d *Daemon) prepareACME(context.Context) (err error) {
	if d.cfg.CertMode != config.CertACME || !d.cfg.AnyTLS() {
		return nil
	}
	d.acme, err = newAuthority(d.cfg, d.id.addrs, d.log)
	return err
}

// identity is what the relay is known by now.
func (d *Daemon) identity() identity {
	id := d.id
	id.addrs = d.addresses()
	switch {
	case d.acme != nil:
		id.cert = d.acme.published(id.cert)
	case d.source != nil:
		id.cert = cert.ForName(d.source.Certificates(), d.cfg.Hostname)
	}
	return id
}

// Settled is closed once it is known which certificate the map is to be made
// for: at once, but for a new relay with cert_mode acme, of which Run waits up to
// a minute for the first certificate.
func (d *Daemon) Settled() <-chan struct{} {
	if d.acme != nil {
		return d.acme.settled
	}
	done := make(chan struct{})
	close(done)
	return done
}

// Changed is closed once clients that hold the relay's map need another one: with
// cert_mode acme, when the authority's certificate has taken the pin's place. It is
// nil without.
func (d *Daemon) Changed() <-chan struct{} {
	if d.acme == nil {
		return nil
	}
	return d.acme.changed
}

// ReadyToRotate reports whether an authority's certificate waits to take the pin's
// place, by `detour cert rotate`.
func ReadyToRotate(c config.Config) bool {
	if c.CertMode != config.CertACME || c.ACMESwitch {
		return false
	}
	mode, err := loadACMEMode(c)
	if err != nil || mode != acmePin {
		return false
	}
	c.ACMESwitch = true // what it would be served then
	next, err := loadACMECert(c)
	return err == nil && next != nil
}
