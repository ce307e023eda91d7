package daemon

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
)

// The second port is a door like the first: proxies must name their clients there,
// and no certificate is shown for a name that none is for.
func TestSecondPortIsAsStrict(t *testing.T) {
	x := runTurned(t, func(c *config.Config) {
		c.Hostname, c.StrictSNI, c.ProxyProtocol = "relay.example", true, []string{"127.0.0.0/8"}
	})
	second := freePort(t)
	_, err := BeginRotation(x.cfg, cert.Place{Listen: second})
	wantError(t, err, "behind a proxy (proxy_protocol)", "--proxied")
	r, err := BeginRotation(x.cfg, cert.Place{Listen: second, Proxied: true})
	if err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	for _, tt := range []struct {
		header, name string
		shown        bool
	}{
		{"PROXY TCP4 203.0.113.9 203.0.113.7 4711 443\r\n", "relay.example", true},
		{"PROXY TCP4 203.0.113.9 203.0.113.7 4711 443\r\n", "other.example", false},
		{"", "relay.example", false},
	} {
		conn, err := net.Dial("tcp", second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, tt.header); err != nil {
			t.Fatal(err)
		}
		client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: tt.name})
		err = client.Handshake()
		if tt.shown != (err == nil) || tt.shown && cert.PinOf(client.ConnectionState().PeerCertificates[0]) != r.NewPin {
			t.Errorf("header %q, name %q: %v", tt.header, tt.name, err)
		}
		conn.Close()
	}
	if err := CheckSecondPort(t.Context(), x.cfg, r); err != nil {
		t.Error(err)
	}
	x.rotation.logins.admitted.Store(1) // as if the map were out
	for _, after := range []time.Duration{cert.RotationUnused + time.Minute, cert.RotationUnused + 2*time.Minute, 3 * cert.RotationUnused} {
		x.follow(time.Now().Add(after))
	}
	if kept, err := cert.LoadRotation(x.cfg.Cert, x.cfg.Key); err != nil || kept.Phase != cert.PhaseBoth {
		t.Errorf("closed a port while the proxy's is open: %+v, %v", kept, err)
	}
	if n := strings.Count(x.log.String(), "close the proxy's port"); n != 2 {
		t.Errorf("said %d times in three weeks:\n%s", n, x.log)
	}
}

// What one source may do before it is admitted, it may do at both ports together.
func TestSecondPortHasTheLimits(t *testing.T) {
	x := runTurned(t, func(c *config.Config) {
		c.LoginPending, c.ProxyProtocol = 2, []string{"127.0.0.1"}
	})
	r, err := BeginRotation(x.cfg, cert.Place{Listen: freePort(t), Proxied: true})
	if err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	for i, address := range []string{x.cfg.Listen, x.cfg.Listen, r.Listen} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "PROXY TCP4 198.51.100.7 203.0.113.1 4711 443\r\n"); err != nil {
			t.Fatal(err)
		}
		await(t, "it is taken", func() bool { return x.doors[0].Stats().Accepted == min(uint64(i)+1, 2) })
	}
	await(t, "the third is refused", func() bool { return x.rotation.second.Stats().RefusedPending == 1 })
}

// A relay that has given up root cannot open every port.
func TestSecondPortBelow1024(t *testing.T) {
	c := mustBuild(t, settings(t, nil)).cfg
	for _, tt := range []struct {
		runAs, listen string
		refused       bool
	}{{"nobody", ":1023", true}, {"nobody", ":1024", false}, {"", ":1023", false}} {
		c.RunAs = tt.runAs
		r, err := BeginRotation(c, cert.Place{Listen: tt.listen})
		if tt.refused {
			wantError(t, err, "run_as", "a higher one")
			continue
		}
		if err == nil {
			err = r.End(c.Cert)
		}
		if err != nil {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}
