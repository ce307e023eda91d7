package cert

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is a time that tests set.
type clock struct{ seconds atomic.Int64 }

func newClock(at time.Time) *clock {
	c := &clock{}
	c.seconds.Store(at.Unix())
	return c
}

func (c *clock) now() time.Time { return time.Unix(c.seconds.Load(), 0) }

func (c *clock) advance(by time.Duration) { c.seconds.Add(int64(by / time.Second)) }

func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

func hashHex(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func onlyTLS(version uint16) *tls.Config {
	return &tls.Config{MinVersion: version, MaxVersion: version}
}

// asDERPClient makes c check the relay as a client with a pin does.
func asDERPClient(c *tls.Config, pin string) *tls.Config {
	// With a pin a client verifies by itself: apart from certificates named
	// derpkey..., exactly one may be there, and its hash must be the pin's.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(state tls.ConnectionState) error {
		var others []*x509.Certificate
		for _, got := range state.PeerCertificates {
			if !strings.HasPrefix(got.Subject.CommonName, "derpkey") {
				others = append(others, got)
			}
		}
		if len(others) != 1 || "sha256-raw:"+hashHex(others[0].Raw) != pin {
			return fmt.Errorf("%d certificates that may be pinned, want the one of %s", len(others), pin)
		}
		if state.ServerName != "" {
			return others[0].VerifyHostname(state.ServerName)
		}
		return nil
	}
	return c
}

func newSource(t testing.TB, c *Certificate, ck *clock) *Source {
	t.Helper()
	s, err := New(Options{Certificate: c, ServerKeyHex: serverKeyHex, Now: ck.now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// handshake lets a client meet the source and returns what the client saw.
func handshake(s *Source, client *tls.Config) (tls.ConnectionState, error) {
	here, there := net.Pipe()
	defer here.Close()
	served := make(chan error, 1)
	go func() {
		defer there.Close()
		served <- tls.Server(there, s.TLSConfig()).Handshake()
	}()
	conn := tls.Client(here, client)
	err := conn.Handshake()
	if err != nil {
		here.Close() // the server may be waiting for more
	}
	return conn.ConnectionState(), errors.Join(err, <-served)
}

// checkChain wants the certificate's own chain and then a meta certificate.
func checkChain(got []*x509.Certificate, want *Certificate) error {
	if len(got) != len(want.chain)+1 {
		return fmt.Errorf("%d certificates, want %d and the meta certificate", len(got), len(want.chain))
	}
	for i, der := range want.chain {
		if !bytes.Equal(got[i].Raw, der) {
			return fmt.Errorf("certificate %d is %s", i, got[i].Subject)
		}
	}
	if meta := got[len(got)-1]; meta.Subject.CommonName != "derpkey"+serverKeyHex || meta.SerialNumber.Int64() != 2 {
		return fmt.Errorf("last is %s with serial number %s, want the meta certificate", meta.Subject, meta.SerialNumber)
	}
	return nil
}

func TestHandshakes(t *testing.T) {
	ca := authority(t)
	pin, _, _ := pinned(t, "relay.example.com", "192.0.2.1")
	files := loaded(t, &ca, "relay.example.com")
	roots := x509.NewCertPool()
	roots.AddCert(ca.leaf)
	verified := func(version uint16) *tls.Config {
		c := onlyTLS(version)
		c.RootCAs, c.Time, c.ServerName = roots, func() time.Time { return testNow }, "relay.example.com"
		return c
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			for _, name := range []string{"", "relay.example.com", "RELAY.Example.COM"} {
				client := asDERPClient(onlyTLS(version), pin.Pin())
				client.ServerName = name
				state, err := handshake(newSource(t, pin, newClock(testNow)), client)
				if err := errors.Join(err, checkChain(state.PeerCertificates, pin)); err != nil {
					t.Errorf("pinned, server name %q: %v", name, err)
				}
				if state.Version != version || state.NegotiatedProtocol != "" {
					t.Errorf("version %x, protocol %q", state.Version, state.NegotiatedProtocol)
				}
			}
			state, err := handshake(newSource(t, files, newClock(testNow)), verified(version))
			if err := errors.Join(err, checkChain(state.PeerCertificates, files)); err != nil {
				t.Errorf("verified by its authority: %v", err)
			}
			// A name the certificate lacks is served as well; the client judges.
			client := verified(version)
			client.ServerName = "other.example.com"
			_, err = handshake(newSource(t, files, newClock(testNow)), client)
			if _, ok := errors.AsType[x509.HostnameError](err); !ok {
				t.Errorf("other server name: err %v, want the client to miss the name", err)
			}
		})
	}
}

func TestTLSConfig(t *testing.T) {
	pin, _, _ := pinned(t, "relay.example.com")
	s := newSource(t, pin, newClock(testNow))
	c := s.TLSConfig()
	if !c.SessionTicketsDisabled || !c.DynamicRecordSizingDisabled || len(c.Certificates) != 0 {
		t.Error("want neither tickets nor dynamic records nor a fixed certificate")
	}
	c.NextProtos[0] = "changed"
	for _, tt := range []struct {
		offered []string
		want    string // empty: refused
	}{
		{[]string{"h2", "http/1.1"}, "http/1.1"},
		{[]string{"http/1.1"}, "http/1.1"},
		{[]string{"h2"}, ""},
	} {
		client := asDERPClient(onlyTLS(tls.VersionTLS13), pin.Pin())
		client.NextProtos = tt.offered
		state, err := handshake(s, client)
		if (err == nil) != (tt.want != "") || state.NegotiatedProtocol != tt.want {
			t.Errorf("offered %q: got %q, err %v, want %q", tt.offered, state.NegotiatedProtocol, err, tt.want)
		}
	}
	if _, err := handshake(s, asDERPClient(onlyTLS(tls.VersionTLS11), pin.Pin())); err == nil {
		t.Error("TLS 1.1 was spoken")
	}
}

// The chain that a handshake holds must stay as it is while others come and go:
// appending to one shared chain is how a relay once crashed, or served a chain
// with the wrong end.
func TestConcurrentHandshakes(t *testing.T) {
	ca := authority(t)
	c := loaded(t, &ca, "relay.example.com")
	ck := newClock(testNow)
	s := newSource(t, c, ck)
	const clients = 200
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		metas = map[string]bool{} // guarded by mu
	)
	for i := range clients {
		wg.Go(func() {
			for round := range 2 {
				if round == 1 && i%20 == 0 {
					ck.advance(metaRenewAfter)
				}
				client := onlyTLS([]uint16{tls.VersionTLS12, tls.VersionTLS13}[i%2])
				client.InsecureSkipVerify = true
				state, err := handshake(s, client)
				if err := errors.Join(err, checkChain(state.PeerCertificates, c)); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				mu.Lock()
				metas[hashHex(state.PeerCertificates[len(state.PeerCertificates)-1].Raw)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(metas) < 2 || len(metas) > 11 {
		t.Errorf("%d different meta certificates were served, want between 2 and 11", len(metas))
	}
	if len(c.TLS().Certificate) != len(c.chain) {
		t.Error("the certificate's own chain has grown")
	}
}

func TestServedChainHasNoRoom(t *testing.T) {
	ca := authority(t)
	s := newSource(t, loaded(t, &ca, "a.example"), newClock(testNow))
	got, err := s.TLSConfig().GetCertificate(&tls.ClientHelloInfo{})
	if err != nil || len(got.Certificate) != 3 || cap(got.Certificate) != 3 {
		t.Fatalf("chain of %d with room for %d (err %v), want 3 and no more", len(got.Certificate), cap(got.Certificate), err)
	}
}

func TestMetaIsRenewed(t *testing.T) {
	pin, _, _ := pinned(t)
	ck := newClock(testNow)
	var logged bytes.Buffer
	s, err := New(Options{
		Certificate: pin, ServerKeyHex: serverKeyHex, Now: ck.now,
		Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	get := func() *tls.Certificate {
		c, err := s.TLSConfig().GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := get()
	meta := first.Certificate[1]
	if ck.advance(days(9)); get() != first {
		t.Error("renewed after 9 days, which is too soon")
	}
	if logged.Len() > 0 {
		t.Errorf("logged without a renewal: %s", &logged)
	}
	ck.advance(days(1))
	second := get()
	if second == first || bytes.Equal(second.Certificate[1], meta) {
		t.Error("not renewed after 10 days")
	}
	if len(first.Certificate) != 2 || !bytes.Equal(first.Certificate[1], meta) {
		t.Error("the chain that an earlier handshake holds has changed")
	}
	if !bytes.Equal(second.Certificate[0], first.Certificate[0]) || get() != second {
		t.Error("after a renewal: another leaf, or renewed again at once")
	}
	if strings.Count(logged.String(), "new meta certificate") != 1 {
		t.Errorf("logged: %q, want one line of one renewal", &logged)
	}
	fresh, err := x509.ParseCertificate(second.Certificate[1])
	if err != nil || !fresh.NotAfter.Equal(ck.now().Add(days(30))) || !s.Stats().MetaNotAfter.Equal(fresh.NotAfter) {
		t.Errorf("meta certificate until %v, stats say %v (err %v)", fresh.NotAfter, s.Stats().MetaNotAfter, err)
	}
	// Asleep for a year, and a clock that is set back: right at the next visit.
	for _, by := range []time.Duration{days(365), -days(400)} {
		ck.advance(by)
		if next, err := x509.ParseCertificate(get().Certificate[1]); err != nil || ck.now().After(next.NotAfter) || ck.now().Before(next.NotBefore) {
			t.Errorf("clock moved by %v: the meta certificate is not valid (err %v)", by, err)
		}
	}
}

func TestMetaRenewalNeverWaits(t *testing.T) {
	pin, _, _ := pinned(t)
	ck := newClock(testNow)
	s := newSource(t, pin, ck)
	before := s.fresh()
	ck.advance(days(11))
	s.replacing.Lock() // as a handshake that is making it, or a reload, would
	if s.fresh() != before {
		t.Error("a second handshake made a meta certificate too")
	}
	s.replacing.Unlock()
	if s.fresh() == before {
		t.Error("not renewed when the way is free")
	}
	// One that lost the race for the lock finds the work done.
	now := s.fresh()
	if again, made, err := s.renewMeta(); err != nil || made || again != now {
		t.Errorf("renewed twice (made %v, err %v)", made, err)
	}
}

func TestMetaRenewalFails(t *testing.T) {
	pin, _, _ := pinned(t)
	ck := newClock(testNow)
	s := newSource(t, pin, ck)
	var logged bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&logged, nil))
	s.serverKeyHex = "" // the only way to make it fail
	before := s.fresh()
	ck.advance(days(11))
	if s.fresh() != before || !strings.Contains(logged.String(), "the old one is still served") {
		t.Errorf("want the old certificate and a line that says so; logged %q", &logged)
	}
	if !s.replacing.TryLock() {
		t.Error("the lock was kept")
	}
}

func TestNewRefuses(t *testing.T) {
	pin, _, _ := pinned(t)
	_, err := New(Options{ServerKeyHex: serverKeyHex})
	wantError(t, err, "serve a certificate: none is given")
	_, err = New(Options{Certificate: pin, ServerKeyHex: "nodekey:00"})
	wantError(t, err, "64 lower-case hex digits")
	if _, err := New(Options{Certificate: pin, ServerKeyHex: serverKeyHex}); err != nil {
		t.Errorf("with neither clock nor logger: %v", err)
	}
}

func TestStats(t *testing.T) {
	pin, pinFile, _ := pinned(t, "relay.example.com", "192.0.2.1")
	ck := newClock(testNow)
	s := newSource(t, pin, ck)
	got, err := json.Marshal(s.Stats())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"mode":"pin","names":["relay.example.com","192.0.2.1"],"not_after":"2036-03-01T12:00:00Z","days_left":3653,` +
		`"self_signed":true,"pin":"` + pin.Pin() + `","meta_not_after":"2026-03-31T12:00:00Z","refused_names":0,` +
		`"certificates":[{"mode":"pin","file":"` + filepath.ToSlash(pinFile) + `","names":["relay.example.com","192.0.2.1"],"key_type":"ECDSA",` +
		`"not_after":"2036-03-01T12:00:00Z","days_left":3653,"self_signed":true}]}`
	if string(got) != want {
		t.Errorf("stats\n%s, want\n%s", got, want)
	}
	ck.advance(days(20))
	if got := s.Stats(); got.DaysLeft != 3633 || !got.MetaNotAfter.Equal(testNow.Add(days(50))) {
		t.Errorf("20 days later: %+v", got)
	}
	ck.advance(pin.NotAfter().Sub(ck.now()) + time.Second)
	if got := s.Stats().DaysLeft; got != -1 {
		t.Errorf("a second after the end: %d days left, want -1", got)
	}

	ca := authority(t)
	nameless := loaded(t, &ca)
	got, err = json.Marshal(newSource(t, nameless, newClock(testNow)).Stats())
	if err != nil || !strings.Contains(string(got), `"mode":"files","names":[]`) || strings.Contains(string(got), `"pin":`) {
		t.Errorf("stats of a certificate without names: %s (err %v)", got, err)
	}
}
