// Package probe measures relays from outside, as the clients that use them do:
// it dials a node of a DERP map the way a real client dials it, judges its
// certificate the way a real client judges it, and sends packets through it.
package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/derpmap"
)

// appName marks probes in a relay's statistics.
const appName = "detour-probe"

// familyLead is how long the dial of one address family runs before the other
// joins the race.
const familyLead = 200 * time.Millisecond

// Resolver looks up the addresses of a name, as *net.Resolver does. network is
// "ip4" or "ip6".
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// World is what a probe needs of the machine it runs on. The zero value is the
// machine itself.
type World struct {
	// Dial makes connections, UDP ones included. nil: a net.Dialer does.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Resolver looks up names. nil: net.DefaultResolver.
	Resolver Resolver
	// Roots are the authorities that are trusted. nil: the system's.
	Roots *x509.CertPool
	// Now is the clock. nil: time.Now.
	Now func() time.Time
}

func (w World) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if w.Dial != nil {
		return w.Dial(ctx, network, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

func (w World) lookup(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if w.Resolver != nil {
		return w.Resolver.LookupNetIP(ctx, network, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, network, host)
}

func (w World) now() time.Time {
	if w.Now != nil {
		return w.Now()
	}
	return time.Now()
}

// DERPPort is the TCP port at which clients dial n.
func DERPPort(n *derpmap.Node) uint16 {
	if n.DERPPort == 0 {
		return derpmap.DefaultDERPPort
	}
	return uint16(n.DERPPort)
}

// STUNPort is the UDP port at which clients ask n for their address; ok is false
// when the map says that it has none.
func STUNPort(n *derpmap.Node) (port uint16, ok bool) {
	switch {
	case n.STUNPort < 0:
		return 0, false
	case n.STUNPort == 0:
		return derpmap.DefaultSTUNPort, true
	}
	return uint16(n.STUNPort), true
}

// ErrFamilyOff is returned by Addr for an address family that the map turns off.
var ErrFamilyOff = errors.New("the map turns this address family off")

// Addr is where clients find n in one address family ("ip4" or "ip6"): the
// literal of the map, or the first address that DNS has for the host name. A map
// that says anything else ("none") turns the family off: ErrFamilyOff.
//
// Source: the client's dialler.
func (w World) Addr(ctx context.Context, n *derpmap.Node, network string) (netip.Addr, error) {
	literal, is := n.IPv4, netip.Addr.Is4
	if network == "ip6" {
		literal, is = n.IPv6, netip.Addr.Is6
	}
	if literal != "" {
		a, err := netip.ParseAddr(literal)
		if err != nil || !is(a) {
			return netip.Addr{}, ErrFamilyOff
		}
		return a, nil
	}
	if a, err := netip.ParseAddr(n.HostName); err == nil {
		if !is(a) {
			return netip.Addr{}, ErrFamilyOff
		}
		return a, nil
	}
	addrs, err := w.lookup(ctx, network, n.HostName)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if a = a.Unmap(); is(a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no address of this family", n.HostName)
}

// DialNode makes the TCP connection to n as clients do: both families race, and
// the first that connects is taken.
func (w World) DialNode(ctx context.Context, n *derpmap.Node) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, 2)
	failed := make(chan struct{})
	try := func(network string, after <-chan time.Time) {
		select {
		case <-after:
		case <-failed:
		case <-ctx.Done():
		}
		a, err := w.Addr(ctx, n, network)
		if err != nil {
			results <- result{err: err}
			return
		}
		conn, err := w.dial(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(int(DERPPort(n)))))
		results <- result{conn, err}
	}
	at := make(chan time.Time)
	close(at)
	go try("ip4", at)
	go try("ip6", time.After(familyLead))
	first := <-results
	if first.err != nil {
		close(failed)
		second := <-results
		if second.err != nil {
			return nil, dialError(first.err, second.err)
		}
		return second.conn, nil
	}
	cancel()
	if second := <-results; second.conn != nil {
		second.conn.Close()
	}
	return first.conn, nil
}

// dialError is the error of the family that says more.
func dialError(a, b error) error {
	switch {
	case errors.Is(a, ErrFamilyOff):
		return b
	case errors.Is(b, ErrFamilyOff):
		return a
	}
	var op *net.OpError
	if !errors.As(a, &op) && errors.As(b, &op) {
		return b
	}
	return a
}

// Options are those of a client of the node n: what it dials, what it sends as
// SNI, and how it judges the certificate. A host name that is an IP address has
// no SNI, and without a CertName only the chain of its certificate is checked.
//
// Source: the client's TLS code, seen on 1.102.
func (w World) Options(n *derpmap.Node) client.Options {
	cfg := &tls.Config{RootCAs: w.Roots, Time: w.Now}
	o := client.Options{
		Host: n.HostName, Port: DERPPort(n), CertName: n.CertName, Insecure: n.InsecureForTests,
		TLS: cfg, CanAckPings: true, AppName: appName,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return w.DialNode(ctx, n) },
	}
	if _, err := netip.ParseAddr(n.HostName); err == nil && n.CertName == "" && !n.InsecureForTests {
		cfg.InsecureSkipVerify = true // the name alone: VerifyConnection checks the chain
		cfg.VerifyConnection = func(cs tls.ConnectionState) error { return w.verifyChain(cs.PeerCertificates) }
	}
	return o
}

// verifyChain checks everything of a certificate but whom it is for.
func (w World) verifyChain(certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return errors.New("relay presents no certificate")
	}
	opts := x509.VerifyOptions{Roots: w.Roots, CurrentTime: w.now(), Intermediates: x509.NewCertPool()}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := certs[0].Verify(opts)
	return err
}

// Pinned reports whether the map pins n's certificate.
func Pinned(n *derpmap.Node) bool { return strings.HasPrefix(n.CertName, derpmap.PinPrefix) }
