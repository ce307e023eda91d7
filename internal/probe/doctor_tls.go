package probe

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/key"
)

// hello is what a relay shows in a TLS handshake.
type hello struct {
	version uint16
	own     []*x509.Certificate // meta certificates left out
	meta    key.Public          // of the meta certificate; zero: there is none
	took    time.Duration
}

// sni is what clients send: nothing for an IP address.
func (v *visit) sni() string {
	if _, err := netip.ParseAddr(v.node.HostName); err == nil {
		return ""
	}
	return v.node.HostName
}

// shake connects and shakes hands as clients do, and believes any certificate.
func (v *visit) shake(ctx context.Context, name string) (net.Conn, tls.ConnectionState, error) {
	raw, err := v.connect(ctx)
	if err != nil || v.o.Plain {
		return raw, tls.ConnectionState{}, err
	}
	c := tls.Client(raw, &tls.Config{ServerName: name, InsecureSkipVerify: true, Time: v.o.World.Now})
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the error says more
		return nil, tls.ConnectionState{}, err
	}
	if _, meta := sorted(c.ConnectionState().PeerCertificates); !meta.IsZero() {
		v.mu.Lock()
		if !slices.Contains(v.metas, meta) {
			v.metas = append(v.metas, meta)
		}
		v.mu.Unlock()
	}
	return c, c.ConnectionState(), nil
}

// checkTLS shakes hands, and judges nothing of the certificate yet.
func (v *visit) checkTLS(ctx context.Context) outcome {
	if v.o.Plain {
		return skip("tls.plain_wanted")
	}
	step, cancel := v.step(ctx)
	defer cancel()
	start := time.Now()
	c, state, err := v.shake(step, v.sni())
	if err != nil {
		return v.whyNoTLS(ctx, err)
	}
	_ = c.Close() // it has served
	v.hello = hello{version: state.Version, took: time.Since(start)}
	v.hello.own, v.hello.meta = sorted(state.PeerCertificates)
	version := tls.VersionName(state.Version)
	switch {
	case len(v.hello.own) == 0:
		return fail("tls.empty", v.addr)
	case state.Version < tls.VersionTLS13:
		return warn("tls.old", version)
	}
	return pass("tls.good", version, short(v.hello.took))
}

// sorted parts a relay's own certificates from the meta certificate, of which the
// key is returned; zero: there is none.
func sorted(certs []*x509.Certificate) (own []*x509.Certificate, meta key.Public) {
	for _, crt := range certs {
		digits, isMeta := strings.CutPrefix(crt.Subject.CommonName, derp.MetaCertPrefix)
		if !isMeta {
			own = append(own, crt)
			continue
		}
		if k, err := key.ParsePublicHex(digits); err == nil {
			meta = k
		}
	}
	return own, meta
}

// whyNoTLS tells failures of a handshake apart.
func (v *visit) whyNoTLS(ctx context.Context, err error) outcome {
	var header tls.RecordHeaderError
	text := oneLine(err)
	switch {
	case errors.As(err, &header) && bytes.HasPrefix(header.RecordHeader[:], []byte("HTTP/")):
		return fail("tls.http", v.addr, v.port())
	case errors.As(err, &header):
		return fail("tls.other", v.addr, strconv.Quote(string(header.RecordHeader[:])))
	case isTimeout(err):
		return fail("tls.silent", v.addr, v.port())
	}
	reset := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF)
	if name := v.sni(); name != "" {
		other, cancel := v.step(ctx)
		defer cancel()
		switch worked := v.otherNames(other); {
		case len(worked) > 0 && reset:
			return fail("tls.reset_name", name, strings.Join(worked, ", "), text)
		case len(worked) > 0:
			return fail("tls.refused_name", name, strings.Join(worked, ", "), text)
		}
	}
	switch {
	case reset:
		return fail("tls.reset", v.addr, text)
	case strings.Contains(text, "protocol version"): // crypto/tls has no value for this alert
		return fail("tls.version", text)
	}
	return fail("tls.failed", text)
}

// neutralName is an SNI that nobody has a reason to stop.
const neutralName = "www.example.com"

// otherNames says with which other SNI a handshake comes to its end.
func (v *visit) otherNames(ctx context.Context) (worked []string) {
	for _, name := range []string{"", neutralName} {
		if c, _, err := v.shake(ctx, name); err == nil {
			_ = c.Close() // it has served
			if name == "" {
				name = "no SNI"
			}
			worked = append(worked, name)
		}
	}
	return worked
}

// checkSNI looks whether a handshake without a name works, which is what clients of
// an address do.
func (v *visit) checkSNI(ctx context.Context) outcome {
	if v.o.Plain || v.sni() == "" {
		return skip(notApplicable)
	}
	step, cancel := v.step(ctx)
	defer cancel()
	c, _, err := v.shake(step, "")
	if err != nil {
		return pass("sni.strict", oneLine(err))
	}
	_ = c.Close() // it has served
	return pass("sni.any")
}

// answerHead is what an ordinary request is answered with.
type answerHead struct {
	status int
	date   time.Time // zero: it has none
	server string
	skew   time.Duration // how far this host's clock is ahead of the relay's
}

// checkClock compares this host's clock with the relay's.
func (v *visit) checkClock(ctx context.Context) outcome {
	step, cancel := v.step(ctx)
	defer cancel()
	c, _, err := v.shake(step, v.sni())
	if err != nil {
		return skip("clock.unknown", oneLine(err))
	}
	defer c.Close()
	h, err := askHead(c, v.hostHeader())
	if err != nil {
		return skip("clock.unknown", oneLine(err))
	}
	if !h.date.IsZero() {
		h.skew = v.now().Sub(h.date)
	}
	v.head = h
	const tolerated = 2 * time.Minute
	switch {
	case h.date.IsZero():
		return skip("clock.unsaid")
	case h.skew.Abs() < tolerated:
		return pass("clock.good", h.skew.Abs().Round(time.Second).String())
	case v.valid(h.date) && !v.valid(v.now()):
		return fail("clock.ours", v.now().UTC().Format(time.RFC3339), h.date.UTC().Format(time.RFC3339))
	}
	return warn("clock.off", v.now().UTC().Format(time.RFC3339), h.date.UTC().Format(time.RFC3339))
}

// valid reports whether the relay's certificate is valid at t.
func (v *visit) valid(t time.Time) bool {
	return len(v.hello.own) > 0 && !t.Before(v.hello.own[0].NotBefore) && !t.After(v.hello.own[0].NotAfter)
}

func (v *visit) hostHeader() string {
	usual := "443"
	if v.o.Plain {
		usual = "80"
	}
	if p := v.port(); p != usual {
		return net.JoinHostPort(v.node.HostName, p)
	}
	if strings.Contains(v.node.HostName, ":") {
		return "[" + v.node.HostName + "]"
	}
	return v.node.HostName
}

// askHead asks what netcheck asks of a relay.
func askHead(c net.Conn, host string) (answerHead, error) {
	if _, err := fmt.Fprintf(c, "GET /derp/latency-check HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nConnection: close\r\n\r\n", host, appName); err != nil {
		return answerHead{}, err
	}
	const most = 64 << 10 // bytes
	r, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, most)), nil)
	if err != nil {
		return answerHead{}, err
	}
	defer r.Body.Close()
	date, _ := http.ParseTime(r.Header.Get("Date")) // zero when it has none
	return answerHead{status: r.StatusCode, date: date, server: r.Header.Get("Server")}, nil
}

const day = 24 * time.Hour

// checkDates looks whether the certificate is valid now.
func (v *visit) checkDates(context.Context) outcome {
	if v.o.Plain {
		return skip(notApplicable)
	}
	leaf, now := v.hello.own[0], v.now()
	switch {
	case now.After(leaf.NotAfter):
		return fail("tls.expired", leaf.NotAfter.Format(time.DateOnly), v.node.HostName)
	case now.Before(leaf.NotBefore):
		return fail("tls.not_yet", leaf.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return pass("tls.dates", leaf.NotAfter.Format(time.DateOnly), strconv.Itoa(int(leaf.NotAfter.Sub(now)/day)))
}

// checkTrust judges the certificate as clients do, but for its dates.
func (v *visit) checkTrust(context.Context) outcome {
	own, n := v.hello.own, v.node
	switch {
	case v.o.Plain:
		return skip(notApplicable)
	case Pinned(n):
		return v.trustPin()
	case n.InsecureForTests && n.CertName == "":
		return warn("trust.unchecked")
	}
	name := n.HostName
	if n.CertName != "" {
		name = n.CertName
	}
	err := v.o.World.verifyChain(own)
	switch {
	case err != nil && selfSigned(own[0]):
		return v.trustSelfSigned()
	case err != nil && len(own) == 1:
		return fail("trust.no_chain", own[0].Issuer.String(), oneLine(err))
	case err != nil:
		return fail("trust.unknown", own[len(own)-1].Issuer.String(), oneLine(err))
	}
	if _, err := netip.ParseAddr(name); err == nil {
		if own[0].VerifyHostname(name) != nil {
			return warn("trust.address_unnamed", name, namesOf(own[0]))
		}
		return pass("trust.chain", namesOf(own[0]), own[0].Issuer.CommonName)
	}
	if own[0].VerifyHostname(name) != nil {
		return fail("trust.name", name, namesOf(own[0]))
	}
	return pass("trust.chain", name, own[0].Issuer.CommonName)
}

func pinOf(crt *x509.Certificate) string {
	return fmt.Sprintf("%s%x", derpmap.PinPrefix, sha256.Sum256(crt.Raw))
}

func selfSigned(crt *x509.Certificate) bool {
	return bytes.Equal(crt.RawIssuer, crt.RawSubject)
}

func namesOf(crt *x509.Certificate) string {
	names := append([]string(nil), crt.DNSNames...)
	for _, ip := range crt.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name"
	}
	const most = 5
	if len(names) > most {
		names = append(names[:most], "…")
	}
	return strings.Join(names, ", ")
}

func (v *visit) trustPin() outcome {
	own := v.hello.own
	switch {
	case len(own) > 1:
		return fail("trust.several", strconv.Itoa(len(own)))
	case pinOf(own[0]) != v.node.CertName:
		return fail("trust.other_pin", pinOf(own[0]), v.node.CertName)
	case v.sni() != "" && own[0].VerifyHostname(v.node.HostName) != nil:
		return fail("trust.name", v.node.HostName, namesOf(own[0]))
	}
	return pass("trust.pin", v.node.CertName)
}

// trustSelfSigned is for a certificate that only a pin makes clients believe.
func (v *visit) trustSelfSigned() outcome {
	own := v.hello.own
	pin := pinOf(own[0])
	switch {
	case v.o.Known:
		return fail("trust.unpinned", pin)
	case len(own) > 1:
		return fail("trust.several", strconv.Itoa(len(own)))
	case v.sni() != "" && own[0].VerifyHostname(v.node.HostName) != nil:
		return fail("trust.name", v.node.HostName, namesOf(own[0]))
	}
	v.node.CertName = pin
	return warn("trust.needs_pin", pin)
}
