package daemon

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
)

// keep puts a certificate where the authority's are kept, as if it had been issued.
func keep(t *testing.T, c config.Config, i issued) (certPEM, keyPEM []byte) {
	t.Helper()
	certPEM, keyPEM = []byte(read(t, i.cert)), []byte(read(t, i.key))
	s := &certmagic.FileStorage{Path: acmeDir(c)}
	issuer := (&certmagic.ACMEIssuer{CA: c.ACMEDirectory}).IssuerKey()
	for name, data := range map[string][]byte{
		certmagic.StorageKeys.SiteCert(issuer, acmeName): certPEM, certmagic.StorageKeys.SitePrivateKey(issuer, acmeName): keyPEM,
		certmagic.StorageKeys.SiteMeta(issuer, acmeName): []byte(`{"sans":["` + acmeName + `"]}`),
	} {
		if err := s.Store(t.Context(), name, data); err != nil {
			t.Fatal(err)
		}
	}
	return certPEM, keyPEM
}

// TestRotationToTheAuthority goes from the pin to the authority's certificate with
// a client connected all the time, and without a restart.
func TestRotationToTheAuthority(t *testing.T) {
	c := acmeConfig(t)
	open(&c)
	b := mustBuild(t, c)
	if err := b.acme.giveUpFirst(); err != nil { // no certificate in time: clients get the pin
		t.Fatal(err)
	}
	x := followed(t, b)
	c = b.Config()
	main, pin := c.Listen, x.id.cert.Pin()
	veteran, err := x.dial(main, pin)
	if err != nil {
		t.Fatal(err)
	}
	defer veteran.Close()

	if ReadyToRotate(c) {
		t.Error("ready without a certificate")
	}
	second := freePort(t)
	if _, err := BeginRotation(c, cert.Place{Listen: second}); err == nil || !strings.Contains(err.Error(), "no certificate yet") {
		t.Errorf("begun without a certificate: %v", err)
	}
	i := issue(t, acmeName, time.Now().AddDate(0, 0, 20))
	certPEM, keyPEM := keep(t, c, i)
	b.acme.take(acmeName, certPEM, keyPEM)
	trusting := func(address string) {
		t.Helper()
		o := x.options()
		o.Addr, o.Host, o.CertName, o.TLS = address, acmeName, "", &tls.Config{RootCAs: i.roots}
		d, err := client.Dial(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		d.Close()
	}
	if log := b.log.String(); !strings.Contains(log, "detour cert rotate --port PORT") || !ReadyToRotate(c) {
		t.Errorf("nobody is told that the certificate is there:\n%s", log)
	}
	r, err := BeginRotation(c, cert.Place{Listen: second})
	if err != nil || !r.Authority {
		t.Fatal(r, err)
	}
	if err := CheckSecondPort(t.Context(), c, r); err == nil {
		t.Error("a second port that is not open answers")
	}
	foreign := issue(t, acmeName, time.Now().AddDate(0, 3, 0)) // another program has the port
	pair, err := tls.LoadX509KeyPair(foreign.cert, foreign.key)
	if err != nil {
		t.Fatal(err)
	}
	squatter, err := tls.Listen("tcp", second, &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the listener
		for {
			conn, err := squatter.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake() // whatever the client thinks of it
			conn.Close()
		}
	}()
	if err := CheckSecondPort(t.Context(), c, r); err == nil || !strings.Contains(err.Error(), "shows another certificate") {
		t.Errorf("another program's certificate: %v", err)
	}
	squatter.Close()
	x.follow(time.Now())
	if err := CheckSecondPort(t.Context(), c, r); err != nil {
		t.Error(err)
	}
	await(t, "its end is told, of the second port's", func() bool { return strings.Contains(b.log.String(), "a certificate will expire") })
	trusting(second)
	x.wantLogin(main, pin)
	if got := x.nodes(); len(got) != 2 || got[0] != node(second, "") || got[1] != node(main, pin) {
		t.Errorf("the map names %q", got)
	}
	if s := b.Stats(); len(s.AlsoListen) != 1 || s.SecondCert == nil || s.SecondCert.SelfSigned {
		t.Error("the second port has no figures")
	}
	if len(b.acme.problems(time.Now())) != 0 || len(b.acme.problems(time.Now().AddDate(0, 3, 1))) != 1 {
		t.Error("nobody is told when the certificate on the second port expires")
	}

	if r, err = r.Withdraw(c.Cert, time.Now()); err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	if got := x.nodes(); len(got) != 1 || got[0] != node(second, "") {
		t.Errorf("the map names %q", got)
	}
	next := issue(t, acmeName, time.Now().AddDate(0, 2, 20)) // renewed meanwhile
	i = next
	certPEM, keyPEM = keep(t, c, next)
	b.acme.take(acmeName, certPEM, keyPEM)
	trusting(second)

	if r, err = r.Finish(c.Cert, c.Key, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := CheckEnd(t.Context(), c, r); err == nil {
		t.Error("ended before the relay has changed over")
	}
	if m, err := loadACMEMode(c); err != nil || m != acmeCA {
		t.Errorf("detour map would be made for %q, %v", m, err)
	}
	select {
	case <-b.Changed():
		t.Error("the map is printed again before clients need it")
	default:
	}
	x.follow(time.Now())
	<-b.Changed()
	var again strings.Builder
	if err := b.Remap(&again); err != nil || !strings.Contains(again.String(), "--- Headscale") || strings.Contains(again.String(), "sha256-raw") {
		t.Errorf("printed again: %v\n%s", err, again.String())
	}
	trusting(main)
	trusting(second)
	if got := x.nodes(); len(got) != 1 || got[0] != node(main, "") {
		t.Errorf("the map names %q", got)
	}
	if err := CheckEnd(t.Context(), c, r); err != nil {
		t.Error(err)
	}
	if err := r.End(c.Cert); err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	b.acme.mu.Lock()
	if b.acme.second != nil {
		t.Error("certificates go on to a port that is closed")
	}
	b.acme.mu.Unlock()
	trusting(main)
	if m, err := readACMEMode(c); err != nil || m != acmeCA {
		t.Errorf("mode %q, %v", m, err)
	}
	if _, err := BeginRotation(c, cert.Place{Listen: second}); err == nil || !strings.Contains(err.Error(), "nothing to rotate") {
		t.Errorf("begun again: %v", err)
	}
	if ReadyToRotate(c) {
		t.Error("there is more to change over to")
	}
	if origin := CertOrigin(c); !strings.HasPrefix(origin, "from the authority") {
		t.Errorf("origin %q", origin)
	}
	if _, err := cert.LoadPin(c.Cert, c.Key, time.Now()); err != nil { // for a way back by hand
		t.Error(err)
	}
	if err := veteran.Send(veteran.PublicKey(), []byte("still here")); err != nil {
		t.Error(err)
	}
}
