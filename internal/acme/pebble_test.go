//go:build pebble

package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for an authority that runs beside it.
const patience = 90 * time.Second

// macKey is an external account key of the test authority.
const macKey = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"

// authority is a Pebble of the test's own, with a challenge test server that
// finds every name on loopback.
type authority struct {
	t              *testing.T
	dir, config    string
	roots          *x509.CertPool
	acme, manage   int // ports of the authority
	http, tls      int // ports at which it validates
	dns, dnsManage int
	stop           func() // set by start
}

// newAuthority writes the files of an authority and starts its name server, but
// not itself.
func newAuthority(t *testing.T, change func(pebble map[string]any)) *authority {
	t.Helper()
	ports := freePorts(t, 6)
	a := &authority{t: t, dir: t.TempDir(), acme: ports[0], manage: ports[1], http: ports[2], tls: ports[3], dns: ports[4], dnsManage: ports[5]}
	a.makeCertificate()
	pebble := map[string]any{
		"listenAddress": loopback(a.acme), "managementListenAddress": loopback(a.manage),
		"certificate": filepath.Join(a.dir, "cert.pem"), "privateKey": filepath.Join(a.dir, "key.pem"),
		"httpPort": a.http, "tlsPort": a.tls, "keyAlgorithm": "ecdsa",
		"domainBlocklist": []string{"blocked.example"},
		"retryAfter":      map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{
			"default":    map[string]any{"description": "three months", "validityPeriod": 7776000},
			"shortlived": map[string]any{"description": "six days", "validityPeriod": 518400},
			"brief":      map[string]any{"description": "for renewals", "validityPeriod": 40},
		},
	}
	if change != nil {
		change(pebble)
	}
	text, err := json.Marshal(map[string]any{"pebble": pebble})
	if err != nil {
		t.Fatal(err)
	}
	a.config = filepath.Join(a.dir, "pebble.json")
	if err := os.WriteFile(a.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	names := a.program("pebble-challtestsrv", "-http01", "", "-https01", "", "-doh", "", "-tlsalpn01", "",
		"-defaultIPv6", "", "-dnsserver", loopback(a.dns), "-management", loopback(a.dnsManage))
	start(t, names)
	return a
}

func (a *authority) start() {
	a.t.Helper()
	server := a.program("pebble", "-config", a.config, "-dnsserver", loopback(a.dns))
	server.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0")
	a.stop = start(a.t, server)
}

func (a *authority) program(name string, args ...string) *exec.Cmd {
	a.t.Helper()
	dir := os.Getenv("DETOUR_PEBBLE")
	if dir == "" {
		a.t.Fatal("DETOUR_PEBBLE is not set; hint: run make acme")
	}
	return exec.Command(filepath.Join(dir, name), args...)
}

// start runs a program until the test ends, or stop is called.
func start(t *testing.T, cmd *exec.Cmd) (stop func()) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s said:\n%s", cmd.Path, text)
		}
	})
	return stop
}

func (a *authority) directory() string { return "https://" + loopback(a.acme) + "/dir" }

// makeCertificate makes what the authority itself serves HTTPS with.
func (a *authority) makeCertificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for name, text := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(a.dir, name), text, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	a.roots = x509.NewCertPool()
	a.roots.AppendCertsFromPEM(certPEM)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts returns ports that were free a moment ago: Pebble cannot choose its own.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// client is a Manager under test, with the listeners that a relay would have.
type client struct {
	*Manager
	t    *testing.T
	got  chan got
	log  *logText
	stop func()
}

type got struct {
	name string
	leaf *x509.Certificate
	pair tls.Certificate
}

// newClient starts a Manager whose listeners are where a validates.
func newClient(t *testing.T, a *authority, o Options) *client {
	t.Helper()
	c := &client{t: t, got: make(chan got, 16), log: &logText{}}
	o.Directory, o.Roots = a.directory(), a.roots
	o.Logger = slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.RetryFirst = 200 * time.Millisecond
	if o.Storage == "" {
		o.Storage = filepath.Join(t.TempDir(), "acme")
	}
	o.OnCertificate = func(name string, certPEM, keyPEM []byte) {
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Errorf("the certificate of %s: %v", name, err)
			return
		}
		c.got <- got{name, pair.Leaf, pair}
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.Manager = m
	if o.HTTP {
		serveHTTP(t, a, m)
	}
	if o.TLS {
		serveTLS(t, a, m)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("the log:\n%s", c.log)
		}
	})
	return c
}

func serveHTTP(t *testing.T, a *authority, m *Manager) {
	t.Helper()
	l, err := net.Listen("tcp", loopback(a.http))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: m.HTTPChallenge(http.NotFoundHandler())}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

func serveTLS(t *testing.T, a *authority, m *Manager) {
	t.Helper()
	l, err := tls.Listen("tcp", loopback(a.tls), &tls.Config{GetCertificate: m.TLSChallenge, NextProtos: []string{"acme-tls/1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = conn.(*tls.Conn).Handshake()
				conn.Close()
			}()
		}
	}()
}

// next waits for a certificate and checks whom it is for.
func (c *client) next(name string) got {
	c.t.Helper()
	select {
	case g := <-c.got:
		if g.name != name {
			c.t.Fatalf("a certificate of %s, want one of %s", g.name, name)
		}
		if err := g.leaf.VerifyHostname(name); err != nil {
			c.t.Fatal(err)
		}
		return g
	case <-time.After(patience):
		c.t.Fatalf("no certificate for %s within %v: %+v", name, patience, c.Stats())
		return got{}
	}
}

// problem waits until name has failed for a cause, and checks what is said of it.
func (c *client) problem(cause Cause, want ...string) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		text := c.log.String()
		i := strings.Index(text, "cause="+string(cause))
		if i >= 0 {
			line := text[strings.LastIndexByte(text[:i], '\n')+1 : i]
			for _, w := range append(want, "hint: ") {
				if !strings.Contains(line, w) {
					c.t.Errorf("the log says %q, want it to hold %q", line, w)
				}
			}
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s was never reported: %+v", cause, c.Stats())
		}
	}
}

func TestDomainByHTTP(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	storage := filepath.Join(t.TempDir(), "acme")
	c := newClient(t, a, Options{Names: []string{"relay.example", "Other.example"}, HTTP: true, Storage: storage, Email: "who@relay.example"})
	first := map[string]got{}
	for range 2 {
		select {
		case g := <-c.got:
			first[g.name] = g
		case <-time.After(patience):
			t.Fatalf("no certificate: %+v", c.Stats())
		}
	}
	if len(first) != 2 || first["relay.example"].leaf.VerifyHostname("relay.example") != nil || first["other.example"].leaf.VerifyHostname("other.example") != nil {
		t.Fatalf("got certificates for %v", first)
	}
	for _, s := range c.Stats().Names {
		if s.Problem != "" || s.Obtained != 1 || s.NotAfter.Before(time.Now()) {
			t.Errorf("stats %+v", s)
		}
	}
	c.stop()
	a.stop() // what is stored needs no authority
	again := newClient(t, a, Options{Names: []string{"relay.example"}, TLS: true, Storage: storage})
	if g := again.next("relay.example"); !g.leaf.Equal(first["relay.example"].leaf) {
		t.Error("the stored certificate was not used")
	}
	if info, err := os.Stat(storage); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the storage is %v (%v), want mode 0700", info.Mode(), err)
	}
}

func TestDomainByTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	newClient(t, a, Options{Names: []string{"relay.example"}, TLS: true}).next("relay.example")
}

func TestDomainByHook(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	dir := t.TempDir()
	program := filepath.Join(dir, "hook")
	script := fmt.Sprintf(`#!/bin/sh
echo "$@" >>%[1]s/calls
case $1 in
present) exec curl -sf -d "{\"host\":\"$2.\",\"value\":\"$3\"}" http://%[2]s/set-txt ;;
cleanup) exec curl -sf -d "{\"host\":\"$2.\"}" http://%[2]s/clear-txt ;;
esac
`, dir, loopback(a.dnsManage))
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, a, Options{Names: []string{"relay.example"}, DNSHook: program})
	c.next("relay.example")
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(calls)), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "present _acme-challenge.relay.example ") ||
		lines[1] != strings.Replace(lines[0], "present", "cleanup", 1) {
		t.Errorf("the hook was called with %q", lines)
	}
}

func TestAddressByHTTP(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	c := newClient(t, a, Options{IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, IPProfile: ShortLived, HTTP: true})
	leaf := c.next("127.0.0.1").leaf
	if life := leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Hour); life != 6*24*time.Hour {
		t.Errorf("the certificate lives %v, want six days", life)
	}
	if len(leaf.IPAddresses) != 1 || len(leaf.DNSNames) != 0 {
		t.Errorf("the certificate is for %v and %v", leaf.IPAddresses, leaf.DNSNames)
	}
}

func TestAddressByTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	newClient(t, a, Options{IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, TLS: true}).next("127.0.0.1")
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	c := newClient(t, a, Options{
		IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, IPProfile: "brief", HTTP: true, CheckEvery: time.Second,
	})
	first := c.next("127.0.0.1")
	second := c.next("127.0.0.1")
	if first.leaf.Equal(second.leaf) || !second.leaf.NotAfter.After(first.leaf.NotAfter) {
		t.Errorf("the second certificate ends %v, the first %v", second.leaf.NotAfter, first.leaf.NotAfter)
	}
	if time.Now().After(first.leaf.NotAfter) {
		t.Error("the first certificate ended before the second was there")
	}
	a.stop()
	c.problem(CauseUnreachable, "does not answer")
}

func TestExternalAccount(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, func(pebble map[string]any) {
		pebble["externalAccountBindingRequired"] = true
		pebble["externalAccountMACKeys"] = map[string]string{"kid-1": macKey}
	})
	a.start()
	newClient(t, a, Options{Names: []string{"relay.example"}, DNSHook: "/bin/true"}).problem(CauseAccount, "acme_eab_kid")
	newClient(t, a, Options{Names: []string{"relay.example"}, DNSHook: "/bin/true", EABKeyID: "kid-2", EABMACKey: macKey}).problem(CauseAccount, "acme_eab_kid")
	newClient(t, a, Options{Names: []string{"relay.example"}, HTTP: true, EABKeyID: "kid-1", EABMACKey: macKey}).next("relay.example")
}

func TestAuthorityDownAtStart(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	c := newClient(t, a, Options{Names: []string{"relay.example"}, HTTP: true})
	c.problem(CauseUnreachable, "does not answer", loopback(a.acme))
	a.start()
	c.next("relay.example")
	if lines := strings.Count(c.log.String(), "cause="+string(CauseUnreachable)); lines != 1 {
		t.Errorf("%d lines about one cause within an hour", lines)
	}
}

func TestAuthorityRefuses(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	c := newClient(t, a, Options{Names: []string{"blocked.example"}, HTTP: true})
	c.problem(CauseName, "blocked.example", "acme_name")
}

func TestNobodyAnswersTheAuthority(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	c := newClient(t, a, Options{Names: []string{"relay.example"}, DNSHook: "/bin/true"})
	c.problem(CauseAnswer, "DNS hook")
}

func TestPortLeadsNowhere(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	elsewhere := *a
	elsewhere.http = freePorts(t, 1)[0]
	c := newClient(t, &elsewhere, Options{Names: []string{"relay.example"}, HTTP: true})
	c.problem(CauseNoConnect, "port 80", "http_listen")
}

func TestAnotherServerAnswers(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	l, err := net.Listen("tcp", loopback(a.http))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a web site") })}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	elsewhere := *a
	elsewhere.http = freePorts(t, 1)[0]
	c := newClient(t, &elsewhere, Options{Names: []string{"relay.example"}, HTTP: true})
	c.problem(CauseAnswer, "relay.example", "another server")
}

func TestUntrustedAuthority(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	stranger := *a
	stranger.roots = x509.NewCertPool()
	newClient(t, &stranger, Options{Names: []string{"relay.example"}, HTTP: true}).problem(CauseUntrusted, "acme_ca_file")
}

func TestUnknownProfile(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	c := newClient(t, a, Options{IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, IPProfile: "none such", HTTP: true})
	c.problem(CauseProfile, "none such", "acme_ip_profile")
}

func TestClockIsWrong(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, nil)
	a.start()
	for _, off := range []time.Duration{-time.Hour, time.Hour} {
		c := newClient(t, a, Options{
			Names: []string{"blocked.example"}, DNSHook: "/bin/true",
			Now: func() time.Time { return time.Now().Add(off) },
		})
		c.problem(CauseClock, "clock", "NTP")
	}
	late := newClient(t, a, Options{
		Names: []string{"relay.example"}, HTTP: true, Now: func() time.Time { return time.Now().Add(-time.Hour) },
	})
	late.problem(CauseClock, "valid from")
}
