package web

import (
	"net/http"
	"strings"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

type upgradeKind int

const (
	noUpgrade upgradeKind = iota
	rawDERP               // DERP frames right behind the header
	webSocket             // DERP frames inside WebSocket messages
)

// upgrade is what a request asks for.
type upgrade struct {
	kind      upgradeKind
	fastStart bool // no HTTP response is wanted
	notIdeal  bool // the client named another relay as its ideal one
	via       via  // what proxies say about the client
}

// decide is the only place that reads a request for an upgrade. The method, the
// query and the Connection header mean nothing.
//
// Source: observed on derper 1.102, whose first clients asked for "websocket"
// and went on in plain frames.
func decide(r *http.Request) upgrade {
	if r.URL.Path != derp.Path || r.Method == http.MethodConnect {
		return upgrade{}
	}
	up := upgrade{
		fastStart: r.Header.Get(derp.FastStartHeader) == "1",
		notIdeal:  r.Header.Get(derp.IdealNodeHeader) != "",
		via:       viaOf(r.Header),
	}
	switch strings.ToLower(r.Header.Get("Upgrade")) {
	case strings.ToLower(derp.UpgradeProtocol):
		up.kind = rawDERP
	case "websocket":
		protocols := strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ",")
		if strings.Contains(strings.ToLower(protocols), derp.WebSocketProtoID) {
			return upgrade{kind: webSocket, via: up.via} // fast start and ideal node are not read there
		}
		up.kind = rawDERP
	default:
		return upgrade{}
	}
	return up
}

// parse decides about a whole header. It says noUpgrade about everything that
// net/http might refuse or that carries a body: net/http sees it again and has
// the last word, so this may be as strict as it likes.
func (h *head) parse(b []byte) upgrade {
	if !plainText(b) {
		return upgrade{}
	}
	h.bytes.Reset(b)
	h.reader.Reset(&h.bytes)
	r, err := http.ReadRequest(h.reader)
	switch {
	case err != nil, r.ProtoMajor != 1:
		return upgrade{}
	case h.reader.Buffered() > 0 || h.bytes.Len() > 0: // it saw an end before the end
		return upgrade{}
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0 || r.Header.Get("Expect") != "":
		return upgrade{}
	case r.URL.Host != "" || !plainHost(r.Host):
		return upgrade{}
	}
	for name := range r.Header {
		if strings.Contains(name, " ") {
			return upgrade{}
		}
	}
	return decide(r)
}

// plainText reports whether b is printable ASCII in lines.
func plainText(b []byte) bool {
	for _, c := range b {
		if (c < ' ' || c > '~') && c != '\r' && c != '\n' && c != '\t' {
			return false
		}
	}
	return true
}

// plainHost reports whether s can be nothing but a name or an IP address, with
// or without a port.
func plainHost(s string) bool {
	for _, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		digit := c >= '0' && c <= '9'
		if !letter && !digit && !strings.ContainsRune("-._:[]", rune(c)) {
			return false
		}
	}
	return s != ""
}

// switchingProtocols is the response to a raw upgrade, byte for byte as derper
// sends it; clients look at the status alone.
func switchingProtocols(server key.Public) []byte {
	return []byte("HTTP/1.1 101 Switching Protocols\r\n" +
		"Upgrade: " + derp.UpgradeProtocol + "\r\n" +
		"Connection: Upgrade\r\n" +
		derp.VersionHeader + ": 2\r\n" +
		derp.PublicKeyHeader + ": " + server.Hex() + "\r\n" +
		"\r\n")
}
