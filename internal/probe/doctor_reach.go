package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/detour-relay/detour/internal/derpmap"
)

var families = [2]string{"ip4", "ip6"}

// checkMap looks at what the map says of the node alone.
func (v *visit) checkMap(context.Context) outcome {
	n := v.node
	pin, pinned := strings.CutPrefix(n.CertName, derpmap.PinPrefix)
	ip, err := netip.ParseAddr(n.HostName)
	switch {
	case !v.o.Known && n.CertName == "":
		return skip(notApplicable)
	case pinned && pin != strings.ToLower(pin):
		return fail("map.pin_case", n.CertName, derpmap.PinPrefix+strings.ToLower(pin))
	case pinned && (len(pin) != 64 || strings.Trim(pin, "0123456789abcdef") != ""):
		return fail("map.pin", n.CertName)
	case err == nil && ip.Is6() && DERPPort(n) == derpmap.DefaultDERPPort && !n.STUNOnly:
		return fail("map.ipv6", n.HostName)
	case n.HostName == "":
		return fail("map.host", n.Name)
	case n.InsecureForTests && n.CertName == "":
		return warn("map.insecure", n.Name)
	}
	return pass("map.good", n.Name)
}

// checkDNS finds the addresses of the node, and whether the map and DNS agree.
func (v *visit) checkDNS(ctx context.Context) outcome {
	ctx, cancel := v.step(ctx)
	defer cancel()
	var failed error
	var found, literals []string
	for i, family := range families {
		a, err := v.o.World.Addr(ctx, v.node, family)
		switch {
		case err == nil:
			v.addrs[i] = append(v.addrs[i], net.JoinHostPort(a.String(), v.port()))
			found = append(found, a.String())
		case !errors.Is(err, ErrFamilyOff):
			failed = errors.Join(failed, err)
		}
	}
	if len(found) == 0 {
		var dns *net.DNSError
		if errors.As(failed, &dns) && dns.IsTimeout {
			return fail("dns.silent", v.node.HostName, oneLine(failed))
		}
		if failed == nil {
			return fail("dns.off", v.node.Name)
		}
		return fail("dns.none", v.node.HostName, oneLine(failed))
	}
	if _, err := netip.ParseAddr(v.node.HostName); err == nil {
		return pass("dns.literal", strings.Join(found, ", "))
	}
	for _, s := range []string{v.node.IPv4, v.node.IPv6} {
		if a, err := netip.ParseAddr(s); err == nil {
			literals = append(literals, a.String())
		}
	}
	if other := v.dnsSays(ctx, literals); other != "" {
		return warn("dns.differs", v.node.HostName, other, strings.Join(literals, ", "))
	}
	return pass("dns.good", v.node.HostName, strings.Join(found, ", "))
}

// dnsSays is what DNS has for the host name, where that is none of the map's addresses.
func (v *visit) dnsSays(ctx context.Context, literals []string) string {
	if len(literals) == 0 {
		return ""
	}
	var all []string
	for _, family := range families {
		addrs, err := v.o.World.lookup(ctx, family, v.node.HostName)
		if err != nil {
			continue
		}
		for _, a := range addrs {
			for _, l := range literals {
				if a.Unmap().String() == l {
					return ""
				}
			}
			all = append(all, a.Unmap().String())
		}
	}
	return strings.Join(all, ", ")
}

// reached is what became of one address family's dial.
type reached struct {
	tried bool
	took  time.Duration
	err   error
}

// race dials both families, once.
func (v *visit) race(ctx context.Context) {
	v.raced.Do(func() {
		done := make(chan struct{})
		dial := func(i int) {
			defer func() { done <- struct{}{} }()
			if len(v.addrs[i]) == 0 {
				return
			}
			ctx, cancel := v.step(ctx)
			defer cancel()
			v.tcp[i].tried = true
			start := time.Now()
			c, err := v.o.World.dial(ctx, "tcp", v.addrs[i][0])
			v.tcp[i].took, v.tcp[i].err = time.Since(start), err
			if err == nil {
				_ = c.Close() // the others dial anew
			}
		}
		go dial(0)
		go dial(1)
		<-done
		<-done
		for i := range v.tcp {
			if v.tcp[i].tried && v.tcp[i].err == nil {
				v.addr = v.addrs[i][0]
				return
			}
		}
		v.reachLocal(ctx)
	})
}

// reachLocal dials the relay on this host where its published address cannot be
// dialled from here.
func (v *visit) reachLocal(ctx context.Context) {
	if v.o.Local == nil || v.o.Local.Addr == "" {
		return
	}
	ctx, cancel := v.step(ctx)
	defer cancel()
	if c, err := v.o.World.dial(ctx, "tcp", v.o.Local.Addr); err == nil {
		v.addr = v.o.Local.Addr
		_ = c.Close() // the others dial anew
	}
}

// hairpin reports whether the published address cannot be reached from the relay's
// own host, as is usual at home.
func (v *visit) hairpin() bool {
	return v.o.Local != nil && v.addr != "" && v.addr == v.o.Local.Addr && v.tcp[0].err != nil
}

func (v *visit) checkTCP4(ctx context.Context) outcome { return v.tcpFamily(ctx, 0) }
func (v *visit) checkTCP6(ctx context.Context) outcome { return v.tcpFamily(ctx, 1) }

func (v *visit) tcpFamily(ctx context.Context, i int) outcome {
	v.race(ctx)
	mine, other := v.tcp[i], v.tcp[1-i]
	family := [2]string{"IPv4", "IPv6"}
	switch {
	case !mine.tried:
		return skip("tcp.none", family[i])
	case mine.err == nil:
		return pass("tcp.good", v.addrs[i][0], short(mine.took))
	case errors.Is(mine.err, syscall.ENETUNREACH) || errors.Is(mine.err, syscall.EADDRNOTAVAIL) || errors.Is(mine.err, syscall.EAFNOSUPPORT):
		if other.tried && other.err == nil {
			return skip("tcp.unreachable", v.addrs[i][0], family[i])
		}
	case other.tried && other.err == nil:
		return warn("tcp.half", v.addrs[i][0], oneLine(mine.err), family[i])
	}
	switch {
	case v.addr != "":
		return warn("tcp.hairpin", v.addrs[i][0], oneLine(mine.err), v.addr, v.url())
	case errors.Is(mine.err, syscall.ECONNREFUSED):
		return fail("tcp.refused", v.addrs[i][0], v.port())
	case isTimeout(mine.err):
		return fail("tcp.silent", v.addrs[i][0], v.port())
	}
	return fail("tcp.failed", v.addrs[i][0], oneLine(mine.err))
}

// connect dials what tcp4 and tcp6 have found.
func (v *visit) connect(ctx context.Context) (net.Conn, error) {
	c, err := v.o.World.dial(ctx, "tcp", v.addr)
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(end) // fails only when it is closed, and so does all else
	}
	return c, nil
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}

// oneLine is an error in one line of bounded length.
func oneLine(err error) string {
	const most = 300 // bytes
	if err == nil {
		return ""
	}
	text, _, _ := strings.Cut(err.Error(), "; hint: ")
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// short is a time as people read it.
func short(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}
