package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/tailcfg"
	tskey "tailscale.com/types/key"
	"tailscale.com/types/logger"

	"github.com/detour-relay/detour/internal/client"
)

// startDerper runs derper's own server on loopback, as derper wires it up: TLS
// with the meta certificate, WebSocket, a mesh key.
func startDerper(t testing.TB) (*derpserver.Server, *tailcfg.DERPRegion) {
	t.Helper()
	s := derpserver.New(tskey.NewNode(), logger.Discard)
	if err := s.SetMeshKey(meshHex); err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t)
	own := ca.issue(t, ours)
	mux := http.NewServeMux()
	mux.Handle("/derp", derpserver.AddWebSocketSupport(s, derpserver.Handler(s)))
	mux.HandleFunc("/derp/latency-check", derpserver.ProbeHandler)
	web := httptest.NewUnstartedServer(mux)
	web.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &own, nil }}
	s.ModifyTLSConfigToAddMetaCert(web.TLS)
	// httptest brings a certificate of its own when it sees none, and that one wins without SNI.
	web.Listener = tls.NewListener(web.Listener, web.TLS)
	web.Config.ErrorLog = log.New(io.Discard, "", 0)
	web.Start()
	t.Cleanup(func() {
		s.Close()
		web.CloseClientConnections()
		web.Close()
	})
	return s, &tailcfg.DERPRegion{RegionID: 901, RegionCode: "derper", RegionName: "derper", Nodes: []*tailcfg.DERPNode{{
		Name: "901a", RegionID: 901, HostName: ours, IPv4: "127.0.0.1", IPv6: "none",
		DERPPort: web.Listener.Addr().(*net.TCPAddr).Port, STUNPort: -1,
		CertName: fmt.Sprintf("%s%x", client.PinPrefix, sha256.Sum256(own.Certificate[0])),
	}}}
}

// derperGauge reads one of derper's metrics.
func derperGauge(t testing.TB, s *derpserver.Server, name string) int {
	t.Helper()
	var all map[string]any
	if err := json.Unmarshal([]byte(s.ExpVar(false).String()), &all); err != nil {
		t.Fatal(err)
	}
	v, ok := all[name].(float64)
	if !ok {
		t.Fatalf("derper has no metric %q", name)
	}
	return int(v)
}

// authority is a certificate authority that only these tests trust.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	k := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, k}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// issue makes a certificate for a name.
func (a authority) issue(t testing.TB, name string) tls.Certificate {
	t.Helper()
	k := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}

// files writes what issue makes to PEM files, the chain without the root.
func (a authority) files(t testing.TB, name string) (certFile, keyFile string) {
	t.Helper()
	c := a.issue(t, name)
	k, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "relay.crt"), filepath.Join(dir, "relay.key")
	writeFile(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	writeFile(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})))
	return certFile, keyFile
}

// roots trusts the authority and nobody else.
func (a authority) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}
