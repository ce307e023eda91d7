package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relaytest"
	"github.com/detour-relay/detour/internal/stun"
)

const relayName = "relay.test"

// names is a Resolver. A name that is not in it does not exist.
type names map[string][]netip.Addr

func (n names) LookupNetIP(_ context.Context, network, host string) (list []netip.Addr, err error) {
	for _, a := range n[host] {
		if a.Is4() == (network == "ip4") {
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return list, nil
}

// sick builds one relay and how it is looked at. What it starts with is well: a
// closed relay like derper, with a token that opens it, and STUN.
type sick struct {
	t     *testing.T
	auth  *relaytest.Authority
	relay *relaytest.Fake
	o     DoctorOptions
	node  *derpmap.Node
	dials map[string]string // where an address really leads; "" is where nobody answers
}

func newSick(t *testing.T, auth *relaytest.Authority) *sick {
	s := &sick{t: t, auth: auth, dials: map[string]string{}}
	token := NewToken()
	token.Until = time.Now().Add(20 * 365 * day)
	private := key.NewPrivate()
	token.Relay = private.Public()
	s.relay = &relaytest.Fake{Key: private, Certificate: auth.Issue(relaytest.Issued{Names: []string{relayName, "127.0.0.1"}})}
	s.relay.Refuses = func(k key.Public) bool { return k != token.Keys[0].Public() && k != token.Keys[1].Public() }
	s.node = &derpmap.Node{Name: "900a", RegionID: 900, HostName: relayName, IPv4: "127.0.0.1", IPv6: "none"}
	s.o = DoctorOptions{
		Node: s.node, Known: true, Token: &token,
		World: World{Roots: auth.Roots(), Resolver: names{relayName: {netip.MustParseAddr("127.0.0.1")}}},
	}
	s.o.World.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if to, ok := s.dials[addr]; ok {
			if addr = to; to == "" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	return s
}

// start starts what has not been started, and fills in the ports.
func (s *sick) start() {
	if s.node.DERPPort == 0 {
		s.node.DERPPort = s.relay.Start(s.t)
	}
	if s.node.STUNPort == 0 {
		s.node.STUNPort = relaytest.FakeSTUN(s.t, stun.Tailscale, func(from netip.AddrPort) netip.AddrPort { return from })
	}
}

// pinned gives the relay a certificate of its own, and the map its pin.
func (s *sick) pinned(i relaytest.Issued) {
	i.SelfSigned = true
	if i.Names == nil {
		i.Names = []string{relayName}
	}
	s.relay.Certificate = s.auth.Issue(i)
	s.node.CertName = relaytest.Pin(s.relay.Certificate)
}

func (s *sick) issue(i relaytest.Issued) {
	if i.Names == nil {
		i.Names = []string{relayName}
	}
	s.relay.Certificate = s.auth.Issue(i)
}

// port80 has somebody answer on port 80.
func (s *sick) port80(answer func(*http.Request) string) {
	s.node.CanPort80 = true
	site := &relaytest.Fake{Plain: true, Answer: answer}
	s.dials["127.0.0.1:80"] = net.JoinHostPort("127.0.0.1", strconv.Itoa(site.Start(s.t)))
}

func always(answer string) func(*http.Request) string {
	return func(*http.Request) string { return answer }
}

// derpOnly is an answer to requests for the upgrade alone.
func derpOnly(answer string) func(*http.Request) string {
	return func(r *http.Request) string {
		if r.URL.Path == "/derp" {
			return answer
		}
		return ""
	}
}

func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// hello reads a ClientHello and reports whether it holds a name.
func readHello(c net.Conn, name string) bool {
	b := make([]byte, 4096)
	n, err := c.Read(b)
	return err == nil && bytes.Contains(b[:n], []byte(name))
}

// broken are relays that are broken in one way each, and what must be found first.
// Those that begin with "well:" have nothing wrong, and the note is among the rest.
var broken = []struct {
	name  string
	build func(s *sick)
	want  string
}{
	{"well: like derper", func(*sick) {}, "fast.good"},
	{"well: like Headscale's own", func(s *sick) { s.relay.NoMeta, s.relay.TypedKey = true, true }, "fast.none"},
	{"well: closed, without a token", func(s *sick) { s.o.Token = nil }, "relay.closed"},
	{"well: pinned", func(s *sick) { s.pinned(relaytest.Issued{NotAfter: time.Now().Add(3650 * day)}) }, "trust.pin"},
	{"well: by its address", func(s *sick) { s.node.HostName = "127.0.0.1" }, "dns.literal"},
	{"well: STUN for everybody", func(s *sick) {
		s.node.STUNPort = relaytest.FakeSTUN(s.t, stun.RFC, func(from netip.AddrPort) netip.AddrPort { return from })
	}, "stun.rfc"},
	{"well: without STUN", func(s *sick) { s.node.STUNPort = -1 }, "stun.off"},
	{"well: keepalive", func(s *sick) { s.o.Long, s.o.LongWait, s.relay.KeepAlive = true, 20*time.Second, 50*time.Millisecond }, "keepalive.good"},
	{"well: keepalive, by a relay that lets probes in for a while", func(s *sick) {
		s.o.Token, s.o.Long, s.o.LongWait = nil, true, 3*time.Second
		again := make(chan struct{}) // keepalives come when the probes were let in once more
		var invited sync.Map
		closing := sync.OnceFunc(func() { close(again) })
		s.relay.KeepAliveWhen = again
		s.relay.Refuses = func(k key.Public) bool { _, ok := invited.Load(k); return !ok }
		s.o.Invite = func(_ context.Context, keys []key.Public) error {
			for _, k := range keys {
				if _, before := invited.LoadOrStore(k, true); before {
					closing()
				}
			}
			return nil
		}
	}, "keepalive.good"},
	{"well: port 80", func(s *sick) {
		s.port80(func(r *http.Request) string {
			return relaytest.Says(204, "", "X-Tailscale-Response: response "+r.Header.Get("X-Tailscale-Challenge"))
		})
	}, "portal.good"},
	{"well: Date", func(s *sick) { s.relay.Date = time.Now }, "clock.good"},
	{"well: plain HTTP behind a proxy", func(s *sick) { s.relay.Plain, s.o.Plain = true, true }, "tls.plain_wanted"},
	{"well: a member", func(s *sick) {
		s.o.Member, s.o.Vouch = key.NewPrivate().Public(), func(context.Context, key.Public) (bool, error) { return true, nil }
	}, "member.in"},

	{"open", func(s *sick) { s.relay.Refuses, s.o.Token = nil, nil }, "admission.open"},
	{"another pin", func(s *sick) {
		s.pinned(relaytest.Issued{})
		s.node.CertName = derpmap.PinPrefix + strings.Repeat("ab", 32)
	}, "trust.other_pin"},
	{"upper-case pin", func(s *sick) {
		s.pinned(relaytest.Issued{})
		s.node.CertName = derpmap.PinPrefix + strings.ToUpper(strings.TrimPrefix(s.node.CertName, derpmap.PinPrefix))
	}, "map.pin_case"},
	{"a pin that was cut", func(s *sick) { s.pinned(relaytest.Issued{}); s.node.CertName = s.node.CertName[:40] }, "map.pin"},
	{"IPv6 address on 443", func(s *sick) { s.node.HostName, s.node.DERPPort = "2001:db8::1", 443 }, "map.ipv6"},
	{"nothing is checked", func(s *sick) { s.node.InsecureForTests = true }, "map.insecure"},
	{"pinned, with an intermediate", func(s *sick) { s.issue(relaytest.Issued{}); s.node.CertName = relaytest.Pin(s.relay.Certificate) }, "trust.several"},
	{"pinned, for another name", func(s *sick) { s.pinned(relaytest.Issued{Names: []string{"other.test"}}) }, "trust.name"},
	{"self-signed, not pinned", func(s *sick) { s.pinned(relaytest.Issued{}); s.node.CertName = "" }, "trust.unpinned"},
	{"self-signed, at a URL", func(s *sick) { s.pinned(relaytest.Issued{}); s.node.CertName, s.o.Known = "", false }, "trust.needs_pin"},
	{"expired", func(s *sick) { s.issue(relaytest.Issued{NotAfter: time.Now().Add(-time.Hour)}) }, "tls.expired"},
	{"expired pin", func(s *sick) { s.pinned(relaytest.Issued{NotAfter: time.Now().Add(-time.Hour)}) }, "tls.expired"},
	{"not yet valid", func(s *sick) { s.issue(relaytest.Issued{NotBefore: time.Now().Add(day)}) }, "tls.not_yet"},
	{"renewed too late", func(s *sick) { s.issue(relaytest.Issued{NotAfter: time.Now().Add(day)}) }, "renewal.late"},
	{"a pin that ends soon", func(s *sick) {
		s.pinned(relaytest.Issued{NotBefore: time.Now().Add(-3600 * day), NotAfter: time.Now().Add(30 * day)})
	}, "renewal.pin"},
	{"another name", func(s *sick) { s.issue(relaytest.Issued{Names: []string{"other.test"}}) }, "trust.name"},
	{"an address that the certificate is not for", func(s *sick) {
		s.issue(relaytest.Issued{Names: []string{"other.test"}})
		s.node.HostName = "127.0.0.1"
	}, "trust.address_unnamed"},
	{"no intermediate", func(s *sick) { s.issue(relaytest.Issued{Alone: true}) }, "trust.no_chain"},
	{"an authority that nobody knows", func(s *sick) { s.o.World.Roots = relaytest.NewAuthority(s.t).Roots() }, "trust.unknown"},
	{"another's meta certificate", func(s *sick) { s.relay.Meta = key.NewPrivate().Public() }, "fast.other"},
	{"TLS 1.2 alone", func(s *sick) { s.relay.ServeTLS = func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 } }, "tls.old"},
	{"TLS 1.1 alone", func(s *sick) {
		s.relay.ServeTLS = func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }
	}, "tls.version"},
	{"cut off by name", func(s *sick) {
		s.relay.Accept = func(c net.Conn) bool {
			// The ClientHello is looked at and put back: by a relay behind this one.
			return filter(s, c, relayName)
		}
	}, "tls.reset_name"},
	{"cut off by any name", func(s *sick) { s.relay.Accept = func(c net.Conn) bool { readHello(c, ""); reset(c); return true } }, "tls.reset"},
	{"a name that it does not know", func(s *sick) {
		s.relay.ServeTLS = func(c *tls.Config) {
			c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				if h.ServerName == relayName {
					return nil, errors.New("unknown name")
				}
				return nil, nil
			}
		}
	}, "tls.refused_name"},
	{"plain HTTP on the TLS port", func(s *sick) { s.relay.Plain = true }, "tls.http"},
	{"TLS on a plain port", func(s *sick) {
		live := relaytest.Live(s.t, relaytest.Everybody)
		s.node.DERPPort, s.o.Plain, s.o.Known = live.DERPPort, true, false
	}, "http.wants_tls"},
	{"another port", func(s *sick) {
		s.relay.Accept = func(c net.Conn) bool {
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.6\r\n")
			readHello(c, "")
			return true
		}
	}, "tls.other"},
	{"says nothing", func(s *sick) { s.relay.Accept = func(c net.Conn) bool { _, _ = io.Copy(io.Discard, c); return true } }, "tls.silent"},
	{"says nothing behind TLS", func(s *sick) { s.relay.Answer = func(r *http.Request) string { <-s.t.Context().Done(); return "" } }, "http.silent"},
	{"no greeting", func(s *sick) { s.relay.NoGreeting = true }, "http.no_greeting"},
	{"nobody listens", func(s *sick) { s.node.DERPPort = closedPort(s.t) }, "tcp.refused"},
	{"a firewall", func(s *sick) { s.node.DERPPort = 443; s.dials["127.0.0.1:443"] = "" }, "tcp.silent"},
	{"no address", func(s *sick) { s.node.IPv4, s.node.IPv6, s.o.World.Resolver = "", "", names{} }, "dns.none"},
	{"both families off", func(s *sick) { s.node.IPv4 = "none" }, "dns.off"},
	{"another address", func(s *sick) { s.o.World.Resolver = names{relayName: {netip.MustParseAddr("192.0.2.9")}} }, "dns.differs"},
	{"IPv6 broken", func(s *sick) {
		s.node.IPv6, s.node.STUNPort = "::1", -1
		s.start()
		s.dials[net.JoinHostPort("::1", strconv.Itoa(s.node.DERPPort))] = ""
	}, "tcp.half"},
	{"two relays", func(s *sick) { s.relay.OtherKeys = []key.Private{key.NewPrivate()} }, "derp.two_keys"},
	{"published where it is not reached from here", func(s *sick) {
		s.node.IPv4, s.o.World.Resolver, s.node.STUNPort = "192.0.2.9", names{}, -1
		s.start()
		s.dials[net.JoinHostPort("192.0.2.9", strconv.Itoa(s.node.DERPPort))] = ""
		s.o.Local = &Local{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.node.DERPPort)), Version: "1"}
	}, "tcp.hairpin"},

	{"Upgrade eaten", func(s *sick) { s.relay.Eats = []string{"Upgrade"} }, "http.ate_upgrade"},
	{"Connection eaten", func(s *sick) { s.relay.Eats = []string{"Connection"} }, "http.ate_connection"},
	{"Connection eaten on the way back", func(s *sick) { s.relay.EatsBack = []string{"Connection"} }, "http.answer_ate"},
	{"WebSocket alone", func(s *sick) {
		s.relay.Answer = func(r *http.Request) string {
			switch {
			case r.URL.Path != "/derp":
				return ""
			case r.Header.Get("Upgrade") == "websocket":
				return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
			}
			return relaytest.Says(426, "")
		}
	}, "http.websocket_only"},
	{"redirected", func(s *sick) { s.relay.Answer = derpOnly(relaytest.Says(301, "", "Location: https://www.test/")) }, "http.redirect"},
	{"a login page", func(s *sick) { s.relay.Answer = derpOnly(relaytest.Says(403, "no")) }, "http.forbidden"},
	{"a proxy without a relay", func(s *sick) { s.relay.Answer = always(relaytest.Says(502, "", "Server: nginx")) }, "http.gateway"},
	{"another site", func(s *sick) { s.relay.Answer = always(relaytest.Says(200, "<html>Welcome")) }, "http.site"},
	{"cut off at the request", func(s *sick) { s.relay.Answer = always("x") }, "http.broken"},
	{"an upgrade to something else", func(s *sick) {
		s.relay.NoMeta = true
		s.relay.Answer = derpOnly("HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\nhello, this is not a relay")
	}, "http.bad_greeting"},
	{"clocks apart", func(s *sick) { s.relay.Date = func() time.Time { return time.Now().Add(-time.Hour) } }, "clock.off"},
	{"our clock ahead", func(s *sick) {
		s.relay.Date = time.Now
		s.o.World.Now = func() time.Time { return time.Now().Add(365 * day) }
	}, "clock.ours"},

	{"login hangs", func(s *sick) { s.relay.Silent, s.relay.Refuses = true, nil }, "login.silent"},
	{"cut off behind the login", func(s *sick) { s.relay.CutsAfter, s.relay.Refuses, s.o.Token = true, nil, nil }, "login.cut"},
	{"forwards nothing", func(s *sick) { s.relay.Forward = func(_, _ key.Public, p []byte) ([]byte, bool) { return p, false } }, "relay.nothing"},
	{"forwards one way", func(s *sick) {
		s.relay.Forward = func(from, _ key.Public, p []byte) ([]byte, bool) { return p, from == s.o.Token.Keys[0].Public() }
	}, "relay.one_way"},
	{"corrupts", func(s *sick) {
		s.relay.Forward = func(_, _ key.Public, p []byte) ([]byte, bool) { p[0]++; return p, true }
	}, "relay.corrupt"},
	{"drops large packets", func(s *sick) {
		s.relay.Forward = func(_, _ key.Public, p []byte) ([]byte, bool) { return p, len(p) < 1500 }
	}, "relay.too_large"},
	{"drops disco packets", func(s *sick) {
		s.relay.Forward = func(_, _ key.Public, p []byte) ([]byte, bool) { return p, !bytes.HasPrefix(p, []byte(discoMagic)) }
	}, "relay.no_disco"},
	{"no pongs", func(s *sick) { s.relay.NoPongs = true }, "ping.silent"},
	{"says that it is unwell", func(s *sick) { s.relay.Health = "out of memory" }, "ping.health"},
	{"no keepalive", func(s *sick) { s.o.Long, s.o.LongWait = true, 300*time.Millisecond }, "keepalive.none"},
	{"a token whose time is over", func(s *sick) { s.o.Token.Until = time.Now().Add(-time.Minute) }, "relay.token_over"},
	{"a token that was taken back", func(s *sick) { s.relay.Refuses = func(key.Public) bool { return true } }, "relay.refused"},
	{"another relay's token", func(s *sick) { s.o.Token.Relay = key.NewPrivate().Public() }, "derp.other_relay"},
	{"nobody to let probes in", func(s *sick) {
		s.o.Token, s.o.Invite = nil, func(context.Context, []key.Public) error { return errors.New("no socket") }
	}, "relay.not_invited"},
	{"a node that is not admitted", func(s *sick) {
		s.o.Member, s.o.Vouch = key.NewPrivate().Public(), func(context.Context, key.Public) (bool, error) { return false, nil }
	}, "member.refused"},

	{"UDP dropped", func(s *sick) {
		s.node.STUNPort = deafPort(s.t)
	}, "stun.silent"},
	{"UDP dropped, at a URL", func(s *sick) {
		s.o.Known = false
		s.node.STUNPort = deafPort(s.t)
	}, "stun.unknown"},
	{"STUN behind Docker's bridge", func(s *sick) {
		s.node.STUNPort = relaytest.FakeSTUN(s.t, stun.Tailscale, func(from netip.AddrPort) netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr("172.17.0.1"), from.Port())
		})
	}, "stun.translated"},
	{"STUN where it is not reached from here", func(s *sick) {
		s.node.STUNPort = relaytest.FakeSTUN(s.t, stun.Tailscale, func(from netip.AddrPort) netip.AddrPort { return from })
		here := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.node.STUNPort))
		s.node.STUNTestIP = "192.0.2.9"
		s.dials[net.JoinHostPort("192.0.2.9", strconv.Itoa(s.node.STUNPort))] = net.JoinHostPort("127.0.0.1", strconv.Itoa(deafPort(s.t)))
		s.o.Local = &Local{STUN: here}
	}, "stun.hairpin"},
	{"another site on port 80", func(s *sick) { s.port80(always(relaytest.Says(200, "hello"))) }, "portal.wrong"},
	{"port 80 closed", func(s *sick) {
		s.node.CanPort80 = true
		s.dials["127.0.0.1:80"] = net.JoinHostPort("127.0.0.1", strconv.Itoa(closedPort(s.t)))
	}, "portal.failed"},
	{"port 80 without an address", func(s *sick) { s.node.CanPort80, s.node.IPv4 = true, "" }, "portal.no_ipv4"},

	{"not running", func(s *sick) {
		s.o.Local = &Local{Down: errors.New("cannot ask the relay")}
		s.node.DERPPort = closedPort(s.t)
	}, "local.down"},
	{"unwell", func(s *sick) { s.o.Local = &Local{Problems: []string{"the certificate expires"}} }, "local.unwell"},
	{"few files", func(s *sick) {
		s.host(map[string]string{"proc/7/limits": "Limit  Soft\nMax open files  1024  4096  files\n"})
	}, "host.files"},
	{"short backlog", func(s *sick) { s.host(map[string]string{"proc/sys/net/core/somaxconn": "128\n"}) }, "host.backlog"},
	{"small buffers", func(s *sick) {
		s.host(map[string]string{"proc/sys/net/ipv4/tcp_rmem": "4096 131072 262144\n", "proc/sys/net/ipv4/tcp_wmem": "4096 16384 4194304\n"})
	}, "host.buffers"},
	{"full table of connections", func(s *sick) {
		s.host(map[string]string{"proc/sys/net/netfilter/nf_conntrack_count": "65000\n", "proc/sys/net/netfilter/nf_conntrack_max": "65536\n"})
	}, "host.conntrack"},
	{"well: a host with everything", func(s *sick) {
		s.host(map[string]string{
			"proc/7/limits": "Max open files  65536  65536  files\n", "proc/sys/net/core/somaxconn": "4096\n",
			"proc/sys/net/ipv4/tcp_rmem": "4096 131072 6291456\n", "proc/sys/net/ipv4/tcp_wmem": "4096 16384 4194304\n",
			"proc/sys/net/netfilter/nf_conntrack_count": "12\n", "proc/sys/net/netfilter/nf_conntrack_max": "65536\n",
		})
	}, "host.files_good"},
}

// host makes the relay one of this host, with these files of the kernel's.
func (s *sick) host(files map[string]string) {
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	s.o.Local = &Local{Version: "1", PID: 7, Root: fs.FS(root)}
}

// closedPort is a port that nobody listens at.
func closedPort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// deafPort is a UDP port that answers nobody.
func deafPort(t *testing.T) int {
	return relaytest.FakeSTUN(t, stun.Tailscale, func(netip.AddrPort) netip.AddrPort { return netip.AddrPort{} })
}

// filter cuts a connection off whose first bytes hold name, and hands others on to
// a second relay that is like the first.
func filter(s *sick, c net.Conn, name string) bool {
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil || bytes.Contains(b[:n], []byte(name)) {
		reset(c)
		return true
	}
	secure := tls.Server(&ahead{Conn: c, first: b[:n]}, &tls.Config{Certificates: []tls.Certificate{s.relay.Certificate}})
	_ = secure.Handshake() // that it ends well is all that is asked
	return true
}

// ahead is a connection of which something was read.
type ahead struct {
	net.Conn
	first []byte
}

func (a *ahead) Read(b []byte) (int, error) {
	if len(a.first) > 0 {
		n := copy(b, a.first)
		a.first = a.first[n:]
		return n, nil
	}
	return a.Conn.Read(b)
}

// isFound reports whether a diagnosis has what is wanted of a case.
func isFound(d Diagnosis, name, want string) bool {
	first := slices.IndexFunc(d.Findings, func(f Finding) bool { return f.State == Warned || f.State == Failed })
	if strings.HasPrefix(name, "well:") {
		return first < 0 && slices.ContainsFunc(d.Findings, func(f Finding) bool { return f.Code == want })
	}
	return first >= 0 && d.Findings[first].Code == want
}

// patiences are tried one after the other until a case is found: some relays can
// only be told by waiting, and on a busy machine all others are slow too.
var patiences = []time.Duration{time.Second, 4 * time.Second, 15 * time.Second}

func TestBrokenRelays(t *testing.T) {
	auth := relaytest.NewAuthority(t)
	results := make([]Diagnosis, len(broken))
	const together = 16 // most of them wait
	room := make(chan struct{}, together)
	var running sync.WaitGroup
	for i, b := range broken {
		s := newSick(t, auth)
		b.build(s)
		s.start()
		running.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			for _, s.o.Patience = range patiences {
				if results[i] = Examine(t.Context(), s.o); isFound(results[i], b.name, b.want) {
					break
				}
			}
		})
	}
	running.Wait()
	bad := 0
	for i, b := range broken {
		t.Run(b.name, func(t *testing.T) {
			d := results[i]
			if !isFound(d, b.name, b.want) {
				var text bytes.Buffer
				_ = d.Print(&text, "en")
				t.Errorf("want %s first:\n%s", b.want, &text)
			}
			for _, f := range d.Findings {
				if strings.Contains(f.Evidence+f.Cause+f.Next, "%!") || strings.Contains(f.Evidence, "\n") {
					t.Errorf("%s: %+v", f.Check, f)
				}
			}
			if d.Took > 50 {
				t.Errorf("it took %v seconds", d.Took)
			}
		})
		if !strings.HasPrefix(b.name, "well:") {
			bad++
		}
	}
	if bad < 30 {
		t.Errorf("only %d broken relays", bad)
	}
}
