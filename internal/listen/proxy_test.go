package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// Bytes of the protocol's version 2, written out here so that the tests do not
// rest on the library that reads them.
const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	ipv4      = "\xc6\x33\x64\x07" + "\xcb\x00\x71\x01" + "\x12\x67" + "\x01\xbb" // 198.51.100.7:4711 to 203.0.113.1:443
	ipv6      = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x12\x67" + "\x01\xbb"
	client4, client6 = "198.51.100.7:4711", "[2001:db8::7]:4711"
	none             = "invalid AddrPort"
)

func v2(command, family byte, rest string) string {
	length := binary.BigEndian.AppendUint16(nil, uint16(len(rest)))
	return signature + string([]byte{command, family}) + string(length) + rest
}

// header is a header and what becomes of it: an address, or a part of the error.
type header struct{ name, raw, want string }

func (h header) good() bool { return h.want == none || h.want == client4 || h.want == client6 }

var headers = []header{
	{"v1 IPv4", "PROXY TCP4 198.51.100.7 203.0.113.1 4711 443\r\n", client4},
	{"v1 IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", client6},
	{"v1 unknown", "PROXY UNKNOWN\r\n", none},
	{"v1 unknown with addresses", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", none},
	{"v1 mapped", "PROXY TCP6 ::ffff:198.51.100.7 ::ffff:203.0.113.1 4711 443\r\n", client4},
	{"v1 UDP", "PROXY UDP4 198.51.100.7 203.0.113.1 4711 443\r\n", "read the PROXY header"},
	{"v1 bad address", "PROXY TCP4 198.51.100.777 203.0.113.1 4711 443\r\n", "read the PROXY header"},
	{"v1 bad port", "PROXY TCP4 198.51.100.7 203.0.113.1 99999 443\r\n", "read the PROXY header"},
	{"v1 line feed alone", "PROXY TCP4 198.51.100.7 203.0.113.1 4711 443\n" + strings.Repeat("x", 100), "without a line end"},
	{"v1 endless", "PROXY TCP4 " + strings.Repeat("1", 200), "without a line end"},
	{"v2 IPv4", v2(0x21, 0x11, ipv4), client4},
	{"v2 IPv6", v2(0x21, 0x21, ipv6), client6},
	{"v2 TLVs", v2(0x21, 0x11, ipv4+"\x01\x00\x02h2"+"\x02\x00\x0brelay.local"+"\x03\x00\x04abcd"), client4},
	{"v2 local", v2(0x20, 0x00, ""), none},
	{"v2 local with addresses", v2(0x20, 0x11, ipv4), none},
	{"v2 unspecified", v2(0x21, 0x00, ""), none},
	{"v2 unspecified with bytes", v2(0x21, 0x00, "whatever"), none},
	{"v2 unix", v2(0x21, 0x31, strings.Repeat("\x00", 216)), none},
	{"v2 datagram", v2(0x21, 0x12, ipv4), "datagram"},
	{"v2 all zero", v2(0x21, 0x11, strings.Repeat("\x00", 12)), none},
	{"v2 other version", v2(0x31, 0x11, ipv4), "read the PROXY header"},
	{"v2 other command", v2(0x22, 0x11, ipv4), "read the PROXY header"},
	{"v2 other family", v2(0x21, 0x41, ipv4), "read the PROXY header"},
	{"v2 short", v2(0x21, 0x21, ipv4), "read the PROXY header"},
	{"v2 huge", v2(0x21, 0x11, ipv4+strings.Repeat("\x04", maxAddress2)), "more than 4096 bytes"},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 40), "no PROXY header"},
	{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "no PROXY header"},
	{"v1 in lower case", "proxy TCP4 198.51.100.7 203.0.113.1 4711 443\r\n", "no PROXY header"},
	{"zeros", strings.Repeat("\x00", 64), "no PROXY header"},
}

func TestReadHeader(t *testing.T) {
	const rest = "\x16\x03\x01 the first record of TLS"
	for _, tt := range headers {
		for _, slow := range []bool{false, true} {
			in := strings.NewReader(tt.raw + rest)
			var r io.Reader = in
			if slow {
				r = iotest.OneByteReader(in)
			}
			from, err := readHeader(r)
			got := from.String()
			if err != nil {
				got = err.Error()
			}
			if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) {
				t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
			}
			if left, _ := io.ReadAll(in); err == nil && string(left) != rest {
				t.Errorf("%s: %q is left of what comes after the header", tt.name, left)
			}
		}
	}
}

func TestTruncatedHeader(t *testing.T) {
	for _, tt := range headers {
		if !tt.good() {
			continue
		}
		for n := range len(tt.raw) {
			_, err := readHeader(strings.NewReader(tt.raw[:n]))
			if err == nil || (n == 0) != errors.Is(err, errNothing) {
				t.Errorf("%s, cut to %d bytes: %v", tt.name, n, err)
			}
		}
	}
}

// proxyDoor serves on loopback; what comes from there must be a proxy's.
func proxyDoor(t *testing.T, o Options, handle Handler) *Door {
	t.Helper()
	d, err := Listen(t.Context(), "127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return d
}

func fromLoopback(o Options) Options {
	o.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	return o
}

// tellAddress answers with the client's address and what it sent.
func tellAddress(t *testing.T) Handler {
	return func(_ context.Context, c net.Conn, ready func(bool)) {
		defer c.Close()
		ready(false)
		if _, ok := c.(interface{ TCP() *net.TCPConn }); !ok {
			if _, ok := c.(*net.TCPConn); !ok {
				t.Errorf("a %T is no TCP connection to the relay", c)
			}
		}
		b := make([]byte, 5)
		n, _ := io.ReadFull(c, b)
		io.WriteString(c, c.RemoteAddr().String()+" "+string(b[:n]))
	}
}

// ask sends text in one segment and returns all that comes back.
func ask(t *testing.T, d *Door, text string) (answer, local string) {
	t.Helper()
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(c) // a reset is no answer either
	return string(b), c.LocalAddr().String()
}

func TestProxyHeaderAndDataInOneSegment(t *testing.T) {
	d := proxyDoor(t, fromLoopback(Options{}), tellAddress(t))
	for _, tt := range headers {
		got, local := ask(t, d, tt.raw+"hello")
		want := tt.want + " hello"
		switch {
		case tt.want == none:
			want = local + " hello"
		case !tt.good():
			want = ""
		}
		if got != want {
			t.Errorf("%s: %q, want %q", tt.name, got, want)
		}
	}
}

// TestSpoofedHeader comes from an address that is no proxy's: the header is data.
func TestSpoofedHeader(t *testing.T) {
	o := Options{Proxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("::/0")}}
	d := proxyDoor(t, o, tellAddress(t))
	if got, local := ask(t, d, headers[0].raw); got != local+" PROXY" {
		t.Errorf("%q, want the socket's own address and the header as data", got)
	}
	d = proxyDoor(t, o, func(ctx context.Context, c net.Conn, _ func(bool)) {
		defer c.Close()
		if err := tls.Server(c, &tls.Config{}).HandshakeContext(ctx); err == nil {
			t.Error("TLS took a PROXY header")
		}
	})
	ask(t, d, headers[0].raw+strings.Repeat("\x16", 100))
}

func TestSlowHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, part := range []string{"", "PROXY TCP4 198.51.100.7 203.0.113", signature + "\x21\x11\x00\x0c\x01"} {
			ours, theirs := net.Pipe()
			go func() {
				for _, b := range []byte(part) {
					theirs.Write([]byte{b})
				}
			}()
			began := time.Now()
			_, err := unveil(t.Context(), ours)
			if took := time.Since(began); took != headerLimit || err == nil {
				t.Errorf("%q: %v after %v", part, err, took)
			}
			ours.Close()
			theirs.Close()
			synctest.Wait()
		}
		ours, theirs := net.Pipe()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := unveil(ctx, ours); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at the door's end: %v", err)
		}
		ours.Close()
		theirs.Close()
	})
}

// TestClientsOfAProxyAreCountedApart: the bound for one source is the client's, not
// the proxy's.
func TestClientsOfAProxyAreCountedApart(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan string, 100)
	o := fromLoopback(Options{Limits: NewLimits(LimitOptions{Pending: 1})})
	d := proxyDoor(t, o, func(_ context.Context, c net.Conn, _ func(bool)) {
		defer c.Close()
		entered <- c.RemoteAddr().String()
		<-release
	})
	open := func(header string) net.Conn {
		c, err := net.Dial("tcp", d.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, header); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, ip := range []string{"198.51.100.1", "198.51.100.2", "198.51.100.3"} {
		open("PROXY TCP4 " + ip + " 203.0.113.1 1 443\r\n")
		if got := <-entered; got != ip+":1" {
			t.Errorf("entered %s, want %s", got, ip)
		}
	}
	second := open("PROXY TCP4 198.51.100.1 203.0.113.1 2 443\r\n")
	if b, err := io.ReadAll(second); len(b) > 0 || d.Stats().RefusedPending != 1 {
		t.Errorf("a second one of one client: %q, %v, %+v", b, err, d.Stats())
	}
	close(release)
}

func TestBadHeadersAreTold(t *testing.T) {
	var logs bytes.Buffer
	o := fromLoopback(Options{Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	d := proxyDoor(t, o, func(_ context.Context, c net.Conn, _ func(bool)) { c.Close() })
	for range 3 {
		ask(t, d, strings.Repeat("x", 20))
	}
	c, err := net.Dial("tcp", d.Addr().String()) // a check whether the port is open
	if err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	io.ReadAll(c)
	c.Close()
	if got := d.Stats().BadProxy; got != 3 {
		t.Errorf("bad_proxy = %d, want 3", got)
	}
	if got := logs.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "proxy_protocol") || !strings.Contains(got, "hint: ") {
		t.Errorf("logs:\n%s", got)
	}
}

func FuzzReadHeader(f *testing.F) {
	for _, tt := range headers {
		f.Add([]byte(tt.raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		in := bytes.NewReader(append(bytes.Clone(raw), "rest"...))
		from, err := readHeader(iotest.OneByteReader(in))
		used := len(raw) + len("rest") - in.Len()
		if err != nil && from.IsValid() || used > header2+maxAddress2 {
			t.Errorf("%d bytes read, %v, %v", used, from, err)
		}
		if ip := from.Addr(); ip.Is4In6() || err == nil && from.IsValid() && ip.IsUnspecified() {
			t.Errorf("the address %v", from)
		}
		if err != nil || used > len(raw) {
			return
		}
		// A header is whole by itself: what follows it changes nothing.
		again, err := readHeader(bytes.NewReader(raw[:used]))
		if err != nil || again != from {
			t.Errorf("%v with more behind it, %v, %v alone", from, again, err)
		}
	})
}
