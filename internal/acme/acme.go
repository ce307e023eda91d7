// Package acme obtains certificates from an ACME authority, such as Let's
// Encrypt, and keeps them renewed. It knows names, PEM and nothing of the relay:
// whoever uses it serves the certificates, and passes on to it what the authority
// asks on the relay's own listeners.
package acme

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	acmewire "github.com/mholt/acmez/v3/acme"
)

// LetsEncrypt is the directory of Let's Encrypt's production authority.
const LetsEncrypt = certmagic.LetsEncryptProductionCA

// ShortLived is the profile under which Let's Encrypt issues for addresses:
// certificates of about six days.
const ShortLived = "shortlived"

// How much of a certificate's life is left when its renewal begins, unless the
// authority asks for it earlier (ACME Renewal Information). Six days leave no
// room for a weekend's trouble, so addresses begin at half.
const (
	domainWindow = 1.0 / 3
	ipWindow     = 1.0 / 2
)

// Options are what New needs.
type Options struct {
	Directory string       // URL of the authority's directory; empty: LetsEncrypt
	Email     string       // contact; may be empty
	EABKeyID  string       // external account binding; empty: none
	EABMACKey string       // its key in base64, of the URL alphabet or the standard one
	Names     []string     // domain names to be certified, one certificate each
	IPs       []netip.Addr // addresses, the same
	IPProfile string       // profile to ask for with addresses; empty: none
	Storage   string       // directory of account and certificates, made with mode 0700; required
	HTTP      bool         // HTTPChallenge is served where the authority's port 80 leads
	TLS       bool         // TLSChallenge is served where the authority's port 443 leads
	DNSHook   string       // program for DNS-01, which domains then use and nothing else; empty: none
	Roots     *x509.CertPool

	// OnCertificate takes each certificate (chain, leaf first) and its key: those
	// of the last run, new and renewed ones. It is called from goroutines of Run.
	OnCertificate func(name string, certPEM, keyPEM []byte)

	Logger *slog.Logger     // nil: silent
	Now    func() time.Time // to judge this machine's clock by; nil: time.Now

	CheckEvery time.Duration // between looks whether a renewal is due; 0: ten minutes
	RetryFirst time.Duration // before the second attempt at an authority that did not answer; 0: 10 s
}

// Manager obtains and renews the certificates of its names.
type Manager struct {
	o    Options
	log  *slog.Logger
	http *http.Client // to look at the authority's clock

	mu    sync.Mutex
	names map[string]*name // guarded by mu, as is all in it; the keys never change
	said  map[string]time.Time
}

// name is one subject and how it fares.
type name struct {
	notBefore, notAfter time.Time // zero: there is no certificate yet
	obtained, failed    uint64    // certificates got and attempts lost in this run
	cause               Cause     // of the last failure; empty: none since the last success
	problem             string
	next                time.Time   // the next attempt to obtain; zero: none is planned
	lost                func(error) // takes the failure of the attempt under way; nil: none is
}

// New checks the options. It touches neither network nor files; Run does.
func New(o Options) (*Manager, error) {
	if o.Directory == "" {
		o.Directory = LetsEncrypt
	}
	if u, err := url.Parse(o.Directory); err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("acme: %q is no https URL; hint: give the authority's directory, as in %s", o.Directory, LetsEncrypt)
	}
	if (o.EABKeyID == "") != (o.EABMACKey == "") {
		return nil, errors.New("acme: external account binding needs key id and key; hint: give both as the authority shows them, or neither")
	}
	mac, err := decodeMAC(o.EABMACKey)
	if err != nil {
		return nil, err
	}
	o.EABMACKey = mac
	if len(o.Names)+len(o.IPs) == 0 {
		return nil, errors.New("acme: there is no name to certify; hint: set a hostname, or the public address")
	}
	if !o.HTTP && !o.TLS && (o.DNSHook == "" || len(o.IPs) > 0) {
		return nil, errors.New("acme: the authority has no way to ask this relay; hint: turn on http_listen or TLS, or give a DNS hook for domains")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CheckEvery == 0 {
		o.CheckEvery = 10 * time.Minute
	}
	if o.RetryFirst == 0 {
		o.RetryFirst = 10 * time.Second
	}
	m := &Manager{o: o, log: o.Logger, http: dateClient(o.Roots), names: map[string]*name{}, said: map[string]time.Time{}}
	for _, n := range o.Names {
		m.names[strings.ToLower(n)] = &name{}
	}
	for _, ip := range o.IPs {
		m.names[ip.String()] = &name{}
	}
	return m, nil
}

// decodeMAC takes the key in any of the forms in which authorities show it, and
// returns the one that ACME libraries want.
func decodeMAC(key string) (string, error) {
	bare := strings.TrimRight(strings.TrimSpace(key), "=")
	bare = strings.NewReplacer("+", "-", "/", "_").Replace(bare)
	if _, err := base64.RawURLEncoding.DecodeString(bare); err != nil {
		// The key is a secret: the error must not show it.
		return "", errors.New("acme: the key of the external account is not base64; hint: copy it whole, as the authority shows it")
	}
	return bare, nil
}

// Run obtains what is missing, renews what is due and tries again after every
// failure, until ctx is done. Only a storage directory that cannot be made is an
// error. It may be called once.
func (m *Manager) Run(ctx context.Context) error {
	if err := os.MkdirAll(m.o.Storage, 0o700); err != nil {
		return fmt.Errorf("acme: make the directory for certificates: %w; hint: let the user that runs detour write there", err)
	}
	spot, err := park(ctx)
	if err != nil {
		return err
	}
	domains, ips, cache := m.configs(spot.port())
	var wait sync.WaitGroup
	for subject := range m.names {
		wait.Go(func() {
			config := domains
			if isIP(subject) {
				config = ips
			}
			m.obtain(ctx, config, subject)
		})
	}
	wait.Wait() // each has its certificate now, or ctx is done
	if ctx.Err() == nil {
		// What was loaded may be due already; certmagic itself looks only after CheckEvery.
		_ = cache.RenewManagedCertificates(ctx) // it only queues, and reports failures as events
	}
	<-ctx.Done()
	cache.Stop()
	spot.wait()
	return nil
}

// configs make what certmagic needs: one config for domains and one for
// addresses, which differ in profile and in when to renew.
func (m *Manager) configs(port int) (domains, ips *certmagic.Config, cache *certmagic.Cache) {
	zap := zapTo(m.log)
	cache = certmagic.NewCache(certmagic.CacheOptions{
		RenewCheckInterval: m.o.CheckEvery,
		Logger:             zap,
		GetConfigForCert: func(c certmagic.Certificate) (*certmagic.Config, error) {
			if len(c.Names) > 0 && isIP(c.Names[0]) {
				return ips, nil
			}
			return domains, nil
		},
	})
	one := func(window float64, template certmagic.ACMEIssuer) *certmagic.Config {
		c := certmagic.New(cache, certmagic.Config{
			RenewalWindowRatio: window,
			Storage:            &certmagic.FileStorage{Path: m.o.Storage},
			Logger:             zap,
			OnEvent:            m.event,
			// The clients of a relay do not look at staples, Let's Encrypt has ended OCSP, and certmagic would
			// fetch them while it loads a certificate, without a limit of time.
			OCSP: certmagic.OCSPConfig{DisableStapling: true},
		})
		c.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(c, template)}
		return c
	}
	template := certmagic.ACMEIssuer{
		CA: m.o.Directory, TestCA: m.o.Directory, Email: m.o.Email, Agreed: true, TrustedRoots: m.o.Roots, Logger: zap,
		DisableHTTPChallenge: !m.o.HTTP, DisableTLSALPNChallenge: !m.o.TLS, DisableDistributedSolvers: true,
		ListenHost: "127.0.0.1", AltHTTPPort: port, AltTLSALPNPort: port,
	}
	if m.o.EABKeyID != "" {
		template.ExternalAccount = &acmewire.EAB{KeyID: m.o.EABKeyID, MACKey: m.o.EABMACKey}
	}
	forIPs := template
	forIPs.Profile = m.o.IPProfile
	if m.o.DNSHook != "" {
		template.DNS01Solver = &hook{program: m.o.DNSHook, limit: hookLimit, log: m.log}
	}
	domains, ips = one(domainWindow, template), one(ipWindow, forIPs)
	return domains, ips, cache
}

// obtain returns once subject has a certificate that certmagic keeps renewed, or
// ctx is done.
func (m *Manager) obtain(ctx context.Context, c *certmagic.Config, subject string) {
	for tries := 0; ; tries++ {
		err := m.load(ctx, c, subject)
		if errors.Is(err, fs.ErrNotExist) {
			if err = m.attempt(ctx, c, subject); err == nil {
				err = m.load(ctx, c, subject)
			}
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		p := explain(err, subject, m.o)
		wait := backoff(p, tries, m.o.RetryFirst, m.o.Now())
		m.failed(subject, p, m.o.Now().Add(wait))
		m.checkClock(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// load takes the certificate that is in the storage, hands it on and has it
// renewed from now on. The error matches fs.ErrNotExist when there is none.
func (m *Manager) load(ctx context.Context, c *certmagic.Config, subject string) error {
	if _, err := c.CacheManagedCertificate(ctx, subject); err != nil {
		return err
	}
	issuer := c.Issuers[0].IssuerKey()
	return m.publish(ctx, c.Storage, subject,
		certmagic.StorageKeys.SiteCert(issuer, subject), certmagic.StorageKeys.SitePrivateKey(issuer, subject))
}

// attempt asks the authority once. certmagic would go on by itself, at its own
// pace and for thirty days; the first failure ends that here.
func (m *Manager) attempt(ctx context.Context, c *certmagic.Config, subject string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var failure error
	m.mu.Lock()
	m.names[subject].lost = func(err error) { failure = err; cancel() }
	m.mu.Unlock()
	err := c.ObtainCertAsync(ctx, subject)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names[subject].lost = nil
	if failure != nil {
		return failure
	}
	return err
}

// event hears what certmagic does. It never stops it.
func (m *Manager) event(ctx context.Context, event string, data map[string]any) error {
	subject, _ := data["identifier"].(string)
	switch event {
	case "cert_failed":
		err, _ := data["error"].(error)
		m.lost(ctx, subject, err)
	case "cert_obtained":
		if renewal, _ := data["renewal"].(bool); !renewal {
			return nil // load hands it on
		}
		certPath, _ := data["certificate_path"].(string)
		keyPath, _ := data["private_key_path"].(string)
		storage := &certmagic.FileStorage{Path: m.o.Storage}
		if err := m.publish(ctx, storage, subject, certPath, keyPath); err != nil {
			m.failed(subject, explain(err, subject, m.o), time.Time{})
		}
	}
	return nil
}

// lost tells the attempt under way that it failed, or else reports the renewal.
func (m *Manager) lost(ctx context.Context, subject string, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	n := m.names[subject]
	if n != nil && n.lost != nil {
		defer m.mu.Unlock()
		n.lost(err)
		return
	}
	m.mu.Unlock()
	m.failed(subject, explain(err, subject, m.o), time.Time{})
	m.checkClock(ctx)
}

func isIP(subject string) bool {
	_, err := netip.ParseAddr(subject)
	return err == nil
}

// parked is a loopback port that nobody needs. certmagic insists on listening
// where it thinks that the authority will ask, unless something listens there
// already; the relay's own listeners are what really answers, and must not be
// dialled or bound beside.
type parked struct {
	listener net.Listener
	done     chan struct{}
}

func park(ctx context.Context) (*parked, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("acme: take a port on loopback: %w; hint: see that 127.0.0.1 is up", err)
	}
	p := &parked{listener: listener, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	go func() {
		defer close(p.done)
		defer stop()
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return p, nil
}

func (p *parked) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

func (p *parked) wait() { <-p.done }
