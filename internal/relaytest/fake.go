package relaytest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/stun"
)

// Fake is a small relay that does what its fields say, and can do everything wrong.
// The zero value but for Certificate is like derper with a key of its own, open.
type Fake struct {
	Certificate tls.Certificate // unless Plain
	Plain       bool
	Key         key.Private   // zero: a fresh one
	OtherKeys   []key.Private // for the second connection, the third and so on, in turn with Key
	NoMeta      bool
	Meta        key.Public                   // of the meta certificate; zero: that of Key
	ServeTLS    func(cfg *tls.Config)        // changes the settings of TLS
	Accept      func(c net.Conn) bool        // sees a connection before TLS; true: that was all
	Eats        []string                     // headers that a proxy takes out of requests
	EatsBack    []string                     // and out of answers
	Answer      func(r *http.Request) string // of an HTTP response, whole; empty: the relay's own
	Date        func() time.Time             // nil: no Date header
	TypedKey    bool                         // the key in the 101 has its prefix, as Headscale's

	NoGreeting    bool                    // silent after the 101
	Refuses       func(k key.Public) bool // hangs up at the login
	Silent        bool                    // never answers a login
	CutsAfter     bool                    // hangs up behind the login
	NoPongs       bool
	KeepAlive     time.Duration   // one after this time; 0: none
	KeepAliveWhen <-chan struct{} // another one for each peer when this is closed; nil: never
	Health        string
	// Forward changes a packet on its way; false: it goes nowhere. first is the key of
	// the peer that logged in first of those two that are there.
	Forward func(from, to key.Public, packet []byte) ([]byte, bool)

	t     testing.TB
	meta  [][]byte
	count atomic.Int64
	mu    sync.Mutex
	peers map[key.Public]*fakePeer // guarded by mu
	conns map[net.Conn]bool        // guarded by mu
	over  bool                     // guarded by mu
}

type fakePeer struct {
	writing sync.Mutex
	conn    net.Conn
}

func (p *fakePeer) write(b []byte) {
	p.writing.Lock()
	defer p.writing.Unlock()
	_, _ = p.conn.Write(b) // who is gone gets nothing
}

// Start serves on loopback until the test ends and returns the port.
func (f *Fake) Start(t testing.TB) int {
	t.Helper()
	f.t, f.peers, f.conns = t, make(map[key.Public]*fakePeer), make(map[net.Conn]bool)
	if f.Key.IsZero() {
		f.Key = key.NewPrivate()
	}
	if !f.NoMeta && !f.Plain {
		for _, k := range f.keys() {
			if !f.Meta.IsZero() {
				k = f.Meta
			}
			meta, err := cert.NewMeta(k.Hex(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			f.meta = append(f.meta, meta)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		f.mu.Lock()
		f.over = true
		for c := range f.conns {
			c.Close()
		}
		f.mu.Unlock()
		serving.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port
}

func (f *Fake) keys() (list []key.Public) {
	list = append(list, f.Key.Public())
	for _, k := range f.OtherKeys {
		list = append(list, k.Public())
	}
	return list
}

func (f *Fake) track(c net.Conn, there bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if there {
		f.conns[c] = true
		return !f.over
	}
	delete(f.conns, c)
	return true
}

func (f *Fake) serve(raw net.Conn) {
	defer raw.Close()
	defer f.track(raw, false)
	if !f.track(raw, true) || f.Accept != nil && f.Accept(raw) {
		return
	}
	turn := int(f.count.Add(1)-1) % (1 + len(f.OtherKeys))
	private := f.Key
	if turn > 0 {
		private = f.OtherKeys[turn-1]
	}
	c := raw
	if !f.Plain {
		crt := f.Certificate
		crt.Certificate = append([][]byte(nil), crt.Certificate...)
		if len(f.meta) > 0 {
			crt.Certificate = append(crt.Certificate, f.meta[turn])
		}
		cfg := &tls.Config{Certificates: []tls.Certificate{crt}}
		if f.ServeTLS != nil {
			f.ServeTLS(cfg)
		}
		secure := tls.Server(raw, cfg)
		if secure.Handshake() != nil {
			return
		}
		c = secure
	}
	f.serveHTTP(c, private)
}

func (f *Fake) serveHTTP(c net.Conn, private key.Private) {
	in := bufio.NewReader(c)
	r, err := http.ReadRequest(in)
	if err != nil {
		if f.Plain {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") // as web servers do to TLS
		}
		return
	}
	for _, name := range f.Eats {
		r.Header.Del(name)
	}
	answer := f.answer(r, private)
	for _, name := range f.EatsBack {
		lines := strings.Split(answer, "\r\n")
		for i, line := range lines {
			if strings.HasPrefix(line, name+": ") {
				lines = append(lines[:i], lines[i+1:]...)
				break
			}
		}
		answer = strings.Join(lines, "\r\n")
	}
	upgraded := strings.HasPrefix(answer, "HTTP/1.1 101")
	fast := r.Header.Get(derp.FastStartHeader) == "1" && upgraded
	if !fast {
		if _, err := io.WriteString(c, answer); err != nil || !upgraded {
			return
		}
	}
	if f.NoGreeting {
		_, _ = io.Copy(io.Discard, in) // until it is left alone
		return
	}
	f.serveDERP(c, in, private)
}

// answer is the relay's answer to a request, or a proxy's.
func (f *Fake) answer(r *http.Request, private key.Private) string {
	if f.Answer != nil {
		if a := f.Answer(r); a != "" {
			return a
		}
	}
	date := ""
	if f.Date != nil {
		date = "Date: " + f.Date().UTC().Format(http.TimeFormat) + "\r\n"
	}
	switch {
	case r.URL.Path != derp.Path:
		return "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 0\r\nConnection: close\r\n\r\n"
	case !strings.EqualFold(r.Header.Get("Upgrade"), derp.UpgradeProtocol):
		return "HTTP/1.1 426 Upgrade Required\r\n" + date + "Content-Length: 0\r\nConnection: close\r\n\r\n"
	case r.Header.Get("Connection") == "":
		return "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	}
	k := private.Public().Hex()
	if f.TypedKey {
		k = private.Public().String()
	}
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\nDerp-Public-Key: " + k + "\r\n\r\n"
}

func (f *Fake) serveDERP(c net.Conn, in io.Reader, private key.Private) {
	p := &fakePeer{conn: c}
	p.write(derp.AppendServerKey(nil, private.Public()))
	t, body, err := readFrame(in)
	if err != nil || t != derp.ClientInfo {
		return
	}
	k, sealed, err := derp.ParseClientInfo(body)
	if err != nil || f.Refuses != nil && f.Refuses(k) {
		return
	}
	shared, err := private.Shared(k)
	if err != nil {
		return
	}
	if _, err := derp.OpenClientInfo(shared, sealed); err != nil {
		return
	}
	if f.Silent {
		_, _ = io.Copy(io.Discard, in) // until it is left alone
		return
	}
	info, err := derp.AppendServerInfo(nil, shared, derp.ServerParams{Version: derp.ProtocolVersion})
	if err != nil {
		return
	}
	f.mu.Lock()
	f.peers[k] = p
	f.mu.Unlock()
	p.write(info)
	if f.Health != "" {
		p.write(derp.AppendHealth(nil, f.Health))
	}
	if f.KeepAlive > 0 {
		timer := time.AfterFunc(f.KeepAlive, func() { p.write(derp.AppendKeepAlive(nil)) })
		defer timer.Stop()
	}
	if f.KeepAliveWhen != nil {
		left := make(chan struct{})
		var waiting sync.WaitGroup
		waiting.Go(func() {
			select {
			case <-f.KeepAliveWhen:
				p.write(derp.AppendKeepAlive(nil))
			case <-left:
			}
		})
		defer func() { close(left); waiting.Wait() }()
	}
	for !f.CutsAfter && f.frame(p, k, in) == nil {
	}
	f.mu.Lock()
	delete(f.peers, k)
	f.mu.Unlock()
}

// frame carries out one frame of a peer.
func (f *Fake) frame(p *fakePeer, from key.Public, in io.Reader) error {
	t, body, err := readFrame(in)
	if err != nil {
		return err
	}
	switch t {
	case derp.Ping:
		if !f.NoPongs {
			p.write(derp.AppendPong(nil, derp.ParsePing(body)))
		}
	case derp.SendPacket:
		to, packet := derp.ParsePacket(body)
		ok := true
		if f.Forward != nil {
			packet, ok = f.Forward(from, to, packet)
		}
		f.mu.Lock()
		dst := f.peers[to]
		f.mu.Unlock()
		if ok && dst != nil {
			dst.write(derp.AppendRecvPacket(nil, from, packet))
		}
	}
	return nil
}

func readFrame(in io.Reader) (derp.FrameType, []byte, error) {
	var h [derp.HeaderSize]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return 0, nil, err
	}
	t, n, _ := derp.ParseHeader(h[:])
	if n > derp.MaxFrame {
		return 0, nil, errors.New("too long")
	}
	body := make([]byte, n)
	_, err := io.ReadFull(in, body)
	return t, body, err
}

// FakeSTUN answers binding requests on loopback with what seen makes of the sender,
// until the test ends, and returns its port. An invalid answer is none.
func FakeSTUN(t testing.TB, mode stun.Mode, seen func(netip.AddrPort) netip.AddrPort) int {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			tx, err := stun.ParseRequest(buf[:n], mode)
			if to := seen(from); err == nil && to.IsValid() {
				_, _ = c.WriteToUDPAddrPort(stun.AppendResponse(nil, tx, to), from) // UDP promises nothing
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().(*net.UDPAddr).Port
}

// Says is a whole HTTP response.
func Says(status int, body string, header ...string) string {
	lines := append([]string{fmt.Sprintf("HTTP/1.1 %d %s", status, http.StatusText(status)), "Connection: close", fmt.Sprintf("Content-Length: %d", len(body))}, header...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}
