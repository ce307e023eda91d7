package web

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const plainUpgrade = "GET /derp HTTP/1.1\r\nHost: relay.test\r\nUser-Agent: Go-http-client/1.1\r\n" +
	"Connection: Upgrade\r\nUpgrade: DERP\r\n\r\n"

const fastUpgrade = "GET /derp HTTP/1.1\r\nHost: relay.test\r\nUser-Agent: Go-http-client/1.1\r\n" +
	"Connection: Upgrade\r\nDerp-Fast-Start: 1\r\nIdeal-Node: 900a\r\nUpgrade: DERP\r\n\r\n"

// Each upgrade is answered with one write; what came right behind the request
// is not lost. viaHTTP says that net/http is to see the request.
func TestRawUpgrade(t *testing.T) {
	withUpgrade := func(line string) string {
		return line + "\r\nHost: relay.test\r\nUpgrade: DERP\r\n\r\n"
	}
	for _, test := range []struct {
		name, request string
		viaHTTP       bool
	}{
		{"stock client", plainUpgrade, false},
		{"POST", withUpgrade("POST /derp HTTP/1.1"), false},
		{"unknown method", withUpgrade("BREW /derp HTTP/1.1"), false},
		{"query", withUpgrade("GET /derp?a=b HTTP/1.1"), false},
		{"HTTP/1.0", withUpgrade("GET /derp HTTP/1.0"), false},
		{"HTTP/1.0 without Host", "GET /derp HTTP/1.0\r\nUpgrade: derp\r\n\r\n", true},
		{"absolute URL", withUpgrade("GET http://relay.test/derp HTTP/1.1"), true},
		{"bare line feeds", "GET /derp HTTP/1.1\nHost: a\nUpgrade: derp\n\n", false},
		{"mixed case", "GET /derp HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\nuPGRADE: dErP\r\n\r\n", false},
		{"old client", "GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\r\n", false},
		{"other subprotocol", "GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: chat\r\n\r\n", false},
		{"fast start true", "GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\nDerp-Fast-Start: true\r\n\r\n", false},
		{"header in UTF-8", "GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\nX-Name: é\r\n\r\n", true},
		{"long header", "GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\nX-Long: " + strings.Repeat("x", 9000) + "\r\n\r\n", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t, Options{})
			c := b.pipe()
			write1(t, c, test.request+"early")
			if got := readOnce(t, c); got != switching+greeting {
				t.Errorf("first write is %q\nwant %q", got, switching+greeting)
			}
			expect(t, c, "early")
			write1(t, c, "late")
			expect(t, c, "late")
			c.Close()
			if err := <-b.relay.ended; !errors.Is(err, io.EOF) {
				t.Errorf("relay ended with %v", err)
			}
			got := b.server.Stats()
			want := Stats{Upgrades: UpgradeStats{Raw: 1}}
			if test.viaHTTP {
				want.HTTPConns, want.HTTPRequests = 1, 1
			}
			if got != want {
				t.Errorf("Stats() = %+v, want %+v", got, want)
			}
		})
	}
}

func TestFastStart(t *testing.T) {
	b := newBed(t, Options{})
	c := b.pipe()
	write1(t, c, fastUpgrade+"client info")
	if got := readOnce(t, c); got != greeting {
		t.Errorf("first write is %q, want the greeting alone", got)
	}
	expect(t, c, "client info")
	if !(<-b.relay.conns).NotIdeal {
		t.Error("Ideal-Node was not seen")
	}
	if got, want := b.server.Stats(), (Stats{Upgrades: UpgradeStats{FastStart: 1}}); got != want {
		t.Errorf("Stats() = %+v, want %+v", got, want)
	}
}

// The request may come in any pieces, and its end in the middle of one.
func TestRequestInPieces(t *testing.T) {
	request := fastUpgrade + "early"
	for _, size := range []int{1, 2, 3, 5, len(fastUpgrade) - 1} {
		b := newBed(t, Options{})
		c := b.pipe()
		go func() {
			for rest := request; rest != ""; {
				n := min(size, len(rest))
				_, _ = io.WriteString(c, rest[:n]) // noticed below
				rest = rest[n:]
			}
		}()
		expect(t, c, greeting+"early")
		c.Close()
		b.stop()
	}
}

func TestReady(t *testing.T) {
	b := newBed(t, Options{})
	client, server := tcpPair(t)
	ready := b.serve(server)
	write1(t, client, fastUpgrade+"wait")
	expect(t, client, greeting+"wait")
	select {
	case <-ready:
		t.Error("ready before the login")
	default:
	}
	write1(t, client, "in\n")
	<-ready

	client, server = tcpPair(t)
	ready = b.serve(server)
	write1(t, client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-ready
}

func TestUpgradeOverTLS(t *testing.T) {
	config, pool := serverTLS(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		b := newBed(t, Options{TLS: config})
		raw := b.tcp()
		c := tls.Client(raw, &tls.Config{RootCAs: pool, ServerName: "relay.test", MaxVersion: version})
		write1(t, c, fastUpgrade+"early") // one record
		expect(t, c, greeting+"early")
		if got := (<-b.relay.conns).Addr; got.String() != raw.LocalAddr().String() {
			t.Errorf("Addr = %v, want %v", got, raw.LocalAddr())
		}
		c.Close()
		b.stop()
		want := Stats{Upgrades: UpgradeStats{FastStart: 1}, TLSVersions: TLSVersions{TLS13: 1}}
		if version == tls.VersionTLS12 {
			want.TLSVersions = TLSVersions{TLS12: 1}
		}
		if got := b.server.Stats(); got != want {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}
	}
}

// A connection may probe first and upgrade later; requests may be pipelined.
func TestUpgradeAfterProbe(t *testing.T) {
	const first = "GET /derp/probe HTTP/1.1\r\nHost: a\r\n\r\n"
	config, pool := serverTLS(t)
	for _, pipelined := range []bool{false, true} {
		t.Run(fmt.Sprint(pipelined), func(t *testing.T) {
			b := newBed(t, Options{TLS: config})
			c := tls.Client(b.tcp(), &tls.Config{RootCAs: pool, ServerName: "relay.test"})
			defer c.Close()
			if pipelined {
				write1(t, c, first+plainUpgrade+"early")
			} else {
				write1(t, c, first)
			}
			r := bufio.NewReader(c)
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("probe: %v, %v", resp, err)
			}
			resp.Body.Close()
			if !pipelined {
				write1(t, c, plainUpgrade+"early")
			}
			expect(t, r, switching+greeting+"early")
			// Frames that look like a request are frames.
			write1(t, c, first)
			expect(t, r, first)
		})
	}
}

func TestNoUpgrade(t *testing.T) {
	b := newBed(t, Options{})
	for _, test := range []struct {
		request, body string
		status        int
	}{
		{"GET /derp HTTP/1.1\r\nHost: a\r\n\r\n", "DERP requires connection upgrade\n", 426},
		{"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n", "DERP requires connection upgrade\n", 426},
		{"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP, x\r\n\r\n", "DERP requires connection upgrade\n", 426},
		{"GET /derp HTTP/1.1\r\nUpgrade: DERP\r\n\r\n", "400 Bad Request: missing required Host header", 400},
		{"GET /derp HTTP/1.1\r\nHost: a\r\nHost: b\r\nUpgrade: DERP\r\n\r\n", "400 Bad Request", 400},
		{"GET /derp HTTP/1.1\r\nHost: a\r\nBad Name: x\r\nUpgrade: DERP\r\n\r\n", "400 Bad Request: invalid header name", 400},
		{"GET /derp/ HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\n\r\n", neutralPage, 200},
		{"GET /DERP HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\n\r\n", neutralPage, 200},
		{"GET //derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\n\r\n", neutralPage, 200},
		{"CONNECT /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\n\r\n", "CONNECT not enabled\n", 403},
	} {
		resp := b.ask(test.request)
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != test.status || string(body) != test.body {
			t.Errorf("%q: %d %q, %v; want %d %q", test.request, resp.StatusCode, body, err, test.status, test.body)
		}
	}
	if got := b.server.Stats().Upgrades; got != (UpgradeStats{}) {
		t.Errorf("upgrades: %+v", got)
	}
}

// A header that trickles in is cut off ten seconds after the accept.
func TestSlowHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, Options{})
		c := b.pipe()
		began := time.Now()
		var trickle sync.WaitGroup
		trickle.Go(func() {
			for {
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
				time.Sleep(time.Second) // on the bubble's clock
			}
		})
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("read: %v", err)
		}
		if took := time.Since(began); took != greetLimit {
			t.Errorf("closed after %v", took)
		}
		trickle.Wait()
		b.conns.Wait()
		if got, want := b.server.Stats(), (Stats{NoRequest: 1}); got != want {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}
	})
}

// After the upgrade no deadline is left: a peer may be silent for hours.
func TestSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, Options{})
		direct, second := b.pipe(), b.pipe()
		write1(t, direct, fastUpgrade)
		expect(t, direct, greeting)
		write1(t, second, "HEAD /derp/probe HTTP/1.1\r\nHost: a\r\n\r\n")
		readOnce(t, second)
		write1(t, second, fastUpgrade)
		expect(t, second, greeting)
		time.Sleep(3 * time.Hour)
		for _, c := range []net.Conn{direct, second} {
			write1(t, c, "still here")
			expect(t, c, "still here")
		}
	})
}

func TestIdleHTTPIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, Options{})
		c := b.pipe()
		write1(t, c, "HEAD /derp/probe HTTP/1.1\r\nHost: a\r\n\r\n")
		readOnce(t, c)
		began := time.Now()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("read: %v", err)
		}
		if took := time.Since(began); took != idleLimit {
			t.Errorf("closed after %v", took)
		}
	})
}

// The end of the context ends connections in every state, and Serve after them.
func TestStop(t *testing.T) {
	config, _ := serverTLS(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, Options{TLS: config})
		b.pipe() // shaking hands
		client := func() net.Conn {
			// The certificate is from outside of the bubble, whose year is 2000.
			return tls.Client(b.pipe(), &tls.Config{InsecureSkipVerify: true})
		}
		write1(t, client(), "GET /") // in the header
		raw := client()
		write1(t, raw, fastUpgrade)
		expect(t, raw, greeting)
		idle := client()
		write1(t, idle, "HEAD /derp/probe HTTP/1.1\r\nHost: a\r\n\r\n")
		readOnce(t, idle)
		taken := client()
		write1(t, taken, "HEAD /derp/probe HTTP/1.1\r\nHost: a\r\n\r\n")
		readOnce(t, taken)
		write1(t, taken, fastUpgrade)
		expect(t, taken, greeting)
		synctest.Wait()

		began := time.Now()
		b.stop()
		if took := time.Since(began); took > farewell {
			t.Errorf("stopping took %v", took)
		}
		if n := b.server.Stats().NoRequest; n != 0 {
			t.Errorf("no_request = %d: our own end is not a client's fault", n)
		}
	})
}

// Connections that come when Serve is over are closed and not kept waiting.
func TestAfterServe(t *testing.T) {
	s := New(Options{Relay: newEchoRelay()})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ended); err != nil {
		t.Fatal(err)
	}
	client, server := tcpPair(t)
	write1(t, client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	s.ServeConn(t.Context(), server, func(bool) {})
	if got, err := io.ReadAll(client); len(got) > 0 {
		t.Errorf("read %q, %v", got, err)
	}
}

type addrConn struct {
	net.Conn
	addr net.Addr
}

func (c addrConn) RemoteAddr() net.Addr { return c.addr }

type textAddr string

func (a textAddr) Network() string { return "text" }
func (a textAddr) String() string  { return string(a) }

func TestRemoteAddr(t *testing.T) {
	for _, test := range []struct {
		addr net.Addr
		want string
	}{
		{&net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 5}, "192.0.2.1:5"}, // 16 bytes inside
		{&net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 5}, "[2001:db8::1]:5"},
		{textAddr("[::ffff:192.0.2.1]:5"), "192.0.2.1:5"},
		{textAddr("pipe"), "invalid AddrPort"},
		{nil, "invalid AddrPort"},
	} {
		if got := remoteAddr(addrConn{addr: test.addr}).String(); got != test.want {
			t.Errorf("remoteAddr(%v) = %v, want %v", test.addr, got, test.want)
		}
	}
}
