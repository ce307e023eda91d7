package cert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// soakHandshakes returns how many handshakes the soak makes: DETOUR_SOAK, or few.
func soakHandshakes(t *testing.T) int {
	t.Helper()
	text := os.Getenv("DETOUR_SOAK")
	if text == "" {
		return 500
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("DETOUR_SOAK is %q, want a number of handshakes", text)
	}
	return n
}

// soak is certificates that take turns in the files of two names, and the
// clients' idea of them.
type soak struct {
	*watchBed
	roots  *x509.CertPool
	rounds [2][]issued
	known  map[string]int // by the leaf's bytes: whose name it is for; read only
	left   atomic.Int64   // handshakes to make
	seen   [2]sync.Map    // leaves that were served
	metas  sync.Map
}

var soakNames = [2]string{"a.example", "b.example"}

// TestHandshakeSoak makes many handshakes while the files are replaced without a
// pause and the meta certificate is renewed beneath them, and looks at every
// chain that is served. In another relay such a moment led to a crash, or to
// chains with a wrong end.
func TestHandshakeSoak(t *testing.T) {
	n := soakHandshakes(t)
	ca := authority(t)
	s := &soak{roots: x509.NewCertPool(), known: map[string]int{}}
	s.roots.AddCert(ca.leaf)
	s.watchBed = newWatchBed(t, &ca, func(o *WatchOptions) {
		o.Logger, o.Settle, o.Poll = nil, time.Millisecond, 10*time.Millisecond
	}, soakNames[:1], soakNames[1:])
	for i, c := range s.Source.Certificates() {
		s.known[string(c.leaf.Raw)] = i
	}
	for i, name := range soakNames {
		for range 4 {
			template := named(name) // for longer than the clock below can run
			template.NotBefore, template.NotAfter = testNow.AddDate(-1, 0, 0), testNow.AddDate(50, 0, 0)
			leaf := issue(t, template, &ca)
			s.rounds[i] = append(s.rounds[i], leaf)
			s.known[string(leaf.leaf.Raw)] = i
		}
	}
	s.left.Store(int64(n))
	ctx, cancel := context.WithCancel(t.Context())
	var others, clients sync.WaitGroup
	others.Go(func() { _ = s.Run(ctx) })
	others.Go(func() { s.replace(ctx, &ca) })
	begin := time.Now()
	for i := range 8 {
		clients.Go(func() { s.client(i) })
	}
	clients.Wait()
	cancel()
	others.Wait()

	count := func(m *sync.Map) (n int) {
		m.Range(func(any, any) bool { n++; return true })
		return n
	}
	stats := s.Stats()
	t.Logf("%d handshakes in %v, %d reloads, %d and %d leaves and %d meta certificates seen",
		n, time.Since(begin).Round(time.Millisecond), stats.Reloads, count(&s.seen[0]), count(&s.seen[1]), count(&s.metas))
	if stats.Reloads < 2 || count(&s.metas) < 2 {
		t.Errorf("too little happened beneath the handshakes: stats %+v", stats)
	}
}

// replace writes the next pair of each name in turn, mostly whole and sometimes
// in place in two steps, until ctx ends.
func (s *soak) replace(ctx context.Context, ca *issued) {
	for round := 0; ctx.Err() == nil; round++ {
		i := round % 2
		leaf := s.rounds[i][round/2%len(s.rounds[i])]
		files := [2]string{s.Pairs[i].CertFile, s.Pairs[i].KeyFile}
		for j, text := range []string{pemCerts(leaf, *ca), pemKey(s.t, leaf.key)} {
			path := files[j]
			if round%5 != 0 {
				path += ".new"
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				s.t.Error(err)
				return
			}
			if round%5 != 0 {
				if err := os.Rename(path, files[j]); err != nil {
					s.t.Error(err)
					return
				}
			}
		}
		s.Reload()
		if round%16 == 0 {
			s.clock.advance(time.Hour)
		}
		select { // until it is taken, or not, as when the clients are quicker
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// client makes handshakes until all are made or one is wrong.
func (s *soak) client(i int) {
	for round := 0; s.left.Add(-1) >= 0; round++ {
		who := (i + round) % 2
		config := &tls.Config{RootCAs: s.roots, ServerName: soakNames[who], Time: func() time.Time { return testNow }}
		if round%3 == 0 {
			config.MaxVersion = tls.VersionTLS12
		}
		state, err := handshake(s.Source, config)
		if err == nil {
			err = s.judge(who, state.PeerCertificates)
		}
		if err != nil {
			s.t.Errorf("client %d, handshake %d, %s: %v", i, round, soakNames[who], err)
			return
		}
	}
}

// judge looks at one served chain. That the key fits the leaf, the handshake
// itself has shown.
func (s *soak) judge(who int, chain []*x509.Certificate) error {
	if len(chain) != 2 && len(chain) != 3 { // the first pairs have the leaf alone
		return fmt.Errorf("a chain of %d", len(chain))
	}
	leaf, meta := chain[0], chain[len(chain)-1]
	if owner, ok := s.known[string(leaf.Raw)]; !ok || owner != who {
		return fmt.Errorf("a leaf that was written for this name: %v, known %v", leaf.DNSNames, ok)
	}
	for i, c := range chain {
		isMeta := c.Subject.CommonName == metaPrefix+serverKeyHex && c.SerialNumber.Int64() == metaVersion
		if isMeta != (i == len(chain)-1) {
			return fmt.Errorf("certificate %d of %d is %s", i+1, len(chain), c.Subject)
		}
	}
	if err := meta.CheckSignature(meta.SignatureAlgorithm, meta.RawTBSCertificate, meta.Signature); err != nil {
		return errors.Join(errors.New("the meta certificate's signature"), err)
	}
	s.seen[who].Store(string(leaf.Raw), true)
	s.metas.Store(string(meta.Raw), true)
	return nil
}
