package web

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/derp"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// from is a connection that comes from an address.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

func TestClientAddress(t *testing.T) {
	proxies := Proxies{From: prefixes("10.0.0.0/8", "2001:db8:1::/48")}
	const proxy, stranger = "10.0.0.1:4000", "203.0.113.5:5000"
	tests := []struct {
		name, from   string
		forwarded    []string
		realIP, want string
	}{
		{name: "no header", from: proxy, want: proxy},
		{name: "one", from: proxy, forwarded: []string{"192.0.2.1"}, want: "192.0.2.1:0"},
		{name: "spoofed by the client", from: proxy, forwarded: []string{"198.51.100.9, 192.0.2.1"}, want: "192.0.2.1:0"},
		{name: "spoofed as a proxy", from: proxy, forwarded: []string{"10.9.9.9, 192.0.2.1"}, want: "192.0.2.1:0"},
		{name: "two proxies", from: proxy, forwarded: []string{"198.51.100.9, 192.0.2.1, 10.1.1.1"}, want: "192.0.2.1:0"},
		{name: "two headers", from: proxy, forwarded: []string{"198.51.100.9", "192.0.2.1", " 10.1.1.1 "}, want: "192.0.2.1:0"},
		{name: "all are proxies", from: proxy, forwarded: []string{"10.2.2.2,10.1.1.1"}, want: "10.2.2.2:0"},
		{name: "bad", from: proxy, forwarded: []string{"unknown"}, want: proxy},
		{name: "bad behind a proxy", from: proxy, forwarded: []string{"192.0.2.1, _hidden, 10.1.1.1"}, want: "10.1.1.1:0"},
		{name: "empty entry", from: proxy, forwarded: []string{"192.0.2.1,"}, want: proxy},
		{name: "zone", from: proxy, forwarded: []string{"fe80::1%eth0"}, want: proxy},
		{name: "unspecified", from: proxy, forwarded: []string{"0.0.0.0"}, want: proxy},
		{name: "port", from: proxy, forwarded: []string{"192.0.2.1:123"}, want: "192.0.2.1:123"},
		{name: "IPv6", from: proxy, forwarded: []string{"2001:db8::5"}, want: "[2001:db8::5]:0"},
		{name: "IPv6 in brackets", from: proxy, forwarded: []string{"[2001:db8::5]"}, want: "[2001:db8::5]:0"},
		{name: "IPv6 with a port", from: proxy, forwarded: []string{"[2001:db8::5]:99"}, want: "[2001:db8::5]:99"},
		{name: "mapped", from: proxy, forwarded: []string{"::ffff:192.0.2.1"}, want: "192.0.2.1:0"},
		{name: "mapped proxy", from: "[::ffff:10.0.0.1]:4000", forwarded: []string{"192.0.2.1, ::ffff:10.1.1.1"}, want: "192.0.2.1:0"},
		{name: "IPv6 proxy", from: "[2001:db8:1::9]:1", forwarded: []string{"192.0.2.1"}, want: "192.0.2.1:0"},
		{name: "real IP", from: proxy, realIP: "192.0.2.1", want: "192.0.2.1:0"},
		{name: "bad real IP", from: proxy, realIP: "192.0.2", want: proxy},
		{name: "real IP counts less", from: proxy, forwarded: []string{"192.0.2.1"}, realIP: "192.0.2.2", want: "192.0.2.1:0"},
		{name: "stranger", from: stranger, forwarded: []string{"192.0.2.1"}, realIP: "192.0.2.2", want: stranger},
		{name: "IPv6 stranger", from: "[2001:db8:2::9]:1", forwarded: []string{"192.0.2.1"}, want: "[2001:db8:2::9]:1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			for _, v := range tt.forwarded {
				h.Add("X-Forwarded-For", v)
			}
			if tt.realIP != "" {
				h.Set("X-Real-IP", tt.realIP)
			}
			c := from{addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.from))}
			if got := proxies.client(c, viaOf(h)); got.String() != tt.want {
				t.Errorf("%v, want %s", got, tt.want)
			}
		})
	}
}

func TestClientAddressOverUnix(t *testing.T) {
	c := from{addr: &net.UnixAddr{Net: "unix"}}
	v := via{forwarded: "192.0.2.1"}
	if got := (Proxies{Unix: true}).client(c, v); got.String() != "192.0.2.1:0" {
		t.Errorf("trusted: %v", got)
	}
	if got := (Proxies{From: prefixes("0.0.0.0/0", "::/0")}).client(c, v); got.IsValid() {
		t.Errorf("not trusted: %v", got)
	}
	if got := (Proxies{Unix: true}).client(from{addr: nil}, v); got.IsValid() {
		t.Errorf("no address at all: %v", got)
	}
}

// Over every way in, the relay is told the client of a trusted proxy, and nothing
// that a stranger says.
func TestRelaySeesTheClient(t *testing.T) {
	const said = "X-Forwarded-For: 192.0.2.66, 192.0.2.1\r\n"
	for _, trusted := range []bool{true, false} {
		var o Options
		if trusted {
			o.Proxies.From = prefixes("127.0.0.0/8")
		}
		b := newBed(t, o)
		check := func(t *testing.T, client net.Conn) {
			t.Helper()
			want := client.LocalAddr().String()
			if trusted {
				want = "192.0.2.1:0"
			}
			if got := (<-b.relay.conns).Addr.String(); got != want {
				t.Errorf("trusted %v: the relay sees %s, want %s", trusted, got, want)
			}
		}
		raw := b.tcp()
		write1(t, raw, "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\n"+said+"\r\nend\n")
		check(t, raw)
		second := b.tcp() // to net/http first
		write1(t, second, "GET /derp/probe HTTP/1.1\r\nHost: x\r\n\r\nGET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\n"+said+"\r\nend\n")
		check(t, second)
		ws := b.tcp()
		write1(t, ws, strings.Join([]string{
			"GET /derp HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
			"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Protocol: " + derp.WebSocketProtoID, said + "\r\n",
		}, "\r\n"))
		check(t, ws)
		ws.Close()
	}
}
