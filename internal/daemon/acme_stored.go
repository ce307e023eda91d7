package daemon

import (
	"errors"
	"time"

	"github.com/detour-relay/detour/internal/acme"
	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
)

// loadACMECert returns the certificate that the relay's map is made for; nil where
// clients expect the authority's and it is not there.
func loadACMECert(c config.Config) (*cert.Certificate, error) {
	mode, err := loadACMEMode(c)
	if err != nil {
		return nil, err
	}
	if mode == acmeNew {
		return nil, errors.New("the relay has not got its first certificate yet, nor given up waiting for it; " +
			"hint: start it, if it is not running, and try again in a minute")
	}
	if mode == acmePin && !c.ACMESwitch {
		return cert.LoadPin(c.Cert, c.Key, time.Now())
	}
	names, err := certified(c)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	return storedCert(c, names[0]), nil
}

// certified are the names that the authority is asked about, the relay's first.
func certified(c config.Config) ([]string, error) {
	interfaces, err := InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	names, ips := acmeNames(c, publishedAddrs(c, interfaces))
	for _, ip := range ips {
		names = append(names, ip.String())
	}
	return names, nil
}

// storedCert is what the authority has given for a name, whatever its dates; nil
// when there is none that can be read. The map names no pin either way, and health
// says what is missing.
func storedCert(c config.Config, name string) *cert.Certificate {
	certPEM, keyPEM, err := acme.Stored(acmeDir(c), c.ACMEDirectory, name)
	if err != nil {
		return nil
	}
	one, err := cert.ParsePEM(name, certPEM, keyPEM)
	if err != nil {
		return nil
	}
	return one
}

// loadStored takes the certificates of the last run, so that not even the first
// client of this one sees another.
func (u *authority) loadStored() {
	for _, s := range u.subjects {
		if certPEM, keyPEM, err := acme.Stored(acmeDir(u.cfg), u.cfg.ACMEDirectory, s); err == nil {
			u.take(s, certPEM, keyPEM)
		}
		if c, now := u.have[s], time.Now(); c != nil && c.Early(now) {
			u.log.Error(earlyText("the certificate of "+s, c, now))
		}
	}
	u.changed = make(chan struct{}) // nobody has been told a map before
}

// lookAgain offers what is stored once more, where that may now be of use: it could
// not be read before, or the clock was set and it has not expired after all.
func (u *authority) lookAgain() {
	for _, s := range u.subjects {
		u.mu.Lock()
		c := u.have[s]
		waiting := c == nil || u.mode != acmeCA && (u.mode == acmeNew || u.cfg.ACMESwitch) && u.ready(time.Now())
		u.mu.Unlock()
		if !waiting {
			continue
		}
		if certPEM, keyPEM, err := acme.Stored(acmeDir(u.cfg), u.cfg.ACMEDirectory, s); err == nil {
			u.take(s, certPEM, keyPEM)
		}
	}
}
