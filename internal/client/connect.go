package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

const (
	// dialLimit is how long Dial may take from the name to the end of the login,
	// as official clients have it.
	dialLimit = 10 * time.Second
	// maxHead bounds the relay's HTTP response in bytes, body excluded.
	maxHead = 16 << 10
)

// Dial connects to a relay and logs in. It returns once the relay has answered
// the login, so it has admitted the client. It gives up when ctx is done or
// after 10 seconds, whichever comes first; ctx means nothing after it has
// returned.
//
// A relay that does not admit a key hangs up without a word. The error wraps
// io.EOF then, as it does when the relay or something on the way hangs up for
// another reason.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Key.IsZero() {
		o.Key = key.NewPrivate()
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	raw, err := o.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("client: connect: %w", err) // it names the address
	}
	// Closing the socket ends whatever waits on it, be it HTTP, TLS or DERP.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	c, err := o.logIn(ctx, raw)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%v)", ctx.Err(), err)
		}
		return nil, fmt.Errorf("client: connect to %s: %w", o.addr(), err)
	}
	return c, nil
}

func (o *Options) dial(ctx context.Context) (net.Conn, error) {
	if o.DialContext != nil {
		return o.DialContext(ctx, "tcp", o.addr())
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", o.addr())
}

// logIn makes a client of a TCP connection: TLS, HTTP, DERP.
func (o *Options) logIn(ctx context.Context, raw net.Conn) (*Client, error) {
	c := &Client{key: o.Key, raw: raw, conn: raw, ackPings: o.CanAckPings, done: make(chan struct{})}
	if !o.Plain {
		cfg, err := o.tlsConfig()
		if err != nil {
			return nil, err
		}
		secure := tls.Client(raw, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("shake hands: %w", err)
		}
		state := secure.ConnectionState()
		c.conn, c.tls = secure, &state
	}
	if o.WebSocket {
		if err := c.startWebSocket(ctx, o); err != nil {
			return nil, err
		}
	}
	c.in = bufio.NewReaderSize(patient{c.conn}, readBuffer)
	if err := c.startDERP(o); err != nil {
		return nil, err
	}
	return c, nil
}

// startDERP upgrades, unless a WebSocket has done so, and logs in.
func (c *Client) startDERP(o *Options) error {
	if c.tls != nil && !o.WebSocket && !o.NoFastStart {
		c.server, c.fast = metaKey(*c.tls)
	}
	if c.fast {
		return c.fastStart(o)
	}
	if !o.WebSocket {
		if err := c.write(func(b []byte) []byte { return o.appendRequest(b, false) }); err != nil {
			return fmt.Errorf("ask for the upgrade: %w", err)
		}
		if err := readResponse(c.in); err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
	}
	server, err := c.readGreeting()
	if err != nil {
		return err
	}
	c.server = server
	hello, err := c.hello(nil, o)
	if err != nil {
		return err
	}
	if err := c.write(func([]byte) []byte { return hello }); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	return c.readAnswer()
}

// fastStart saves a round trip: the login follows the request in one write, and
// no HTTP response comes. The greeting comes as always, and must agree with the
// meta certificate.
func (c *Client) fastStart(o *Options) error {
	first, err := c.hello(o.appendRequest(nil, true), o)
	if err != nil {
		return err
	}
	if err := c.write(func([]byte) []byte { return first }); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	server, err := c.readGreeting()
	if err != nil {
		return err
	}
	if server != c.server {
		return fmt.Errorf("relay greets as %v, but its meta certificate says %v; hint: something on the way ends TLS and passes the meta certificate on", server, c.server)
	}
	return c.readAnswer()
}

// appendRequest appends the request for the upgrade, which is byte for byte
// that of official clients: a relay behind a picky proxy must not be reachable
// for one and not for the other.
func (o *Options) appendRequest(b []byte, fast bool) []byte {
	line := func(parts ...string) {
		for _, p := range parts {
			b = append(b, p...)
		}
		b = append(b, "\r\n"...)
	}
	line("GET ", derp.Path, " HTTP/1.1")
	line("Host: ", o.hostHeader())
	line("User-Agent: Go-http-client/1.1")
	line("Connection: Upgrade")
	if fast {
		line(derp.FastStartHeader, ": 1")
	}
	if o.IdealNode != "" {
		line(derp.IdealNodeHeader, ": ", o.IdealNode)
	}
	line("Upgrade: ", derp.UpgradeProtocol)
	line()
	return b
}

// readResponse reads the HTTP response up to its empty line. It must be 101.
func readResponse(in *bufio.Reader) error {
	var head []byte
	for !bytes.HasSuffix(head, []byte("\n\r\n")) && !bytes.HasSuffix(head, []byte("\n\n")) {
		piece, err := in.ReadSlice('\n')
		if head = append(head, piece...); len(head) > maxHead {
			return fmt.Errorf("response has more than %d bytes of header", maxHead)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("read the response: %w", err)
		}
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil {
		return fmt.Errorf("read the response: %w", err)
	}
	defer res.Body.Close() // holds nothing: it would come after head
	return checkStatus(res)
}

func checkStatus(res *http.Response) error {
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("answer is %q, want 101; hint: is this a DERP relay's address?", strings.TrimSpace(res.Status))
	}
	return nil
}

// hello appends the ClientInfo frame.
func (c *Client) hello(b []byte, o *Options) ([]byte, error) {
	shared, err := c.key.Shared(c.server)
	if err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	c.shared = shared
	return derp.AppendClientInfo(b, c.key.Public(), shared, o.params())
}

func (c *Client) readGreeting() (key.Public, error) {
	body, err := c.expect(derp.ServerKey)
	if err != nil {
		return key.Public{}, fmt.Errorf("wait for the relay's key: %w", err)
	}
	return derp.ParseServerKey(body)
}

// readAnswer ends the login. The relay's ServerInfo comes before anything else.
func (c *Client) readAnswer() error {
	body, err := c.expect(derp.ServerInfo)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("log in: relay hung up: %w; hint: does it admit %v?", err, c.key.Public())
	}
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	info, err := derp.OpenServerInfo(c.shared, body)
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	c.info.Store(&info)
	return nil
}

// expect reads a frame that must be a want.
func (c *Client) expect(want derp.FrameType) (body []byte, err error) {
	t, n, err := c.readHeader()
	if err != nil {
		return nil, err
	}
	if t != want {
		return nil, fmt.Errorf("relay sends %v, want %v", t, want)
	}
	return c.readBody(t, n)
}
