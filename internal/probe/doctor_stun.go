package probe

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/detour-relay/detour/internal/stun"
)

var stunChecks = []check{
	{"stun", []string{"dns"}, (*visit).checkSTUN},
	{"stun.address", []string{"stun"}, (*visit).checkSTUNAddress},
	{"stun.rfc", []string{"stun"}, (*visit).checkRFC},
}

// stunAnswer is what one question by UDP led to.
type stunAnswer struct {
	seen  netip.AddrPort // whom the server saw
	ours  netip.AddrPort // who we are by ourselves
	asked netip.AddrPort
	took  time.Duration
	err   error
}

// stunTries is how often a question is sent: UDP may be lost.
const stunTries = 3

// appendPlainRequest appends a binding request of a header alone, as RFC 8489 has it.
func appendPlainRequest(b []byte, tx stun.TxID) []byte {
	const bindingRequest, magicCookie = 0x0001, 0x2112a442
	b = binary.BigEndian.AppendUint16(b, bindingRequest)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint32(b, magicCookie)
	return append(b, tx[:]...)
}

// askSTUN sends a question until an answer comes or ctx is done.
func (v *visit) askSTUN(ctx context.Context, to string, request func([]byte, stun.TxID) []byte) (a stunAnswer) {
	c, err := v.o.World.dial(ctx, "udp", to)
	if err != nil {
		return stunAnswer{err: err}
	}
	defer c.Close()
	a.asked, a.ours = addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
	var tx stun.TxID
	rand.Read(tx[:])
	end, _ := ctx.Deadline()
	each := time.Until(end) / stunTries
	buf := make([]byte, 1500)
	start := time.Now()
	for i := range stunTries {
		if _, err := c.Write(request(nil, tx)); err != nil {
			a.err = err
			continue
		}
		_ = c.SetReadDeadline(start.Add(each * time.Duration(i+1))) // fails only when it is closed, and so does Read
		for {
			n, err := c.Read(buf)
			if err != nil {
				a.err = err
				break
			}
			if got, seen, err := stun.ParseResponse(buf[:n]); err == nil && got == tx {
				a.seen, a.took, a.err = seen, time.Since(start), nil
				return a
			}
		}
	}
	if errors.Is(a.err, net.ErrClosed) || a.err == nil {
		a.err = context.DeadlineExceeded
	}
	return a
}

func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		ap := u.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return netip.AddrPort{}
}

// stunTargets are where clients ask: both families, or the address that the map has
// for that.
func (v *visit) stunTargets(ctx context.Context) (targets []string) {
	port, ok := STUNPort(v.node)
	if !ok {
		return nil
	}
	p := strconv.Itoa(int(port))
	if v.node.STUNTestIP != "" {
		return []string{net.JoinHostPort(v.node.STUNTestIP, p)}
	}
	for _, family := range families {
		if a, err := v.o.World.Addr(ctx, v.node, family); err == nil {
			targets = append(targets, net.JoinHostPort(a.String(), p))
		}
	}
	return targets
}

// checkSTUN asks as Tailscale clients do.
func (v *visit) checkSTUN(ctx context.Context) outcome {
	step, cancel := v.step(ctx)
	defer cancel()
	targets := v.stunTargets(step)
	if len(targets) == 0 {
		return skip("stun.off")
	}
	var good []string
	var bad string
	var failed error
	for _, to := range targets {
		each, cancel := v.step(ctx)
		a := v.askSTUN(each, to, stun.AppendRequest)
		cancel()
		if a.err != nil {
			bad, failed = to, a.err
			continue
		}
		v.stun = append(v.stun, a)
		good = append(good, fmt.Sprintf("%s (%s)", to, short(a.took)))
	}
	switch {
	case len(good) > 0 && failed != nil:
		if isUnreachable(failed) {
			break
		}
		return warn("stun.half", good[0], bad)
	case len(good) == 0 && v.stunHere(ctx):
		return warn("stun.hairpin", bad, oneLine(failed), v.o.Local.STUN)
	case len(good) == 0 && !v.o.Known: // the port is a guess
		return warn("stun.unknown", bad, oneLine(failed))
	case len(good) == 0 && isTimeout(failed):
		return fail("stun.silent", bad)
	case len(good) == 0:
		return fail("stun.failed", bad, oneLine(failed))
	}
	return pass("stun.good", joined(good))
}

// stunHere asks the relay on this host where its published address does not answer.
func (v *visit) stunHere(ctx context.Context) bool {
	if v.o.Local == nil || v.o.Local.STUN == "" {
		return false
	}
	step, cancel := v.step(ctx)
	defer cancel()
	return v.askSTUN(step, v.o.Local.STUN, stun.AppendRequest).err == nil
}

// checkSTUNAddress looks whom the server saw.
func (v *visit) checkSTUNAddress(context.Context) outcome {
	if len(v.stun) == 0 {
		return skip(notApplicable)
	}
	for _, a := range v.stun {
		seen, asked := a.seen.Addr().Unmap(), a.asked.Addr().Unmap()
		switch {
		case !asked.IsValid():
		case asked.IsLoopback() && seen != a.ours.Addr():
			return fail("stun.translated", asked.String(), seen.String())
		case !public(asked) || public(seen):
		case v.o.Local != nil: // on its own host, the way there and back may be another one
			return warn("stun.translated", asked.String(), seen.String())
		default:
			return fail("stun.translated", asked.String(), seen.String())
		}
	}
	return pass("stun.address", v.stun[0].seen.String())
}

// public reports whether an address is one of the Internet's.
func public(a netip.Addr) bool {
	shared := netip.MustParsePrefix("100.64.0.0/10") // of providers' translators
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
}

// checkRFC asks as any STUN tool does.
func (v *visit) checkRFC(ctx context.Context) outcome {
	if len(v.stun) == 0 {
		return skip(notApplicable)
	}
	step, cancel := context.WithTimeout(ctx, min(v.o.Patience/4, time.Second))
	defer cancel()
	if a := v.askSTUN(step, v.stun[0].asked.String(), appendPlainRequest); a.err != nil {
		return pass("stun.strict")
	}
	return pass("stun.rfc")
}

// checkPortal asks what clients ask to find captive portals.
func (v *visit) checkPortal(ctx context.Context) outcome {
	ip, err := netip.ParseAddr(v.node.IPv4)
	switch {
	case v.o.Known && !v.node.CanPort80:
		return skip("portal.off")
	case err != nil && v.o.Known:
		return warn("portal.no_ipv4", v.node.Name)
	}
	step, cancel := v.step(ctx)
	defer cancel()
	host := ip.String()
	if err != nil {
		if ip, err = v.o.World.Addr(step, v.node, families[0]); err != nil {
			return skip("portal.off")
		}
		host = ip.String()
	}
	c, err := v.o.World.dial(step, "tcp", net.JoinHostPort(host, "80"))
	switch {
	case err == nil:
	case !v.o.Known:
		return skip("portal.closed")
	case v.hairpin():
		return skip("portal.hairpin")
	default:
		return fail("portal.failed", host, oneLine(err))
	}
	defer c.Close()
	if end, ok := step.Deadline(); ok {
		_ = c.SetDeadline(end) // fails only when it is closed, and so does all else
	}
	r, answer, err := askPortal(c, host, v.now())
	switch {
	case err != nil && v.o.Known:
		return fail("portal.failed", host, oneLine(err))
	case err == nil && r == http.StatusNoContent && answer == portalAnswer(host):
		return pass("portal.good", host)
	case !v.o.Known:
		return skip("portal.other", host)
	}
	return fail("portal.wrong", host, strconv.Itoa(r)+" "+http.StatusText(r))
}

func portalAnswer(host string) string { return "response ts_" + host }

// askPortal asks as clients do. Source: the client's check for captive portals.
func askPortal(c net.Conn, host string, now time.Time) (status int, answer string, err error) {
	_, err = fmt.Fprintf(c, "GET /generate_204?t=%d HTTP/1.1\r\nHost: %s\r\nUser-Agent: Go-http-client/1.1\r\n"+
		"Cache-Control: no-cache, no-store, must-revalidate, no-transform, max-age=0\r\nConnection: close\r\nX-Tailscale-Challenge: ts_%s\r\n\r\n", now.Unix(), host, host)
	if err != nil {
		return 0, "", err
	}
	const most = 64 << 10 // bytes
	r, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, most)), nil)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	return r.StatusCode, r.Header.Get("X-Tailscale-Response"), nil
}
