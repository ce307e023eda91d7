package sni

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// helloOf returns the first bytes that a Go client sends.
func helloOf(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	var sent recorder
	first := &firstWrite{Conn: &sent}
	config.InsecureSkipVerify = true
	if err := tls.Client(first, config).Handshake(); err == nil || len(first.wrote) == 0 {
		t.Fatalf("no ClientHello: %v", err)
	}
	return first.wrote
}

type firstWrite struct {
	net.Conn
	wrote []byte
}

func (f *firstWrite) Write(p []byte) (int, error) {
	f.wrote = append(f.wrote, p...)
	return len(p), nil
}
func (f *firstWrite) Read([]byte) (int, error) { return 0, io.EOF }

// records cuts the handshake message of a ClientHello into records of n bytes.
func records(hello []byte, n int) []byte {
	var out []byte
	for body := hello[5:]; len(body) > 0; {
		part := body[:min(n, len(body))]
		out = append(append(out, hello[0], hello[1], hello[2], byte(len(part)>>8), byte(len(part))), part...)
		body = body[len(part):]
	}
	return out
}

// bytewise hands out one byte for each read.
type bytewise struct{ r io.Reader }

func (b bytewise) Read(p []byte) (int, error) { return b.r.Read(p[:1]) }

func TestPeek(t *testing.T) {
	plain := helloOf(t, &tls.Config{ServerName: "Site.Example.COM"})
	var long []string // ALPN makes a ClientHello large
	for range 240 {
		long = append(long, strings.Repeat("x", 255))
	}
	large := helloOf(t, &tls.Config{ServerName: "site.example.com", NextProtos: long})
	if len(large) < 60<<10 {
		t.Fatalf("the large ClientHello is %d bytes", len(large))
	}
	tests := []struct {
		name string
		in   []byte
		want string
	}{
		{"plain", plain, "site.example.com"},
		{"TLS 1.2", helloOf(t, &tls.Config{ServerName: "site.example.com", MaxVersion: tls.VersionTLS12}), "site.example.com"},
		{"no name", helloOf(t, &tls.Config{}), ""},
		{"an address is no name", helloOf(t, &tls.Config{ServerName: "192.0.2.1"}), ""},
		{"many records", records(plain, 40), "site.example.com"},
		{"large", large, "site.example.com"},
		{"more behind it", append(bytes.Clone(plain), "data"...), "site.example.com"},
		{"cut", plain[:len(plain)-1], ""},
		{"empty", nil, ""},
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: site.example.com\r\n\r\n"), ""},
		{"zeros", make([]byte, 1<<20), ""},
		{"an endless handshake message", bytes.Repeat([]byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, 20000), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(tt.in), bytewise{bytes.NewReader(tt.in)}} {
				name, ahead := peek(r)
				if name != tt.want {
					t.Errorf("name %q, want %q", name, tt.want)
				}
				if len(ahead) > maxHello || !bytes.HasPrefix(tt.in, ahead) {
					t.Errorf("%d bytes read, and not the first of the input, or more than %d", len(ahead), maxHello)
				}
			}
		})
	}
}

func FuzzPeek(f *testing.F) {
	f.Add(helloOf(f, &tls.Config{ServerName: "site.example.com"}))
	f.Add(records(helloOf(f, &tls.Config{ServerName: "site.example.com"}), 50))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, ahead := peek(bytes.NewReader(in)); len(ahead) > maxHello || !bytes.HasPrefix(in, ahead) {
			t.Errorf("%d bytes of %d, or others than were sent", len(ahead), len(in))
		}
	})
}

func TestLookup(t *testing.T) {
	r := New(Options{Own: "relay.example.com", Routes: []Route{
		{Name: "a.example.com", Addr: "1"},
		{Name: "*.example.com", Addr: "2"},
		{Name: "A.example.com.", Addr: "3"},
		{Name: "*.b.example.com", Addr: "4"},
		{Name: "*.example.com", Addr: "5"},
	}})
	for name, want := range map[string]string{
		"a.example.com": "1", "c.example.com": "2", "x.b.example.com": "4", "b.example.com": "2",
		"x.y.example.com": "", "example.com": "", ".example.com": "", "relay.example.com": "", "": "", "org": "",
	} {
		got := ""
		if route := r.lookup(name); route != nil {
			got = route.Addr
		}
		if got != want {
			t.Errorf("%q goes to %q, want %q", name, got, want)
		}
	}
}

// site is a TLS server that sends back what it reads, until the end.
type site struct {
	net.Listener
	conns sync.WaitGroup
}

func newSite(t *testing.T, wrap func(net.Listener) net.Listener) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Listener: l}
	config := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	accepting := l
	if wrap != nil {
		accepting = wrap(l)
	}
	s.conns.Go(func() {
		for {
			c, err := accepting.Accept()
			if err != nil {
				return
			}
			s.conns.Go(func() {
				defer c.Close()
				echo := tls.Server(c, config)
				_, _ = io.WriteString(echo, c.RemoteAddr().String()+"\n")
				_, _ = io.Copy(echo, echo)
				_ = echo.CloseWrite()
			})
		}
	})
	t.Cleanup(func() { l.Close(); s.conns.Wait() })
	return s
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// door gives one connection to the router, as the relay does.
type door struct {
	client net.Conn
	ready  chan struct{}
	done   chan struct{} // closed when forward has returned
	ahead  []byte
	taken  bool
}

func (d *door) ended(t *testing.T) {
	t.Helper()
	select {
	case <-d.done:
	case <-time.After(time.Minute):
		t.Fatal("the connection does not end")
	}
}

func open(ctx context.Context, t *testing.T, r *Router) *door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = client.SetDeadline(time.Now().Add(time.Minute)) // a failing test must end
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	d := &door{client: client, ready: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(d.done)
		defer raw.Close()
		ahead, forward := r.Look(raw)
		if d.ahead, d.taken = ahead, forward != nil; d.taken {
			forward(ctx, func() { close(d.ready) })
		}
	}()
	t.Cleanup(func() { client.Close(); d.ended(t) })
	return d
}

func TestForward(t *testing.T) {
	s := newSite(t, nil)
	r := New(Options{Routes: []Route{{Name: "site.example.com", Network: "tcp", Addr: s.Addr().String()}}})
	d := open(t.Context(), t, r)
	c := tls.Client(d.client, &tls.Config{ServerName: "site.example.com", InsecureSkipVerify: true})
	in := bufio.NewReader(c)
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	<-d.ready
	big := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	go func() {
		_, _ = c.Write(big)
		_ = c.CloseWrite()
		_ = d.client.(*net.TCPConn).CloseWrite()
	}()
	back, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(back, big) {
		t.Errorf("%d bytes came back, want %d: %v", len(back), len(big), err)
	}
	d.ended(t)
	st := r.Stats()
	if st.Routed != 1 || st.Failed != 0 || st.Open != 0 || st.BytesClients < uint64(len(big)) || st.BytesTargets < uint64(len(big)) {
		t.Errorf("stats %+v", st)
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	r := New(Options{Routes: []Route{{Name: "site.example.com", Network: "tcp", Addr: "127.0.0.1:1"}}})
	d := open(t.Context(), t, r)
	hello := helloOf(t, &tls.Config{ServerName: "relay.example.com"})
	if _, err := d.client.Write(hello); err != nil {
		t.Fatal(err)
	}
	if d.ended(t); d.taken || !bytes.Equal(d.ahead, hello) {
		t.Errorf("taken %v with %d bytes, want %d", d.taken, len(d.ahead), len(hello))
	}
}

func TestTheTargetLearnsTheClient(t *testing.T) {
	s := newSite(t, func(l net.Listener) net.Listener {
		return &proxyproto.Listener{Listener: l, ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			return proxyproto.REQUIRE, nil
		}}
	})
	r := New(Options{Routes: []Route{{Name: "*.example.com", Network: "tcp", Addr: s.Addr().String(), ProxyV2: true}}})
	d := open(t.Context(), t, r)
	c := tls.Client(d.client, &tls.Config{ServerName: "any.example.com", InsecureSkipVerify: true})
	seen, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || strings.TrimSpace(seen) != d.client.LocalAddr().String() {
		t.Errorf("the site sees %q, want %s: %v", seen, d.client.LocalAddr(), err)
	}
}

func TestTheEndOfContextEndsIt(t *testing.T) {
	s := newSite(t, nil)
	r := New(Options{Routes: []Route{{Name: "site.example.com", Network: "tcp", Addr: s.Addr().String()}}})
	ctx, cancel := context.WithCancel(t.Context())
	d := open(ctx, t, r)
	c := tls.Client(d.client, &tls.Config{ServerName: "site.example.com", InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	cancel()
	d.ended(t)
}

func TestTargetThatIsDown(t *testing.T) {
	var log bytes.Buffer
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody listens there now
	r := New(Options{
		Routes: []Route{{Name: "site.example.com", Network: "tcp", Addr: l.Addr().String()}},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	for range 3 {
		d := open(t.Context(), t, r)
		if _, err := d.client.Write(helloOf(t, &tls.Config{ServerName: "site.example.com"})); err != nil {
			t.Fatal(err)
		}
		if _, err := d.client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the client reads: %v", err)
		}
		d.ended(t)
	}
	if st := r.Stats(); st.Failed != 3 || strings.Count(log.String(), "hint=") != 1 {
		t.Errorf("stats %+v, log:\n%s", st, &log)
	}
}

// More than so many at once are closed, and one that ends makes room.
func TestTooManyAtOnce(t *testing.T) {
	s := newSite(t, nil)
	r := New(Options{Routes: []Route{{Name: "site.example.com", Network: "tcp", Addr: s.Addr().String()}}, Most: 2})
	handshake := func() (*door, error) {
		d := open(t.Context(), t, r)
		return d, tls.Client(d.client, &tls.Config{ServerName: "site.example.com", InsecureSkipVerify: true}).Handshake()
	}
	first, err := handshake()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := handshake(); err != nil {
		t.Fatal(err)
	}
	third, err := handshake()
	if err == nil {
		t.Error("a third is handed on")
	}
	third.ended(t)
	if st := r.Stats(); st.RefusedFull != 1 || st.Routed != 3 || st.Open != 2 || st.Failed != 0 {
		t.Errorf("stats %+v", st)
	}
	first.client.Close()
	first.ended(t)
	if _, err := handshake(); err != nil {
		t.Errorf("after one has gone: %v", err)
	}
}
