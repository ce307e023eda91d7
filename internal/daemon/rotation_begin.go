package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
)

// turn changes a relay's map by the rotation that is under way.
func turn(r *derpmap.Relay, rot cert.Rotation) {
	if rot.Phase == cert.PhaseClosing || rot.Phase == "" {
		return
	}
	old := derpmap.Spare{Port: r.Port, TLS: r.TLS, Pin: r.Pin, NoIPv4: r.NoIPv4, NoIPv6: r.NoIPv6}
	r.Port, r.Pin = secondPort(rot.Place), rot.NewPin
	spares := r.Spare
	r.Spare = nil
	if rot.Phase == cert.PhaseBoth {
		for i := range spares {
			if spares[i].TLS {
				spares[i].Pin = old.Pin
			}
		}
		r.Spare = append([]derpmap.Spare{old}, spares...)
		return
	}
	for _, s := range spares { // the ports of TLS are closed
		if s.Port == 0 || !s.TLS {
			r.Spare = append(r.Spare, s)
		}
	}
}

// secondPort is the port that clients dial for a place.
func secondPort(at cert.Place) int {
	if at.PublicPort != 0 {
		return at.PublicPort
	}
	return portOf(at.Listen)
}

// rotationOf returns the rotation of these settings, and none when there is none.
func rotationOf(c config.Config) (cert.Rotation, error) {
	if !rotates(c) {
		return cert.Rotation{}, nil
	}
	r, err := cert.LoadRotation(c.Cert, c.Key)
	if errors.Is(err, cert.ErrNoRotation) {
		return cert.Rotation{}, nil
	}
	return r, err
}

// checkRotatable says why the certificate of these settings cannot be rotated.
func checkRotatable(c config.Config) error {
	if c.CertMode == config.CertPin && c.TLS && c.Listen != config.Off && !rotates(c) {
		return fmt.Errorf("%s is not the relay's own pin.crt: under detour derper, and where --cert names it, the pair belongs to you, and is read again by itself; "+
			"hint: put another pair in its place and the new map out at the same moment, which cuts off who still has the old map; detour serve without --cert rotates without that", c.Cert)
	}
	if !rotates(c) {
		return errors.New("only a pinned certificate of the relay's own is rotated; hint: with --cert-mode files replace the files, which are read again by themselves")
	}
	for _, d := range c.Doors() {
		if d.TLS && (config.IsUnix(d.Address) || config.IsSystemd(d.Address) || portOf(d.Address) == 0) {
			return fmt.Errorf("%s %s: a rotation closes the port and opens it again, which it can do with HOST:PORT alone; "+
				"hint: name a port there for as long as the rotation takes", d.Setting, d.Address)
		}
	}
	return nil
}

// BeginRotation makes the next certificate of a relay with these settings, to be
// served on a second port, and has the running relay follow.
func BeginRotation(c config.Config, at cert.Place) (cert.Rotation, error) {
	if err := checkRotatable(c); err != nil {
		return cert.Rotation{}, err
	}
	if err := checkPlace(c, at); err != nil {
		return cert.Rotation{}, err
	}
	if c.RunAs != "" && portOf(at.Listen) < 1024 {
		return cert.Rotation{}, errors.New("a relay that has given up root (run_as) cannot open a port below 1024; hint: take a higher one for --port")
	}
	if _, err := cert.LoadPin(c.Cert, c.Key, time.Now()); err != nil {
		return cert.Rotation{}, err
	}
	if c.CertMode == config.CertACME {
		return beginAuthorityRotation(c, at)
	}
	interfaces, err := InterfaceAddrs()
	if err != nil {
		return cert.Rotation{}, err
	}
	return cert.BeginRotation(c.Cert, c.Key, at, certNames(c, publishedAddrs(c, interfaces)), time.Now())
}

// checkPlace says why the second port cannot be there.
func checkPlace(c config.Config, at cert.Place) error {
	if c.PublicPort != 0 && at.PublicPort == 0 {
		return fmt.Errorf("clients dial another port (public_port %d) than the relay has, and so they will for the second one; "+
			"hint: have a port lead to it, and name that with --published-as", c.PublicPort)
	}
	flag := "--port"
	if at.PublicPort != 0 {
		flag = "--published-as"
	}
	for _, d := range c.Doors() {
		if dialledPort(d) == secondPort(at) {
			return fmt.Errorf("%s %d is the relay's own already (%s %s); hint: name the port that leads to the second one, and no other of the relay's",
				flag, secondPort(at), d.Setting, d.Address)
		}
		if d.TLS && len(d.ProxyProtocol) > 0 && !at.Proxied {
			return fmt.Errorf("%s %s is behind a proxy (proxy_protocol), which goes on taking connections for a port that the relay has closed, and clients "+
				"that connect to it do not try the next one; hint: if you close the proxy's port yourself when the command says so, add --proxied; see docs/certificates.md",
				d.Setting, d.Address)
		}
	}
	return nil
}

// beginAuthorityRotation begins the change from the pin to the certificate that
// the authority has given.
func beginAuthorityRotation(c config.Config, at cert.Place) (cert.Rotation, error) {
	mode, err := loadACMEMode(c)
	if err != nil {
		return cert.Rotation{}, err
	}
	switch mode {
	case acmeCA:
		return cert.Rotation{}, errors.New("clients are shown the authority's certificate already, and it is renewed by itself; hint: there is nothing to rotate")
	case acmeNew:
		return cert.Rotation{}, errors.New("the relay is still waiting for its first certificate; hint: try again in a minute")
	case acmePin:
	}
	names, err := certified(c)
	if err != nil {
		return cert.Rotation{}, err
	}
	var stored *cert.Certificate
	if len(names) > 0 {
		stored = storedCert(c, names[0])
	}
	switch now := time.Now(); {
	case stored == nil:
		return cert.Rotation{}, errors.New("the certificate authority has given no certificate yet; hint: the relay's log says why")
	case stored.Expired(now):
		return cert.Rotation{}, fmt.Errorf("the certificate of the authority expired on %s (this machine's clock says %s); hint: the relay's log says why it is not renewed",
			stored.NotAfter().Format(time.DateTime), now.UTC().Format(time.DateTime))
	}
	return cert.BeginAuthorityRotation(c.Cert, c.Key, at, time.Now())
}

// answerLimit bounds the look at a port.
const answerLimit = 5 * time.Second

// CheckSecondPort says why the first port cannot be closed: the second one does not
// answer on this machine with the certificate that it is to show.
func CheckSecondPort(ctx context.Context, c config.Config, r cert.Rotation) error {
	const hint = "is the relay running, and did it follow? Its log says; the old port stays open until then"
	wanted, err := wantedAfter(c, r)
	if err != nil {
		return err
	}
	leaf, err := shownAt(ctx, r.Listen, c.Doors()[0].ProxyProtocol, c.Hostname)
	switch {
	case err != nil:
		return fmt.Errorf("the second port %s does not answer: %w; hint: %s", r.Listen, err, hint)
	case !slices.Contains(wanted, cert.PinOf(leaf)):
		return fmt.Errorf("the second port %s shows another certificate (%s) than the new one; hint: %s", r.Listen, cert.PinOf(leaf), hint)
	}
	return nil
}

// wantedAfter are the hashes of the certificates that a rotation leads to.
func wantedAfter(c config.Config, r cert.Rotation) (hashes []string, err error) {
	if !r.Authority {
		return []string{r.NewPin}, nil
	}
	names, err := certified(c)
	for _, name := range names {
		if one := storedCert(c, name); one != nil {
			hashes = append(hashes, cert.PinOf(one.Leaf()))
		}
	}
	return hashes, err
}

// CheckEnd says why a rotation cannot be ended: one of the relay's own ports does not show
// what the rotation came to, and without the second one clients would have nowhere
// to go.
func CheckEnd(ctx context.Context, c config.Config, r cert.Rotation) error {
	if r.Phase != cert.PhaseClosing {
		return nil
	}
	const hint = "is the relay running? Its log says what is wrong; the second port stays open until then"
	wanted, err := wantedAfter(c, r)
	if err != nil {
		return err
	}
	for _, d := range c.Doors() {
		if !d.TLS || portOf(d.Address) == 0 {
			continue
		}
		leaf, err := shownAt(ctx, d.Address, d.ProxyProtocol, c.Hostname)
		switch {
		case err != nil:
			return fmt.Errorf("the relay's own port %s does not answer: %w; hint: %s", d.Address, err, hint)
		case !slices.Contains(wanted, cert.PinOf(leaf)):
			return fmt.Errorf("the relay's own port %s shows another certificate (%s) than the new one; hint: %s", d.Address, cert.PinOf(leaf), hint)
		}
	}
	if !r.Authority {
		return nil
	}
	if mode, err := readACMEMode(c); err != nil || mode != acmeCA {
		return errors.Join(err, errors.New("the relay has not changed over to the authority's certificate yet; hint: its log says what is wrong"))
	}
	return nil
}

// shownAt returns the certificate that a TLS port shows on this machine for a name,
// whosever it is. Proxies are the networks that have to begin with a PROXY header.
func shownAt(ctx context.Context, listen string, proxies []netip.Prefix, name string) (*x509.Certificate, error) {
	target := listen
	if host, port, err := net.SplitHostPort(target); err == nil {
		if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
			host = "127.0.0.1"
			if err == nil && ip.Is6() {
				host = "::1"
			}
		}
		target = net.JoinHostPort(host, port)
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if from, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
		for _, network := range proxies {
			if network.Contains(from.Addr().Unmap()) { // this machine is one of the proxies
				if _, err := io.WriteString(conn, "PROXY UNKNOWN\r\n"); err != nil {
					return nil, err
				}
				break
			}
		}
	}
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: name})
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return client.ConnectionState().PeerCertificates[0], nil
}

// CertOrigin says in words where the certificate comes from that LoadCert returns.
func CertOrigin(c config.Config) string {
	switch c.CertMode {
	case config.CertACME:
		if mode, err := loadACMEMode(c); err == nil && (mode == acmeCA || mode == acmePin && c.ACMESwitch) {
			return "from the authority at " + c.ACMEDirectory + ", kept in " + acmeDir(c)
		}
	case config.CertFiles:
		certs, err := cert.LoadPairs(certPairs(c), time.Now())
		if err != nil {
			return c.Cert
		}
		chosen := cert.ForName(certs, c.Hostname)
		for i, p := range certPairs(c) {
			if certs[i] == chosen {
				return p.CertFile
			}
		}
	}
	return c.Cert
}
