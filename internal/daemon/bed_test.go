package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/key"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, leaks()...) }

// settings returns checked settings for free ports on loopback and a state
// directory that does not exist yet.
func settings(t *testing.T, change func(*config.Config)) config.Config {
	t.Helper()
	// Not t.TempDir: its long names leave too little room for a socket's path.
	home, err := os.MkdirTemp("", "dt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	c := config.Defaults(config.Host{Getenv: func(string) string { return home }})
	c.Listen, c.STUNListen = "127.0.0.1:0", "127.0.0.1:0"
	if change != nil {
		change(&c)
	}
	if err := config.Check(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func addresses(list ...string) func() ([]netip.Addr, error) {
	return func() ([]netip.Addr, error) {
		var addrs []netip.Addr
		for _, a := range list {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		return addrs, nil
	}
}

// bed is a daemon under test and what it logs.
type bed struct {
	*Daemon
	t   *testing.T
	log *logText
}

// build makes a daemon on a host with a public address of each family.
func build(t *testing.T, c config.Config, addrs ...string) (*bed, error) {
	t.Helper()
	if addrs == nil {
		addrs = []string{"127.0.0.1", "203.0.113.7", "2001:db8::7", "10.0.0.5"}
	}
	b := &bed{t: t, log: &logText{}}
	d, err := New(t.Context(), c, Options{
		Version: "test", InterfaceAddrs: addresses(addrs...),
		Logger: textLogger(b.log),
	})
	b.Daemon = d
	if err == nil {
		t.Cleanup(d.Close)
	}
	return b, err
}

func mustBuild(t *testing.T, c config.Config, addrs ...string) *bed {
	t.Helper()
	b, err := build(t, c, addrs...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run serves until stop, which returns what Run returned.
func (b *bed) run() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	b.t.Cleanup(func() {
		if err := stop(); err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
	return stop
}

// options are those of a client that was given the daemon's own DERP map, with
// the published address found on loopback.
func (b *bed) options() client.Options {
	b.t.Helper()
	m, _, err := b.Map(false)
	if err != nil {
		b.t.Fatal(err)
	}
	node := m.Regions[b.Config().RegionID].Nodes[0]
	return client.Options{
		Host: node.HostName, Port: uint16(node.DERPPort), CertName: node.CertName,
		Addr: b.Config().Listen, Key: key.NewPrivate(),
	}
}

func (b *bed) dial(o client.Options) *client.Client {
	b.t.Helper()
	c, err := client.Dial(b.t.Context(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

// logText is a log that can be read while it is written.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// issued is a certificate in files, and the roots that trust it.
type issued struct {
	cert, key string
	roots     *x509.CertPool
}

// issue makes a certificate for a name, signed by an authority of its own.
func issue(t *testing.T, name string, notAfter time.Time) issued {
	t.Helper()
	caKey, leafKey := newKey(t), newKey(t)
	begin := notAfter.AddDate(0, -3, 0)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: begin, NotAfter: notAfter, DNSNames: []string{name}}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	if ca, err = x509.ParseCertificate(caDER); err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	i := issued{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), x509.NewCertPool()}
	i.roots.AddCert(ca)
	write(t, i.cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER})))
	write(t, i.key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return i
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantError checks that err is one line with every part, and one hint at most.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q\ndoes not hold %q", err, part)
		}
	}
	if strings.Count(err.Error(), "; hint: ") != 1 || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q is not one line with one hint", err)
	}
}

func textLogger(l *logText) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
