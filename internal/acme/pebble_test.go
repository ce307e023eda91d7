//go:build pebble

package acme

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/relaytest"
)

// patience is how long a test waits for an authority that runs beside it.
const patience = 90 * time.Second

// macKey is an external account key of the test authority.
const macKey = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"

func TestDomainByHTTP(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
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
	a.Stop() // what is stored needs no authority
	again := newClient(t, a, Options{Names: []string{"relay.example"}, TLS: true, Storage: storage})
	if g := again.next("relay.example"); !g.leaf.Equal(first["relay.example"].leaf) {
		t.Error("the stored certificate was not used")
	}
	if info, err := os.Stat(storage); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the storage is %v (%v), want mode 0700", info.Mode(), err)
	}
}

func TestDomainByTLS(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
	newClient(t, a, Options{Names: []string{"relay.example"}, TLS: true}).next("relay.example")
}

func TestDomainByHook(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
	dir := t.TempDir()
	program := filepath.Join(dir, "hook")
	script := fmt.Sprintf(`#!/bin/sh
echo "$@" >>%[1]s/calls
case $1 in
present) exec curl -sf -d "{\"host\":\"$2.\",\"value\":\"$3\"}" http://%[2]s/set-txt ;;
cleanup) exec curl -sf -d "{\"host\":\"$2.\"}" http://%[2]s/clear-txt ;;
esac
`, dir, relaytest.Loopback(a.DNSManage))
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
	a := relaytest.NewPebble(t, nil)
	a.Start()
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
	a := relaytest.NewPebble(t, nil)
	a.Start()
	newClient(t, a, Options{IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, TLS: true}).next("127.0.0.1")
}

// A relay with both families: each address has a certificate of its own.
func TestAddressesOfBothFamilies(t *testing.T) {
	needIPv6(t)
	a := relaytest.NewPebble(t, nil)
	a.Start()
	c := newClient(t, a, Options{
		IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}, IPProfile: ShortLived, HTTP: true, TLS: true,
	})
	leaves := map[string]*x509.Certificate{}
	for range 2 {
		select {
		case g := <-c.got:
			leaves[g.name] = g.leaf
		case <-time.After(patience):
			t.Fatalf("no certificate: %+v", c.Stats())
		}
	}
	for _, address := range []string{"127.0.0.1", "::1"} {
		leaf := leaves[address]
		if leaf == nil {
			t.Fatalf("there is none for %s, only %v", address, leaves)
		}
		if err := leaf.VerifyHostname(address); err != nil || len(leaf.IPAddresses) != 1 || len(leaf.DNSNames) != 0 {
			t.Errorf("the certificate of %s is for %v and %v: %v", address, leaf.IPAddresses, leaf.DNSNames, err)
		}
		if life := leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Hour); life != 6*24*time.Hour {
			t.Errorf("the certificate of %s lives %v, want six days", address, life)
		}
	}
}

// One way at a time, so that each is seen to work.
func TestAddressOfIPv6(t *testing.T) {
	needIPv6(t)
	for name, o := range map[string]Options{"http": {HTTP: true}, "tls": {TLS: true}} {
		t.Run(name, func(t *testing.T) {
			a := relaytest.NewPebble(t, nil)
			a.Start()
			o.IPs = []netip.Addr{netip.IPv6Loopback()}
			newClient(t, a, o).next("::1")
		})
	}
}

// needIPv6 skips where ::1 cannot be listened on.
func needIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("SKIPPED: certificates for IPv6 addresses need ::1, which this machine lacks: %v", err)
	}
	l.Close()
}

// The authority refuses one name and certifies the other.
func TestDomainBesideARefusedOne(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
	c := newClient(t, a, Options{Names: []string{"blocked.example", "relay.example"}, HTTP: true})
	c.next("relay.example")
	c.problem(CauseName, "blocked.example", "acme_name")
	s := c.Stats().Names
	if len(s) != 2 || s[0].Name != "blocked.example" || s[0].Problem == "" || s[0].Next == nil || !s[0].NotAfter.IsZero() ||
		s[1].Obtained != 1 || s[1].Problem != "" {
		t.Errorf("stats %+v", s)
	}
}

// asked is a name that no other test has: certmagic remembers for a whole process
// which ones failed lately, and lets them wait.
const asked = "asked.example"

// The authority asks for a renewal, by ACME Renewal Information, long before the
// certificate ends.
func TestRenewalOnRequest(t *testing.T) {
	a := relaytest.NewPebble(t, func(pebble map[string]any) { // which would else take any of its profiles
		pebble["profiles"] = map[string]any{"default": map[string]any{"description": "three months", "validityPeriod": 7776000}}
	})
	a.Start()
	o := Options{Names: []string{asked}, HTTP: true, CheckEvery: time.Second, Storage: filepath.Join(t.TempDir(), "acme")}
	c := newClient(t, a, o)
	first := c.next(asked)
	if left := time.Until(first.leaf.NotAfter); left < 80*24*time.Hour {
		t.Fatalf("the certificate ends in %v: it is renewed for that", left)
	}
	c.stop()
	a.AskForRenewal(first.pair.Certificate[0])
	forgetWhenToAsk(t, o.Storage)
	elsewhere := *a // the first listener is still there
	elsewhere.HTTP = relaytest.FreePorts(t, 1)[0]
	o.HTTP, o.TLS = false, true
	c = newClient(t, &elsewhere, o)
	if again := c.next(asked); !again.leaf.Equal(first.leaf) {
		t.Fatal("the stored certificate was not used")
	}
	if second := c.next(asked); second.leaf.Equal(first.leaf) {
		t.Error("the same certificate again")
	}
}

// forgetWhenToAsk lets the next run ask for renewal information at once: Pebble
// says that six hours are soon enough, and that is stored with the certificate.
func forgetWhenToAsk(t *testing.T, storage string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(storage, "certificates", "*", asked, asked+".json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var all, issuer, info map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if issuer, _ = all["issuer_data"].(map[string]any); issuer != nil {
		info, _ = issuer["renewal_info"].(map[string]any)
	}
	if info["_retryAfter"] == nil {
		t.Fatalf("no renewal information was kept: %s", text)
	}
	info["_retryAfter"] = time.Now().Add(-time.Minute)
	if text, err = json.Marshal(all); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRenewal(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
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
	a.Stop()
	c.problem(CauseUnreachable, "does not answer")
}

func TestExternalAccount(t *testing.T) {
	a := relaytest.NewPebble(t, func(pebble map[string]any) {
		pebble["externalAccountBindingRequired"] = true
		pebble["externalAccountMACKeys"] = map[string]string{"kid-1": macKey}
	})
	a.Start()
	newClient(t, a, Options{Names: []string{"relay.example"}, DNSHook: "/bin/true"}).problem(CauseAccount, "acme_eab_kid")
	newClient(t, a, Options{Names: []string{"relay.example"}, DNSHook: "/bin/true", EABKeyID: "kid-2", EABMACKey: macKey}).problem(CauseAccount, "acme_eab_kid")
	newClient(t, a, Options{Names: []string{"relay.example"}, HTTP: true, EABKeyID: "kid-1", EABMACKey: macKey}).next("relay.example")
}

func TestAuthorityDownAtStart(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	c := newClient(t, a, Options{Names: []string{"relay.example"}, HTTP: true})
	c.problem(CauseUnreachable, "does not answer", strings.TrimSuffix(strings.TrimPrefix(a.Directory(), "https://"), "/dir"))
	a.Start()
	c.next("relay.example")
	if lines := strings.Count(c.log.String(), "cause="+string(CauseUnreachable)); lines != 1 {
		t.Errorf("%d lines about one cause within an hour", lines)
	}
}

func TestAuthorityRefuses(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
	c := newClient(t, a, Options{Names: []string{"blocked.example"}, HTTP: true})
	c.problem(CauseName, "blocked.example", "acme_name")
}

func TestNobodyAnswersTheAuthority(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
	c := newClient(t, a, Options{Names: []string{"relay.example"}, DNSHook: "/bin/true"})
	c.problem(CauseAnswer, "DNS hook")
}

func TestPortLeadsNowhere(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
	elsewhere := *a
	elsewhere.HTTP = relaytest.FreePorts(t, 1)[0]
	c := newClient(t, &elsewhere, Options{Names: []string{"relay.example"}, HTTP: true})
	c.problem(CauseNoConnect, "port 80", "http_listen")
}

func TestAnotherServerAnswers(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
	l, err := net.Listen("tcp", relaytest.Loopback(a.HTTP))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a web site") })}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	elsewhere := *a
	elsewhere.HTTP = relaytest.FreePorts(t, 1)[0]
	c := newClient(t, &elsewhere, Options{Names: []string{"relay.example"}, HTTP: true})
	c.problem(CauseAnswer, "relay.example", "another server")
}

func TestUntrustedAuthority(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
	stranger := *a
	stranger.Roots = x509.NewCertPool()
	newClient(t, &stranger, Options{Names: []string{"relay.example"}, HTTP: true}).problem(CauseUntrusted, "acme_ca_file")
}

func TestUnknownProfile(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
	c := newClient(t, a, Options{IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, IPProfile: "none such", HTTP: true})
	c.problem(CauseProfile, "none such", "acme_ip_profile")
}

func TestClockIsWrong(t *testing.T) {
	a := relaytest.NewPebble(t, nil)
	a.Start()
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
