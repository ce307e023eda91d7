package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// greeting is what one upgrade led to.
type greeting struct {
	status  int // 0: no HTTP answer came
	header  http.Header
	body    string // the begin of it, unless the status is 101
	server  key.Public
	meta    key.Public // of the meta certificate of the same connection; zero: there is none
	err     error
	upgrade bool // err came after the 101
}

// greetings is how many upgrades are tried: several relays behind one address show
// themselves.
const greetings = 3

// ask upgrades and reads the relay's greeting, without logging in.
func (v *visit) ask(ctx context.Context, request string) (g greeting) {
	ctx, cancel := v.step(ctx)
	defer cancel()
	c, state, err := v.shake(ctx, v.sni())
	if err != nil {
		return greeting{err: err}
	}
	defer c.Close()
	_, meta := sorted(state.PeerCertificates)
	if _, err := io.WriteString(c, request); err != nil {
		return greeting{err: err}
	}
	const most = 64 << 10 // bytes
	in := bufio.NewReader(io.LimitReader(c, most))
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		return greeting{err: err}
	}
	defer r.Body.Close()
	g = greeting{status: r.StatusCode, header: r.Header, meta: meta}
	if r.StatusCode != http.StatusSwitchingProtocols {
		const shown = 120 // bytes
		b, _ := io.ReadAll(io.LimitReader(r.Body, shown))
		g.body = strings.Join(strings.Fields(strings.ToValidUTF8(string(b), "")), " ")
		return g
	}
	g.upgrade = true
	if strings.EqualFold(r.Header.Get("Upgrade"), derp.UpgradeProtocol) || r.Header.Get("Upgrade") == "" {
		g.server, g.err = readGreeting(in)
	}
	return g
}

func readGreeting(in io.Reader) (key.Public, error) {
	var h [derp.HeaderSize]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return key.Public{}, err
	}
	t, n, _ := derp.ParseHeader(h[:])
	const most = 1024 // bytes, of a greeting that says more in times to come
	if t != derp.ServerKey || n > most {
		return key.Public{}, fmt.Errorf("the first frame is %v of %d bytes", t, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(in, body); err != nil {
		return key.Public{}, err
	}
	return derp.ParseServerKey(body)
}

func (v *visit) request(more ...string) string {
	lines := append([]string{"GET " + derp.Path + " HTTP/1.1", "Host: " + v.hostHeader(), "User-Agent: Go-http-client/1.1"}, more...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// checkUpgrade asks for the upgrade as clients without fast start do.
func (v *visit) checkUpgrade(ctx context.Context) outcome {
	v.greet = make([]greeting, greetings)
	var asked sync.WaitGroup
	for i := range v.greet {
		asked.Go(func() { v.greet[i] = v.ask(ctx, v.request("Connection: Upgrade", "Upgrade: "+derp.UpgradeProtocol)) })
	}
	asked.Wait()
	g := v.greet[0]
	for _, other := range v.greet {
		if other.err == nil && other.status == http.StatusSwitchingProtocols { // the best of them: a hiccup is no finding
			g = other
		}
	}
	v.greet[0] = g
	switch {
	case g.upgrade && g.err != nil && isTimeout(g.err):
		return fail("http.no_greeting", v.url())
	case g.upgrade && g.err != nil:
		return fail("http.bad_greeting", oneLine(g.err))
	case g.err != nil && isTimeout(g.err):
		return fail("http.silent", v.url())
	case g.err != nil:
		return fail("http.broken", oneLine(g.err))
	case !g.upgrade:
		return v.whyNoUpgrade(ctx, g)
	}
	for _, name := range []string{"Upgrade", "Connection"} {
		if g.header.Get(name) == "" {
			return warn("http.answer_ate", name)
		}
	}
	return pass("http.good")
}

// whyNoUpgrade tells the answers other than 101 apart.
func (v *visit) whyNoUpgrade(ctx context.Context, g greeting) outcome {
	status := strconv.Itoa(g.status) + " " + http.StatusText(g.status)
	server := g.header.Get("Server")
	if server == "" {
		server = "-"
	}
	switch {
	case g.status == http.StatusUpgradeRequired:
		socket := v.ask(ctx, v.request("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: "+derp.WebSocketProtoID,
			"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+"ZGV0b3VyIGRvY3RvciAxNg=="))
		if socket.status == http.StatusSwitchingProtocols {
			return fail("http.websocket_only", status, server)
		}
		return fail("http.ate_upgrade", status, server)
	case g.status == http.StatusBadRequest && strings.Contains(strings.ToLower(g.body), "https"):
		return fail("http.wants_tls", v.url())
	case g.status == http.StatusBadRequest:
		return fail("http.ate_connection", status, server, g.body)
	case g.status/100 == 3:
		return fail("http.redirect", status, g.header.Get("Location"))
	case g.status == http.StatusForbidden || g.status == http.StatusUnauthorized || g.status == http.StatusTooManyRequests:
		return fail("http.forbidden", status, server)
	case g.status/100 == 5:
		return fail("http.gateway", status, server)
	}
	return fail("http.site", status, server, g.body)
}

// checkServerKey looks whether all upgrades led to one relay.
func (v *visit) checkServerKey(context.Context) outcome {
	first := v.greet[0].server
	for _, g := range v.greet[1:] {
		if g.err == nil && g.upgrade && g.server != first {
			return fail("derp.two_keys", first.String(), g.server.String())
		}
	}
	v.mu.Lock()
	metas := v.metas
	v.mu.Unlock()
	if len(metas) > 1 {
		return fail("derp.two_keys", metas[0].String(), metas[1].String())
	}
	if v.o.Token != nil && v.o.Token.Relay != first {
		return warn("derp.other_relay", first.String(), v.o.Token.Relay.String())
	}
	return pass("derp.key", first.String())
}

// checkFastStart looks at the meta certificate.
func (v *visit) checkFastStart(context.Context) outcome {
	meta := v.greet[0].meta
	switch {
	case v.o.Plain:
		return skip(notApplicable)
	case meta.IsZero():
		return pass("fast.none")
	case meta != v.greet[0].server:
		return fail("fast.other", meta.String(), v.greet[0].server.String())
	}
	return pass("fast.good")
}

// options are a client's, at the address that was found.
func (v *visit) options(k key.Private) client.Options {
	o := v.o.World.Options(v.node)
	o.Key, o.Plain = k, v.o.Plain
	o.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return v.o.World.dial(ctx, "tcp", v.addr) }
	return o
}

// stranger is what became of a login with a key that nobody knows.
type stranger struct {
	admitted bool
	refused  bool   // the relay hung up
	waits    string // what it is told while it waits
	health   string // what it is told although it is admitted
	rtt      time.Duration
	pingErr  error
}

// checkLogin logs in with a fresh key. Whether it is admitted is another matter.
func (v *visit) checkLogin(ctx context.Context) outcome {
	step, cancel := v.step(ctx)
	defer cancel()
	start := time.Now()
	p, err := DialPeer(step, v.options(key.Private{}))
	took := short(time.Since(start))
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		v.guest.refused = true
		return pass("login.refused")
	case isTimeout(err):
		return fail("login.silent", v.url())
	default:
		return fail("login.broken", oneLine(err))
	}
	defer p.Close()
	pinged, cancel := v.step(ctx)
	defer cancel()
	v.guest.rtt, v.guest.pingErr = p.Client().Ping(pinged)
	told := p.Health() // it came before the pong
	switch {
	case strings.Contains(told, p.Key().String()): // so does a relay whose clients may wait
		v.guest.waits = told
		return pass("login.waits", took, firstWords(told))
	case p.Err() != nil:
		return fail("login.cut", oneLine(p.Err()))
	}
	v.guest.admitted, v.guest.health = true, told
	return pass("login.good", took)
}

// firstWords is a text of the relay's in one bounded line.
func firstWords(text string) string { return oneLine(errors.New(text)) }

// probeKeys are two keys that the relay lets in, or why there are none.
func (v *visit) probeKeys(ctx context.Context) (keys [2]key.Private, why outcome, ok bool) {
	t := NewToken()
	switch {
	case v.o.Token != nil:
		if !v.o.Token.Until.After(v.now()) {
			return keys, fail("relay.token_over", v.o.Token.Until.UTC().Format(time.RFC3339)), false
		}
		return v.o.Token.Keys, why, true
	case v.o.Invite != nil:
		step, cancel := v.step(ctx)
		defer cancel()
		if err := v.o.Invite(step, []key.Public{t.Keys[0].Public(), t.Keys[1].Public()}); err != nil {
			return keys, fail("relay.not_invited", oneLine(err)), false
		}
		return t.Keys, why, true
	case v.guest.admitted:
		return t.Keys, why, true
	}
	return keys, skip("relay.closed"), false
}

// checkProbes logs in twice, with keys that are let in.
func (v *visit) checkProbes(ctx context.Context) outcome {
	keys, why, ok := v.probeKeys(ctx)
	if !ok {
		return why
	}
	step, cancel := v.step(ctx)
	defer cancel()
	var errs [2]error
	var dialled sync.WaitGroup
	for i, k := range keys {
		dialled.Go(func() { v.peers[i], errs[i] = DialPeer(step, v.options(k)) })
	}
	dialled.Wait()
	for _, err := range errs {
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return fail("relay.refused")
		default:
			return fail("login.broken", oneLine(err))
		}
	}
	pinged, cancel := v.step(ctx)
	defer cancel()
	_, _ = v.peers[0].Client().Ping(pinged) // what the relay has to say has come by then
	if text := v.peers[0].Health(); strings.Contains(text, v.peers[0].Key().String()) {
		return fail("relay.waits", firstWords(text))
	}
	return pass("relay.in")
}

// passes is the check that packets of a size come through, both ways.
func passes(size int, code string) func(*visit, context.Context) outcome {
	return func(v *visit, ctx context.Context) outcome {
		packet := randomPacket(size)
		return v.pass(ctx, packet, code)
	}
}

// checkDisco sends packets that look like those by which clients find direct paths.
func (v *visit) checkDisco(ctx context.Context) outcome {
	const ping = 124 // bytes: what a client's disco ping has
	packet := randomPacket(ping)
	copy(packet, discoMagic)
	return v.pass(ctx, packet, "relay.disco")
}

// discoMagic begins disco packets. Source: observed of clients.
const discoMagic = "TS\xf0\x9f\x92\xac"

func (v *visit) pass(ctx context.Context, packet []byte, code string) outcome {
	if v.peers[0] == nil || v.peers[1] == nil {
		return skip(notApplicable) // relay.login says why
	}
	size := strconv.Itoa(len(packet))
	var took [2]time.Duration
	var errs [2]error
	for i := range took { // one after the other: they share what comes in
		step, cancel := v.step(ctx)
		took[i], errs[i] = Pass(step, v.peers[i], v.peers[1-i], packet)
		cancel()
	}
	failed := errors.Join(errs[:]...)
	lost := errors.Is(errs[0], ErrNotRelayed) && errors.Is(errs[1], ErrNotRelayed)
	switch {
	case failed == nil:
		return pass("relay.good", size, short(took[0]), short(took[1]))
	case errors.Is(failed, ErrCorrupt):
		return fail("relay.corrupt", size, oneLine(failed))
	case lost && code == "relay.small":
		return fail("relay.nothing", size)
	case lost && code == "relay.disco":
		return fail("relay.no_disco", size)
	case lost:
		return fail("relay.too_large", size)
	case errors.Is(failed, ErrNotRelayed):
		return fail("relay.one_way", size)
	}
	return fail("relay.cut", size, oneLine(failed))
}

// checkPing asks the relay itself, as one who is admitted if there is one.
func (v *visit) checkPing(ctx context.Context) outcome {
	rtt, err, health := v.guest.rtt, v.guest.pingErr, v.guest.health
	if p := v.peers[0]; p != nil {
		step, cancel := v.step(ctx)
		defer cancel()
		rtt, err = p.Client().Ping(step)
		health = p.Health()
	} else if v.guest.refused {
		return skip(notApplicable) // a closed relay: nobody is in to ask
	}
	switch {
	case err != nil && isTimeout(err):
		return fail("ping.silent")
	case err != nil:
		return fail("login.cut", oneLine(err))
	case health != "":
		return warn("ping.health", firstWords(health))
	}
	return pass("ping.good", short(rtt))
}

// checkKeepAlive waits until the relay has shown that it keeps connections alive.
func (v *visit) checkKeepAlive(ctx context.Context) outcome {
	p := v.peers[0]
	switch {
	case !v.o.Long:
		return skip("keepalive.unasked")
	case p == nil:
		return skip("relay.closed")
	}
	wait := time.NewTimer(v.o.LongWait)
	defer wait.Stop()
	look := time.NewTicker(v.o.LongWait / 100)
	defer look.Stop()
	again := time.NewTicker(v.o.LongWait / 3)
	defer again.Stop()
	start := time.Now()
	for p.KeepAlives() == 0 {
		select {
		case <-again.C: // who was let in for a minute is cut off before a keepalive is due
			if v.o.Invite != nil && v.o.Token == nil {
				_ = v.o.Invite(ctx, []key.Public{v.peers[0].Key(), v.peers[1].Key()}) // if it fails, the cut shows it
			}
		case <-p.Done():
			return fail("keepalive.cut", time.Since(start).Round(time.Second).String(), oneLine(p.Err()))
		case <-wait.C:
			return fail("keepalive.none", v.o.LongWait.String())
		case <-ctx.Done():
			return fail("keepalive.none", v.o.LongWait.String())
		case <-look.C:
		}
	}
	return pass("keepalive.good", time.Since(start).Round(time.Second).String())
}
