package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// Options say which relay to connect to, how to trust it, and as whom to log
// in. Only Host is needed.
type Options struct {
	// Host is the relay's name or IP address, without brackets or a port: what
	// goes into the HTTP request and, when it is a name, into TLS's SNI. The
	// certificate must be for it unless CertName says otherwise.
	Host string
	// Port is the relay's TCP port. 0: 443, or 80 with Plain.
	Port uint16
	// Addr is dialled instead of Host and Port ("address:port"), for when the
	// name does not resolve to the relay that is meant.
	Addr string
	// DialContext makes the TCP connection, such as through a proxy. nil: a
	// net.Dialer does.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Plain speaks HTTP without TLS.
	Plain bool
	// TLS is where roots, versions and the clock come from. nil: Go's defaults. It
	// is copied; its ServerName and NextProtos are not used, as official clients
	// send Host as SNI and offer no protocols.
	TLS *tls.Config
	// CertName is what the certificate is checked against, as a DERP map has it:
	// empty for Host; another name; or PinPrefix and the 64 lower-case hex digits of the
	// SHA-256 of the only certificate (apart from the meta certificate) that the
	// relay may present.
	CertName string
	// Insecure trusts any certificate. It counts only while CertName is empty.
	Insecure bool

	// WebSocket wraps DERP in WebSocket messages, as clients in browsers must.
	WebSocket bool
	// NoFastStart waits for the HTTP response even where the relay's meta
	// certificate makes that unnecessary.
	NoFastStart bool
	// IdealNode is the relay of this region that the client would have liked
	// better than this one. Empty: this one is it.
	IdealNode string

	// Key is whom to log in as. Zero: a fresh key.
	Key key.Private
	// MeshKey opens WatchConns, ClosePeer and Forward. Zero: an ordinary client.
	MeshKey key.Mesh
	// IsProber tells the relay that this client measures it.
	IsProber bool
	// CanAckPings makes Recv answer Pings, and tells the relay so.
	CanAckPings bool
	// AppName is for the relay's statistics, at most derp.MaxAppName bytes.
	AppName string
}

// ParseURL returns Options for the relay at an http or https URL: Host, Port
// and Plain are set. A path may be missing or "/derp", which is what all relays
// serve.
func ParseURL(s string) (Options, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Options{}, fmt.Errorf("client: relay's URL: %w", err)
	}
	o := Options{Host: u.Hostname(), Plain: u.Scheme == "http"}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return Options{}, fmt.Errorf("client: relay's URL %q has no http or https scheme; hint: write https://%s", s, strings.TrimLeft(s, "/"))
	case u.Path != "" && u.Path != "/" && u.Path != derp.Path, u.RawQuery != "", u.Fragment != "", u.User != nil:
		return Options{}, fmt.Errorf("client: relay's URL %q says more than a host and a port; hint: the path is always %s", s, derp.Path)
	case u.Port() != "":
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || port == 0 {
			return Options{}, fmt.Errorf("client: relay's URL %q has a port outside 1 to 65535", s)
		}
		o.Port = uint16(port)
	}
	return o, o.check()
}

// check finds what would make a request nobody meant to send.
func (o *Options) check() error {
	switch {
	case o.Host == "":
		return errors.New("client: no relay to connect to; hint: name its host")
	case strings.ContainsAny(o.Host, "[]/ \t\r\n"), strings.Contains(o.Host, ":") && !o.hostIsIP():
		return fmt.Errorf("client: %q is no host name and no IP address; hint: give the port apart from it", o.Host)
	case strings.ContainsAny(o.IdealNode, "\r\n"):
		return fmt.Errorf("client: ideal node %q has a line break", o.IdealNode)
	}
	_, err := parsePin(o.CertName)
	return err
}

func (o *Options) hostIsIP() bool {
	_, err := netip.ParseAddr(o.Host)
	return err == nil
}

func (o *Options) defaultPort() uint16 {
	if o.Plain {
		return 80
	}
	return 443
}

// addr is what to dial.
func (o *Options) addr() string {
	if o.Addr != "" {
		return o.Addr
	}
	port := o.Port
	if port == 0 {
		port = o.defaultPort()
	}
	return net.JoinHostPort(o.Host, strconv.Itoa(int(port)))
}

// hostHeader is the Host of the request: the port stands in it unless it is the
// scheme's own, and IPv6 addresses are in brackets.
func (o *Options) hostHeader() string {
	if o.Port != 0 && o.Port != o.defaultPort() {
		return net.JoinHostPort(o.Host, strconv.Itoa(int(o.Port)))
	}
	if strings.Contains(o.Host, ":") {
		return "[" + o.Host + "]"
	}
	return o.Host
}

func (o *Options) params() derp.ClientParams {
	return derp.ClientParams{
		MeshKey: o.MeshKey, Version: derp.ProtocolVersion,
		CanAckPings: o.CanAckPings, IsProber: o.IsProber, AppName: o.AppName,
	}
}
