package bench

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

const (
	// MaxAttackRate bounds the connections that an attack makes in a second.
	MaxAttackRate = 2000
	// attackOpen is how many connections an attack has at most at once.
	attackOpen = 3000
	// trickleEvery is the time between two bytes of a slow client.
	trickleEvery = time.Second
	// floodFrames is how many pings and as many packets a flooder sends each
	// floodEvery: 100 KB/s, six times what it may.
	floodFrames = 68
	floodEvery  = 50 * time.Millisecond
)

// AttackOptions say how a relay is attacked while a quiet pair is measured.
type AttackOptions struct {
	// Through is a port of the relay that takes PROXY headers, as HOST:PORT: the
	// attackers come by it, since a relay does not bound loopback.
	Through string
	// Keys are those of the quiet pair, which the relay must admit.
	Keys [2]key.Private
	// Rate is how many connections each attack makes in a second.
	Rate int
	// Duration is how long the pair is measured beside each attack, Warmup the time
	// under attack before that.
	Duration, Warmup time.Duration
}

// attack is one way of it.
type attack struct {
	name string
	one  bool // all from one address; else each from another
	// do makes what it likes of a fresh connection until it is hung up on or ctx is
	// done.
	do func(*attackers, context.Context, net.Conn)
}

// attacks are tried in this order.
func attacks() []attack {
	return []attack{
		{"login storm, one address", true, (*attackers).logIn},
		{"login storm, many addresses", false, (*attackers).logIn},
		{"garbage before TLS", false, (*attackers).garbage},
		{"garbage after TLS", false, (*attackers).garbageInTLS},
		{"slow ClientHello", false, (*attackers).trickle},
		{"slow ClientHello, one address", true, (*attackers).trickle},
		{"half-open", false, (*attackers).silent},
		{"truncated ClientInfo", false, (*attackers).truncated},
		{"flood from the lobby", false, (*attackers).flood},
	}
}

// Attack measures a quiet pair alone, then beside one attack after the other.
// Loopback only. A done ctx ends it early.
func Attack(ctx context.Context, t Target, o AttackOptions) (report AttackReport, err error) {
	t, err = t.settleLocal(ctx, "--attack")
	if err != nil {
		return report, err
	}
	through, err := netip.ParseAddrPort(o.Through)
	switch {
	case err != nil || !through.Addr().IsLoopback():
		return report, errors.New("bench: --attack-through is no port on loopback; hint: give the address of an also_listen with " +
			"proxy_protocol=127.0.0.1, as in 127.0.0.1:18444")
	case o.Rate < 1 || o.Rate > MaxAttackRate:
		return report, fmt.Errorf("bench: --attack-rate is out of bounds; hint: 1 to %d can be given", MaxAttackRate)
	case o.Duration <= 0 || o.Duration > MaxDuration || o.Warmup < 0 || o.Warmup > MaxDuration:
		return report, fmt.Errorf("bench: --duration or --warmup is out of bounds; hint: up to %v can be given", MaxDuration)
	}
	t.keys = newRing(o.Keys)
	before, err := t.usage()
	if err != nil {
		return report, err
	}
	defer func() {
		after, usageErr := t.usage()
		if err == nil {
			err = usageErr
		}
		complete := report.Complete
		report.Common = t.common("attack", before, after)
		report.Complete = complete && err == nil
	}()
	report.Rate = o.Rate
	for _, a := range append([]attack{{name: "alone"}}, attacks()...) {
		row, err := beside(ctx, t, o, a)
		if row.Probe.Sent > 0 {
			report.Attacks = append(report.Attacks, row)
		}
		if err != nil {
			return report, err
		}
	}
	report.Complete = ctx.Err() == nil
	report.compare()
	return report, nil
}

// beside measures the pair while one attack goes on.
func beside(ctx context.Context, t Target, o AttackOptions, a attack) (row AttackRow, err error) {
	row.Name = a.name
	probe := Load{Pairs: 1, Size: probeSize, Rate: probeRate, FlushEach: true, Duration: o.Duration, Warmup: o.Warmup}
	quiet, err := prepare(ctx, t.showing(a.name+", "), probe)
	if err != nil {
		return row, err
	}
	// The attackers come with the certificate that was asked for, and no keys.
	by := &attackers{target: t, options: o, attack: a}
	by.target.keys = nil
	attacking, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	if a.do != nil {
		all.Go(func() { by.run(attacking) })
	}
	measured, err := quiet.measure(ctx)
	cancel()
	all.Wait()
	row.Probe = Probe{Sent: measured.Sent, Lost: measured.Lost, Latency: measured.Latency}
	row.Connections, row.HungUp = by.made.Load(), by.hungUp.Load()
	return row, err
}

// attackers make connections.
type attackers struct {
	target       Target
	options      AttackOptions
	attack       attack
	made, hungUp atomic.Uint64
}

// run makes as many connections a second as it may until ctx is done.
func (a *attackers) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	tick := time.NewTicker(time.Second / time.Duration(a.options.Rate))
	defer tick.Stop()
	places := make(chan struct{}, attackOpen)
	for i := uint32(0); ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case places <- struct{}{}:
		default:
			continue // enough are open
		}
		all.Go(func() {
			defer func() { <-places }()
			a.one(ctx, i)
		})
	}
}

// one is one connection from its beginning to its end.
func (a *attackers) one(ctx context.Context, i uint32) {
	c, err := a.dial(ctx, i)
	if err != nil {
		return // out of ports or the like
	}
	a.made.Add(1)
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	a.attack.do(a, ctx, c)
	if ctx.Err() == nil {
		a.hungUp.Add(1)
	}
	_ = c.Close() // it may be closed already
}

// dial connects and names an address of a network for documentation.
func (a *attackers) dial(ctx context.Context, i uint32) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", a.options.Through)
	if err != nil {
		return nil, err
	}
	if a.attack.one {
		i = 0
	}
	addr := [16]byte{0x20, 1, 0xd, 0xb8}
	binary.BigEndian.PutUint32(addr[4:], i)
	if _, err := fmt.Fprintf(c, "PROXY TCP6 %v 2001:db8::1 1000 443\r\n", netip.AddrFrom16(addr)); err != nil {
		_ = c.Close() // the error says enough
		return nil, err
	}
	return c, nil
}

// untilEnd reads until the relay hangs up.
func untilEnd(c net.Conn) {
	buf := make([]byte, 4<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

func (a *attackers) silent(_ context.Context, c net.Conn) { untilEnd(c) }

func (a *attackers) garbage(_ context.Context, c net.Conn) {
	junk := make([]byte, 4<<10)
	_, _ = rand.Read(junk) // never fails
	_, _ = c.Write(junk)   // it may be refused already
	untilEnd(c)
}

func (a *attackers) trickle(ctx context.Context, c net.Conn) {
	gone := make(chan struct{})
	go func() { defer close(gone); untilEnd(c) }()
	hello := append([]byte{22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3}, make([]byte, 250)...)
	tick := time.NewTicker(trickleEvery)
	defer tick.Stop()
	for _, b := range hello {
		if _, err := c.Write([]byte{b}); err != nil {
			break
		}
		select {
		case <-gone:
			return
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	_ = c.Close() // the reader ends with it
	<-gone
}

func (a *attackers) garbageInTLS(ctx context.Context, c net.Conn) {
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true}) // who attacks trusts nobody
	if t.HandshakeContext(ctx) == nil {
		a.garbage(ctx, t)
	}
}

// logInOver logs in with a fresh key.
func (a *attackers) logInOver(ctx context.Context, c net.Conn) (*client.Client, error) {
	o := a.target.options()
	o.DialContext = func(context.Context, string, string) (net.Conn, error) { return c, nil }
	return client.Dial(ctx, o)
}

func (a *attackers) logIn(ctx context.Context, c net.Conn) {
	if peer, err := a.logInOver(ctx, c); err == nil {
		_ = peer.Close() // never fails
	}
}

// truncated sends the first half of a large ClientInfo behind a good upgrade.
func (a *attackers) truncated(ctx context.Context, c net.Conn) {
	if !a.target.Client.Plain {
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true}) // as above
		if t.HandshakeContext(ctx) != nil {
			return
		}
		c = t
	}
	request := []byte("GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n")
	request = derp.AppendHeader(request, derp.ClientInfo, derp.MaxClientInfo)
	_, _ = c.Write(append(request, make([]byte, derp.MaxClientInfo/2)...)) // it may be hung up on already
	untilEnd(c)
}

// flood waits in the lobby and sends pings and packets, much more than it may.
func (a *attackers) flood(ctx context.Context, c net.Conn) {
	peer, err := a.logInOver(ctx, c)
	if err != nil {
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			if _, err := peer.Recv(); err != nil {
				return
			}
		}
	}()
	to := key.NewPrivate().Public()
	var frames []byte
	for range floodFrames {
		frames = derp.AppendSendPacket(derp.AppendPing(frames, derp.PingData{1}), to, make([]byte, 20))
	}
	for sleep(ctx, floodEvery) && peer.SendRaw(frames) == nil {
	}
	_ = peer.Close() // never fails
	<-gone
}
