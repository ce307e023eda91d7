package relaytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Pebble is an ACME authority for one test: Let's Encrypt's test server, with a
// challenge test server that finds every name on loopback. The programs are in the
// directory that $DETOUR_PEBBLE names; `make acme` builds them.
type Pebble struct {
	t              *testing.T
	Dir, config    string
	Roots          *x509.CertPool // for who asks it; also in Dir as cert.pem
	acme, manage   int            // ports of the authority
	HTTP, TLS      int            // ports at which it validates
	dns, DNSManage int
	Stop           func() // ends it; set by Start
}

// NewPebble writes the files of an authority and starts its name server, but
// not itself.
func NewPebble(t *testing.T, change func(pebble map[string]any)) *Pebble {
	t.Helper()
	ports := FreePorts(t, 6)
	a := &Pebble{t: t, Dir: t.TempDir(), acme: ports[0], manage: ports[1], HTTP: ports[2], TLS: ports[3], dns: ports[4], DNSManage: ports[5]}
	a.makeCertificate()
	pebble := map[string]any{
		"listenAddress": Loopback(a.acme), "managementListenAddress": Loopback(a.manage),
		"certificate": filepath.Join(a.Dir, "cert.pem"), "privateKey": filepath.Join(a.Dir, "key.pem"),
		"httpPort": a.HTTP, "tlsPort": a.TLS, "keyAlgorithm": "ecdsa",
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
	a.config = filepath.Join(a.Dir, "pebble.json")
	if err := os.WriteFile(a.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	names := a.program("pebble-challtestsrv", "-http01", "", "-https01", "", "-doh", "", "-tlsalpn01", "",
		"-defaultIPv6", "", "-dnsserver", Loopback(a.dns), "-management", Loopback(a.DNSManage))
	start(t, names)
	a.awaitPort(a.dns)
	return a
}

// Start runs the authority; its name server runs already.
func (a *Pebble) Start() {
	a.t.Helper()
	server := a.program("pebble", "-config", a.config, "-dnsserver", Loopback(a.dns))
	server.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0")
	a.Stop = start(a.t, server)
	a.awaitPort(a.acme)
}

// awaitPort waits until a program listens. There is nothing to be told by.
func (a *Pebble) awaitPort(port int) {
	a.t.Helper()
	for range 200 {
		c, err := net.Dial("tcp", Loopback(port))
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	a.t.Fatalf("nothing listens on port %d after ten seconds", port)
}

func (a *Pebble) program(name string, args ...string) *exec.Cmd {
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

// Directory is its ACME directory.
func (a *Pebble) Directory() string { return "https://" + Loopback(a.acme) + "/dir" }

// RootURL is where it shows the root that it issues under.
func (a *Pebble) RootURL() string { return "https://" + Loopback(a.manage) + "/roots/0" }

// AskForRenewal has it say of one of its certificates, by ACME Renewal
// Information, that the time to renew it was an hour ago.
func (a *Pebble) AskForRenewal(der []byte) {
	a.t.Helper()
	window := map[string]any{"suggestedWindow": map[string]any{
		"start": time.Now().Add(-2 * time.Hour).UTC(), "end": time.Now().Add(-time.Hour).UTC(),
	}}
	answer, err := json.Marshal(window)
	if err != nil {
		a.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{
		"Certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "ARIResponse": string(answer),
	})
	if err != nil {
		a.t.Fatal(err)
	}
	ask := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: a.Roots}}}
	r, err := ask.Post("https://"+Loopback(a.manage)+"/set-renewal-info/", "application/json", bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		a.t.Fatalf("the authority takes no renewal information: %s", r.Status)
	}
}

// makeCertificate makes what the authority itself serves HTTPS with.
func (a *Pebble) makeCertificate() {
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
		if err := os.WriteFile(filepath.Join(a.Dir, name), text, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	a.Roots = x509.NewCertPool()
	a.Roots.AppendCertsFromPEM(certPEM)
}

// Loopback is a port on 127.0.0.1.
func Loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// FreePorts returns ports that were free a moment ago: Pebble cannot choose its own.
func FreePorts(t *testing.T, n int) []int {
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
