package acme

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// sayAgain is how long one cause stays silent once it was logged.
const sayAgain = time.Hour

// publish reads a certificate from the storage and hands it on.
func (m *Manager) publish(ctx context.Context, s certmagic.Storage, subject, certPath, keyPath string) error {
	certPEM, err := s.Load(ctx, certPath)
	if err != nil {
		return err
	}
	keyPEM, err := s.Load(ctx, keyPath)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return errors.New("what is stored as certificate is not PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if now := m.o.Now(); now.Before(leaf.NotBefore) {
		m.say(CauseClock, subject, fmt.Sprintf("the certificate is valid from %s on, and this machine's clock says %s; "+
			"it is served all the same, since clients go by their own clocks; hint: set the clock, best by NTP (timedatectl set-ntp true)",
			leaf.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)))
	}
	m.succeeded(subject, leaf)
	if m.o.OnCertificate != nil {
		m.o.OnCertificate(subject, certPEM, keyPEM)
	}
	return nil
}

func (m *Manager) succeeded(subject string, leaf *x509.Certificate) {
	m.mu.Lock()
	n := m.names[subject]
	if n == nil {
		m.mu.Unlock()
		return
	}
	n.notBefore, n.notAfter = leaf.NotBefore, leaf.NotAfter
	n.obtained++
	n.cause, n.problem, n.next = "", "", time.Time{}
	m.mu.Unlock()
	m.log.Info("have a certificate from the authority", "name", subject, "not_after", leaf.NotAfter)
}

// failed notes a failure, and logs it unless its cause was logged lately.
func (m *Manager) failed(subject string, p Problem, next time.Time) {
	m.mu.Lock()
	if n := m.names[subject]; n != nil {
		n.failed++
		n.cause, n.problem, n.next = p.Cause, p.Text, next
	}
	m.mu.Unlock()
	m.say(p.Cause, subject, p.Text)
}

// say logs a problem, and the same cause of the same name once an hour.
func (m *Manager) say(c Cause, subject, text string) {
	now := time.Now() // the hour is real even where Now is not
	key := string(c) + " " + subject
	m.mu.Lock()
	last, seen := m.said[key]
	silent := seen && now.Sub(last) < sayAgain
	if !silent {
		m.said[key] = now
	}
	m.mu.Unlock()
	if !silent {
		m.log.Error("certificate authority: "+text, "name", subject, "cause", c)
	}
}

// Stats is how the names fare.
type Stats struct {
	Directory string      `json:"directory"`
	Names     []NameStats `json:"names"`
}

// NameStats is how one name fares.
type NameStats struct {
	Name      string     `json:"name"`
	NotBefore time.Time  `json:"not_before,omitzero"` // of the certificate; zero: none yet
	NotAfter  time.Time  `json:"not_after,omitzero"`
	Obtained  uint64     `json:"obtained"`           // certificates loaded, obtained and renewed in this run
	Failed    uint64     `json:"failed"`             // attempts that failed in this run
	Cause     Cause      `json:"cause,omitempty"`    // of the last failure, until the next success
	Problem   string     `json:"problem,omitempty"`  // the same for a person
	Next      *time.Time `json:"next_try,omitempty"` // of the first certificate; renewals have their own pace
}

// Stats returns the present figures, sorted by name.
func (m *Manager) Stats() Stats {
	s := Stats{Directory: m.o.Directory}
	m.mu.Lock()
	for subject, n := range m.names {
		one := NameStats{
			Name: subject, NotBefore: n.notBefore.UTC(), NotAfter: n.notAfter.UTC(),
			Obtained: n.obtained, Failed: n.failed, Cause: n.cause, Problem: n.problem,
		}
		if !n.next.IsZero() {
			next := n.next.UTC()
			one.Next = &next
		}
		s.Names = append(s.Names, one)
	}
	m.mu.Unlock()
	slices.SortFunc(s.Names, func(a, b NameStats) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// RenewalWindow returns how long before its end the renewal of a certificate
// begins at the latest.
func RenewalWindow(subject string, notBefore, notAfter time.Time) time.Duration {
	window := domainWindow
	if isIP(subject) {
		window = ipWindow
	}
	return time.Duration(float64(notAfter.Sub(notBefore)) * window)
}

// Stored returns what an earlier run keeps for subject, as PEM. The error matches
// fs.ErrNotExist when there is nothing.
func Stored(storage, directory, subject string) (certPEM, keyPEM []byte, err error) {
	if directory == "" {
		directory = LetsEncrypt
	}
	s := &certmagic.FileStorage{Path: storage}
	issuer := (&certmagic.ACMEIssuer{CA: directory}).IssuerKey()
	subject = strings.ToLower(subject)
	if certPEM, err = s.Load(context.Background(), certmagic.StorageKeys.SiteCert(issuer, subject)); err != nil {
		return nil, nil, err
	}
	keyPEM, err = s.Load(context.Background(), certmagic.StorageKeys.SitePrivateKey(issuer, subject))
	return certPEM, keyPEM, err
}
