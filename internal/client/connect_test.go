package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

func pinOf(der []byte) string { return fmt.Sprintf("%s%x", PinPrefix, sha256.Sum256(der)) }

func TestRequest(t *testing.T) {
	for _, c := range []struct {
		o    Options
		fast bool
		want string
	}{
		{Options{Host: "relay.example"}, false, "GET /derp HTTP/1.1\r\nHost: relay.example\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n"},
		{
			Options{Host: "relay.example", Port: 8443, IdealNode: "900b"},
			true,
			"GET /derp HTTP/1.1\r\nHost: relay.example:8443\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\nIdeal-Node: 900b\r\nUpgrade: DERP\r\n\r\n",
		},
	} {
		if got := string(c.o.appendRequest(nil, c.fast)); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		o          Options
		addr, host string
	}{
		{Options{Host: "relay.example"}, "relay.example:443", "relay.example"},
		{Options{Host: "relay.example", Port: 443}, "relay.example:443", "relay.example"},
		{Options{Host: "relay.example", Plain: true}, "relay.example:80", "relay.example"},
		{Options{Host: "relay.example", Plain: true, Port: 443}, "relay.example:443", "relay.example:443"},
		{Options{Host: "192.0.2.1", Port: 8443}, "192.0.2.1:8443", "192.0.2.1:8443"},
		{Options{Host: "2001:db8::1"}, "[2001:db8::1]:443", "[2001:db8::1]"},
		{Options{Host: "2001:db8::1", Port: 8443, Addr: "[::1]:9"}, "[::1]:9", "[2001:db8::1]:8443"},
	} {
		if a, h := c.o.addr(), c.o.hostHeader(); a != c.addr || h != c.host {
			t.Errorf("%+v: dials %s, Host %s", c.o, a, h)
		}
	}
}

func TestParseURL(t *testing.T) {
	for s, want := range map[string]Options{
		"https://relay.example":           {Host: "relay.example"},
		"https://relay.example:8443/derp": {Host: "relay.example", Port: 8443},
		"http://192.0.2.1/":               {Host: "192.0.2.1", Plain: true},
		"https://[2001:db8::1]:8443":      {Host: "2001:db8::1", Port: 8443},
	} {
		o, err := ParseURL(s)
		if err != nil || o.Host != want.Host || o.Port != want.Port || o.Plain != want.Plain {
			t.Errorf("%s: %+v, %v", s, o, err)
		}
	}
	for _, s := range []string{
		"", "relay.example", "relay.example:443", "ftp://relay.example", "https://", "https:///derp", "https://u@relay.example",
		"https://relay.example/x", "https://relay.example/?q", "https://relay.example:0", "https://relay.example:65536", "https://relay.example/#f",
	} {
		if o, err := ParseURL(s); err == nil {
			t.Errorf("%q is taken for %+v", s, o)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, o := range []Options{
		{},
		{Host: "a b"},
		{Host: "a\r\nX: y"},
		{Host: "[2001:db8::1]"},
		{Host: "relay.example:443"},
		{Host: "relay.example/derp"},
		{Host: "relay.example", IdealNode: "a\r\nX: y"},
		{Host: "relay.example", CertName: PinPrefix + "00"},
		{Host: "relay.example", CertName: PinPrefix + strings.Repeat("zz", 32)},
		{Host: "relay.example", CertName: PinPrefix + strings.Repeat("AB", 32)},
	} {
		if _, err := Dial(context.Background(), o); err == nil || !strings.HasPrefix(err.Error(), "client: ") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestTrust lets relays with good and bad certificates shake hands.
func TestTrust(t *testing.T) {
	own, pin := certificate(t, "relay.example")
	other, otherPin := certificate(t, "other.example")
	roots := x509.NewCertPool()
	for _, c := range []tls.Certificate{own, other} {
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		roots.AddCert(leaf)
	}
	known := &tls.Config{RootCAs: roots}
	early := &tls.Config{Time: func() time.Time { return time.Now().Add(-48 * time.Hour) }}
	late := &tls.Config{RootCAs: roots, Time: func() time.Time { return time.Now().Add(48 * time.Hour) }}
	metaDER := meta(t, derp.MetaCertPrefix+serverPubHex, 2)
	with := func(c tls.Certificate, more ...[]byte) tls.Certificate {
		c.Certificate = append(c.Certificate[:1:1], more...)
		return c
	}
	for name, c := range map[string]struct {
		shown tls.Certificate
		o     Options
		says  string // empty: the relay is trusted
	}{
		"known":                {own, Options{TLS: known}, ""},
		"unknown":              {own, Options{}, "unknown authority"},
		"other name":           {other, Options{TLS: known}, "other.example"},
		"other name, named":    {other, Options{TLS: known, CertName: "other.example"}, ""},
		"own name, not named":  {own, Options{TLS: known, CertName: "other.example"}, "relay.example"},
		"named, but unknown":   {other, Options{CertName: "other.example"}, "unknown authority"},
		"named, insecure":      {other, Options{CertName: "other.example", Insecure: true}, "unknown authority"},
		"named, expired":       {other, Options{TLS: late, CertName: "other.example"}, "expired"},
		"insecure":             {other, Options{Insecure: true}, ""},
		"pinned":               {own, Options{CertName: pin}, ""},
		"pinned with meta":     {with(own, metaDER), Options{CertName: pin}, ""},
		"pinned by IP":         {own, Options{CertName: pin, Host: "192.0.2.1"}, ""},
		"pin of another":       {own, Options{CertName: otherPin}, "not the pinned one"},
		"pin, insecure":        {own, Options{CertName: otherPin, Insecure: true}, "not the pinned one"},
		"pinned, two":          {with(own, other.Certificate[0]), Options{CertName: pin}, "several certificates"},
		"pinned, wrong name":   {other, Options{CertName: otherPin}, "pinned certificate: x509"},
		"pinned, too early":    {own, Options{TLS: early, CertName: pin}, "check the clock"},
		"pinned, expired":      {own, Options{TLS: late, CertName: pin}, "check the clock"},
		"known, shown with it": {with(own, metaDER), Options{TLS: known}, ""},
	} {
		c.o.NoFastStart = true
		client, err := speakTLS(t, c.o, func(f *fake) {
			f.secure(&tls.Config{Certificates: []tls.Certificate{c.shown}})
			if err := f.Conn.(*tls.Conn).Handshake(); err != nil || c.says != "" {
				f.in.Peek(1) // in TLS 1.3 the client's refusal comes after the handshake
				return
			}
			f.login()
			f.stay()
		})
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want %q", name, err, c.says)
		case client != nil:
			client.Close()
		}
	}
	if err := parsed(t, pin).verify([]*x509.Certificate{{}}[:0], "", time.Now()); err == nil {
		t.Error("no certificate at all is trusted")
	}
}

func parsed(t *testing.T, certName string) pin {
	t.Helper()
	p, err := parsePin(certName)
	if err != nil || p == nil {
		t.Fatal(p, err)
	}
	return p
}

// TestHello looks at what the client offers in TLS.
func TestHello(t *testing.T) {
	own, _ := certificate(t, "relay.example")
	for host, sni := range map[string]string{"relay.example": "relay.example", "192.0.2.1": "", "2001:db8::1": ""} {
		seen := make(chan tls.ClientHelloInfo, 1)
		o := Options{Host: host, Insecure: true, TLS: &tls.Config{ServerName: "elsewhere", NextProtos: []string{"h2"}}}
		c, err := speakTLS(t, o, func(f *fake) {
			f.secure(&tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				seen <- *h
				return &own, nil
			}})
			f.login()
			f.stay()
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if hello := <-seen; hello.ServerName != sni || len(hello.SupportedProtos) != 0 {
			t.Errorf("%s: SNI %q, protocols %q", host, hello.ServerName, hello.SupportedProtos)
		}
		if state, ok := c.TLS(); !ok || state.Version != tls.VersionTLS13 {
			t.Errorf("%s: TLS state %v", host, ok)
		}
	}
}

// TestFastStart has a relay that says nothing before it has the login.
func TestFastStart(t *testing.T) {
	own, pin := certificate(t, "relay.example")
	own.Certificate = append(own.Certificate, meta(t, derp.MetaCertPrefix+serverPubHex, 2))
	serve := func(max uint16, script func(*fake)) func(*fake) {
		return func(f *fake) {
			f.secure(&tls.Config{Certificates: []tls.Certificate{own}, MaxVersion: max})
			script(f)
			f.stay()
		}
	}
	fast := func(f *fake) {
		if got := f.request(); !strings.Contains(got, "Derp-Fast-Start: 1\r\n") {
			f.fail("request %q", got)
		}
		f.admitBefore(serverPriv.Public())
	}
	slow := func(f *fake) {
		if got, _ := f.login(); strings.Contains(got, derp.FastStartHeader) {
			f.fail("request %q", got)
		}
	}
	for name, c := range map[string]struct {
		o      Options
		script func(*fake)
		fast   bool
	}{
		"fast":    {Options{CertName: pin}, serve(0, fast), true},
		"unasked": {Options{CertName: pin, NoFastStart: true}, serve(0, slow), false},
		"TLS 1.2": {Options{CertName: pin}, serve(tls.VersionTLS12, slow), false},
		"1.2 too": {Options{CertName: pin, TLS: &tls.Config{MaxVersion: tls.VersionTLS12}}, serve(0, slow), false},
	} {
		client, err := speakTLS(t, c.o, c.script)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if client.FastStarted() != c.fast || client.ServerKey() != serverPriv.Public() {
			t.Errorf("%s: fast start %v, relay %v", name, client.FastStarted(), client.ServerKey())
		}
		client.Close()
	}
	_, err := speakTLS(t, Options{CertName: pin}, serve(0, func(f *fake) {
		f.request()
		f.frame()
		f.greet(clientPriv.Public())
	}))
	if err == nil || !strings.Contains(err.Error(), "meta certificate says") {
		t.Errorf("greeted with another key: %v", err)
	}
}

// admitBefore reads the ClientInfo before it sends the greeting.
func (f *fake) admitBefore(server key.Public) {
	header, err := f.in.Peek(derp.HeaderSize)
	if err != nil {
		f.fail("no login behind the request: %v", err)
		return
	}
	_, n, _ := derp.ParseHeader(header)
	if _, err := f.in.Peek(derp.HeaderSize + int(n)); err != nil {
		f.fail("half a login behind the request: %v", err)
		return
	}
	f.greet(server)
	f.admit()
}

func TestMetaKey(t *testing.T) {
	good := derp.MetaCertPrefix + serverPubHex
	for name, c := range map[string]struct {
		version uint16
		cn      string
		serial  *big.Int
		want    bool
	}{
		"good":       {tls.VersionTLS13, good, big.NewInt(2), true},
		"largest":    {tls.VersionTLS13, good, big.NewInt(255), true},
		"too large":  {tls.VersionTLS13, good, big.NewInt(256), false},
		"huge":       {tls.VersionTLS13, good, new(big.Int).Lsh(big.NewInt(1), 64), false},
		"no version": {tls.VersionTLS13, good, big.NewInt(0), false},
		"TLS 1.2":    {tls.VersionTLS12, good, big.NewInt(2), false},
		"other name": {tls.VersionTLS13, "x" + good, big.NewInt(2), false},
		"zero key":   {tls.VersionTLS13, derp.MetaCertPrefix + strings.Repeat("0", 64), big.NewInt(2), false},
		"short key":  {tls.VersionTLS13, good[:len(good)-1], big.NewInt(2), false},
	} {
		leaf := &x509.Certificate{SerialNumber: big.NewInt(2)}
		m := &x509.Certificate{SerialNumber: c.serial}
		m.Subject.CommonName = c.cn
		k, ok := metaKey(tls.ConnectionState{Version: c.version, PeerCertificates: []*x509.Certificate{leaf, m}})
		if ok != c.want || ok && k != serverPriv.Public() {
			t.Errorf("%s: %v, %v", name, k, ok)
		}
	}
}

// TestWebSocket logs in through a WebSocket that, like derper's, takes no
// message above 32 KiB, and sends the largest packet both ways.
func TestWebSocket(t *testing.T) {
	packet := bytes.Repeat([]byte("x"), derp.MaxPacket)
	closed := make(chan websocket.StatusCode, 1)
	handler := func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"derp"}})
		if err != nil || r.URL.Path != "/derp" || r.Host != "relay.example" {
			t.Errorf("%s at %s: %v", r.URL, r.Host, err)
			return
		}
		conn := websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
		ws.SetReadLimit(32 << 10)
		f := &fake{conn, t, bufio.NewReader(conn)}
		f.greet(serverPriv.Public())
		f.admit()
		_, body := f.frame()
		f.put(string(derp.AppendRecvPacket(nil, clientPriv.Public(), body[key.Size:])))
		_, _, err = ws.Reader(context.Background())
		closed <- websocket.CloseStatus(err)
	}
	for name, server := range map[string]*httptest.Server{
		"plain": httptest.NewServer(http.HandlerFunc(handler)), "TLS": httptest.NewTLSServer(http.HandlerFunc(handler)),
	} {
		defer server.Close()
		o := Options{Host: "relay.example", Addr: server.Listener.Addr().String(), WebSocket: true, Key: clientPriv, Insecure: true, Plain: name == "plain"}
		c, err := Dial(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send(serverPriv.Public(), packet); err != nil {
			t.Fatal(err)
		}
		m, err := c.Recv()
		if p, ok := m.(Packet); err != nil || !ok || !bytes.Equal(p.Data, packet) {
			t.Errorf("%s: %T, %v", name, m, err)
		}
		if got, want := c.RemoteAddr().String(), server.Listener.Addr().String(); got != want {
			t.Errorf("%s: relay is at %v, not %v", name, got, want)
		}
		received := make(chan error)
		go func() { _, err := c.Recv(); received <- err }()
		c.Close()
		if err := <-received; err == nil {
			t.Errorf("%s: received something after Close", name)
		}
		if status := <-closed; status != websocket.StatusNormalClosure {
			t.Errorf("%s: closed with %v", name, status)
		}
	}
}

// TestWebSocketClose closes a WebSocket whose other end does not say goodbye.
func TestWebSocketClose(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"derp"}})
		if err != nil {
			t.Error(err)
			return
		}
		conn := websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
		f := &fake{conn, t, bufio.NewReader(conn)}
		f.greet(serverPriv.Public())
		f.admit()
		<-release
		ws.CloseNow()
	}))
	defer server.Close()
	defer close(release)
	c, err := Dial(t.Context(), Options{Host: "relay.example", Addr: server.Listener.Addr().String(), WebSocket: true, Plain: true})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	c.Close()
	if took := time.Since(start); took > 3*farewell { // the library alone waits for 5 seconds
		t.Errorf("closing took %v", took)
	}
}

func TestWebSocketRefused(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"no subprotocol": func(w http.ResponseWriter, r *http.Request) {
			if ws, err := websocket.Accept(w, r, nil); err == nil {
				ws.CloseRead(r.Context())
			}
		},
	} {
		server := httptest.NewServer(h)
		_, err := Dial(t.Context(), Options{Host: "relay.example", Addr: server.Listener.Addr().String(), WebSocket: true, Plain: true})
		if err == nil || !strings.Contains(err.Error(), "open a WebSocket") {
			t.Errorf("%s: %v", name, err)
		}
		server.Close()
	}
}

// FuzzRecv gives the client any stream behind the login.
func FuzzRecv(f *testing.F) {
	f.Add([]byte{})
	f.Add(unhex(f, serverInfoHex))
	f.Add(derp.AppendPing(derp.AppendRecvPacket(nil, key.Public{1}, []byte("x")), derp.PingData{}))
	f.Add(derp.AppendPeerPresent(derp.AppendPeerGone(nil, key.Public{1}, 0), derp.Presence{}))
	f.Add(derp.AppendRestarting(derp.AppendHealth(derp.AppendKeepAlive(nil), "x"), 1, 1))
	f.Add([]byte{5, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0x99, 0, 0, 0, 1, 2, 0x13, 0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8})
	shared, err := clientPriv.Shared(serverPriv.Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		defer theirs.Close()
		c := &Client{key: clientPriv, shared: shared, raw: ours, conn: ours, done: make(chan struct{})}
		c.in = bufio.NewReader(bytes.NewReader(stream))
		for range len(stream)/derp.HeaderSize + 1 {
			m, err := c.Recv()
			if err != nil {
				return
			}
			if p, ok := m.(Packet); ok && !bytes.Contains(stream, p.Data) {
				t.Errorf("packet %x is not in the stream", p.Data)
			}
		}
		t.Error("more messages than headers")
	})
}

// FuzzResponse gives the client any answer to its request for the upgrade.
func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\n\r\nrest"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 101\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReader(bytes.NewReader(b))
		if readResponse(in) != nil {
			return
		}
		rest, err := io.ReadAll(in)
		if err != nil || !bytes.HasSuffix(b, rest) {
			t.Fatalf("%x is left of %q, %v", rest, b, err)
		}
		if head := b[:len(b)-len(rest)]; !bytes.HasPrefix(head, []byte("HTTP/")) || !bytes.HasSuffix(head, []byte("\n")) || len(head) > maxHead {
			t.Errorf("%q was taken for the header", head)
		}
	})
}
