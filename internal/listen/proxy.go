package listen

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

const (
	// headerLimit is how long a proxy may take for its header. The protocol's
	// text asks for at least 3 s, so that one lost packet is survived.
	headerLimit = 5 * time.Second

	maxHeader1  = 107     // bytes of a version 1 header with its line end; from the protocol's text
	header2     = 16      // bytes of a version 2 header before its addresses: signature (12), version, family, length (2)
	maxAddress2 = 4 << 10 // bytes after those: addresses and TLVs; a client certificate's may be long
)

// Proxied is a TCP connection that came through a proxy: the socket is the
// proxy's, the address the client's.
type Proxied struct {
	*net.TCPConn
	from *net.TCPAddr
}

// RemoteAddr returns the address of the client that the proxy named.
func (p *Proxied) RemoteAddr() net.Addr { return p.from }

// TCP returns the socket, for those who read and write it themselves.
func (p *Proxied) TCP() *net.TCPConn { return p.TCPConn }

// proxiedStream is the same over anything but TCP.
type proxiedStream struct {
	net.Conn
	from *net.TCPAddr
}

func (p *proxiedStream) RemoteAddr() net.Addr { return p.from }

func (p *proxiedStream) CloseWrite() error {
	if half, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// isProxy reports whether c comes from a proxy that must name its client.
func (d *Door) isProxy(c net.Conn) bool {
	switch addr := c.RemoteAddr().(type) {
	case *net.TCPAddr:
		ip := addr.AddrPort().Addr().Unmap().WithZone("")
		for _, p := range d.proxies {
			if p.Contains(ip) {
				return true
			}
		}
	case *net.UnixAddr:
		return d.proxyUnix
	}
	return false
}

// unveil reads the PROXY header of c and returns a connection with the client's
// address. Not a byte behind the header is read.
func unveil(ctx context.Context, c net.Conn) (net.Conn, error) {
	if err := c.SetReadDeadline(time.Now().Add(headerLimit)); err != nil {
		return nil, fmt.Errorf("set a deadline: %w", err)
	}
	release := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }) // fails only when it is closed
	from, err := readHeader(c)
	if !release() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("clear the deadline: %w", err)
	}
	if !from.IsValid() {
		return c, nil
	}
	addr := net.TCPAddrFromAddrPort(from)
	if tcp, ok := c.(*net.TCPConn); ok {
		return &Proxied{tcp, addr}, nil
	}
	return &proxiedStream{c, addr}, nil
}

var (
	errNothing    = errors.New("it came and went") // a check whether the port is open
	errNoHeader   = errors.New("no PROXY header")
	errLongHeader = fmt.Errorf("a PROXY header with more than %d bytes of addresses and extensions", maxAddress2)
	errNotStream  = errors.New("a PROXY header that names a datagram protocol")
)

// readHeader reads a PROXY header of either version, to its last byte and no
// further. The address is invalid when the header names no client: a proxy's
// own health check, or a client without an IP address.
func readHeader(r io.Reader) (netip.AddrPort, error) {
	raw, err := rawHeader(r)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if isUnspecified2(raw) {
		return netip.AddrPort{}, nil
	}
	in := bytes.NewReader(raw)
	buffered := bufio.NewReaderSize(in, max(len(raw), header2))
	h, err := proxyproto.Read(buffered)
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("read the PROXY header: %w", err)
	case buffered.Buffered() > 0 || in.Len() > 0:
		return netip.AddrPort{}, errors.New("read the PROXY header: it ends before its end")
	case h.Command.IsLocal() || h.TransportProtocol.IsUnspec() || h.TransportProtocol.IsUnix():
		return netip.AddrPort{}, nil
	case h.TransportProtocol.IsDatagram():
		return netip.AddrPort{}, errNotStream
	}
	source, _, ok := h.TCPAddrs()
	if !ok {
		return netip.AddrPort{}, errors.New("read the PROXY header: no addresses")
	}
	from := source.AddrPort()
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	if !from.Addr().IsValid() || from.Addr().IsUnspecified() {
		return netip.AddrPort{}, nil
	}
	return from, nil
}

// isUnspecified2 reports whether a header of version 2 speaks for a client
// without saying whose. The library leaves it to its users to take that, by
// refusing it; the protocol lets receivers do either.
func isUnspecified2(raw []byte) bool {
	return bytes.HasPrefix(raw, proxyproto.SIGV2) &&
		raw[header2-4] == byte(proxyproto.PROXY) && raw[header2-3] == byte(proxyproto.UNSPEC)
}

// rawHeader reads the bytes of one header.
//
//	version 1: "PROXY ", text, CR LF
//	version 2: signature (12) | version and command (1) | family (1) | length (2) | addresses and TLVs (length)
//
// No header of either version is shorter than the signature of version 2, so that
// much can be read before it is known which it is.
func rawHeader(r io.Reader) ([]byte, error) {
	head := make([]byte, len(proxyproto.SIGV2), maxHeader1)
	if n, err := io.ReadFull(r, head); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return nil, errNothing
		}
		return nil, fmt.Errorf("%w: %w", errNoHeader, err)
	}
	switch {
	case bytes.Equal(head, proxyproto.SIGV2):
		return rawHeader2(r, head)
	case bytes.HasPrefix(head, []byte("PROXY ")):
		return rawHeader1(r, head)
	}
	return nil, errNoHeader
}

func rawHeader1(r io.Reader, head []byte) ([]byte, error) {
	for !bytes.HasSuffix(head, []byte("\r\n")) {
		if len(head) == maxHeader1 {
			return nil, fmt.Errorf("a PROXY header without a line end in %d bytes", maxHeader1)
		}
		at := len(head)
		head = head[:at+1]
		if _, err := io.ReadFull(r, head[at:]); err != nil {
			return nil, fmt.Errorf("read the PROXY header: %w", err)
		}
	}
	return head, nil
}

func rawHeader2(r io.Reader, head []byte) ([]byte, error) {
	head = head[:header2]
	if _, err := io.ReadFull(r, head[len(proxyproto.SIGV2):]); err != nil {
		return nil, fmt.Errorf("read the PROXY header: %w", err)
	}
	n := int(binary.BigEndian.Uint16(head[header2-2:]))
	if n > maxAddress2 {
		return nil, errLongHeader
	}
	head = append(head, make([]byte, n)...)
	if _, err := io.ReadFull(r, head[header2:]); err != nil {
		return nil, fmt.Errorf("read the PROXY header: %w", err)
	}
	return head, nil
}
