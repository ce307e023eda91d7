package derp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// The parties of the recorded transcripts, which a real relay accepted.
var (
	serverPriv = parsePrivate("privkey:" + strings.Repeat("22", 32))
	clientPriv = parsePrivate("privkey:" + strings.Repeat("11", 32))
	nonce      = [key.NonceSize]byte(bytes.Repeat([]byte{0x33}, key.NonceSize))
)

func parsePrivate(s string) key.Private {
	k, err := key.ParsePrivate(s)
	if err != nil {
		panic(err)
	}
	return k
}

func shared(t testing.TB, k key.Private, peer key.Public) key.Shared {
	t.Helper()
	s, err := k.Shared(peer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	serverPubHex  = "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20"
	clientPubHex  = "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13"
	nonceHex      = "333333333333333333333333333333333333333333333333"
	clientInfoHex = "0200000068" + clientPubHex + nonceHex +
		"0cac76b82cb75df3a51a9d802720c3384d3eb8fccc9a8433ce902111b5d68524935652b1a16fbfc21be3b4a3ed66992a"
	serverInfoHex = "0300000035" + nonceHex + "37c731e6b681077979c9ca7f8467e3564d3eb8fccc9a8433ce902111e4"
)

// TestGoldenFrames compares every frame that has no secret with its recorded bytes.
func TestGoldenFrames(t *testing.T) {
	server, client := serverPriv.Public(), clientPriv.Public()
	ping := PingData([]byte("12345678"))
	present := Presence{Key: client, Addr: netip.MustParseAddrPort("127.0.0.1:44742"), Flags: PresentRegular}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"ServerKey":      {AppendServerKey(nil, server), "010000002844455250f09f9491" + serverPubHex},
		"SendPacket":     {AppendSendPacket(nil, server, []byte("hello")), "0400000025" + serverPubHex + "68656c6c6f"},
		"RecvPacket":     {AppendRecvPacket(nil, client, []byte("hello")), "0500000025" + clientPubHex + "68656c6c6f"},
		"KeepAlive":      {AppendKeepAlive(nil), "0600000000"},
		"home":           {AppendNotePreferred(nil, true), "070000000101"},
		"not home":       {AppendNotePreferred(nil, false), "070000000100"},
		"PeerGone":       {AppendPeerGone(nil, client, GoneNotHere), "0800000021" + clientPubHex + "01"},
		"PeerPresent":    {AppendPeerPresent(nil, present), "0900000033" + clientPubHex + "00000000000000000000ffff7f000001aec601"},
		"present nobody": {AppendPeerPresent(nil, Presence{Key: client, Flags: PresentMesh}), "0900000033" + clientPubHex + strings.Repeat("00", 18) + "02"},
		"ForwardPacket":  {AppendForwardPacket(nil, client, server, []byte{7}), "0a00000041" + clientPubHex + serverPubHex + "07"},
		"WatchConns":     {AppendWatchConns(nil), "1000000000"},
		"ClosePeer":      {AppendClosePeer(nil, client), "1100000020" + clientPubHex},
		"Ping":           {AppendPing(nil, ping), "12000000083132333435363738"},
		"Pong":           {AppendPong(nil, ping), "13000000083132333435363738"},
		"Health":         {AppendHealth(nil, "sick"), "14000000047369636b"},
		"Restarting":     {AppendRestarting(nil, 2500*time.Millisecond, 10*time.Second), "1500000008000009c400002710"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestGoldenLogin seals with the recorded nonce and opens the recorded frames.
func TestGoldenLogin(t *testing.T) {
	s := shared(t, serverPriv, clientPriv.Public())
	frame := unhex(t, clientInfoHex)
	typ, n, ok := ParseHeader(frame)
	if !ok || typ != ClientInfo || int(n) != len(frame)-HeaderSize {
		t.Fatalf("header %v %d %v", typ, n, ok)
	}
	k, sealed, err := ParseClientInfo(frame[HeaderSize:])
	if err != nil || k != clientPriv.Public() {
		t.Fatalf("client info from %v, %v", k, err)
	}
	p, err := OpenClientInfo(s, sealed)
	if err != nil || p != (ClientParams{Version: 2, CanAckPings: true}) {
		t.Errorf("params %+v, %v", p, err)
	}
	box := s.SealNonce(nil, []byte(`{"version":2}`), nonce)
	if got := hex.EncodeToString(AppendFrame(nil, ServerInfo, box)); got != serverInfoHex {
		t.Errorf("server info %s, want %s", got, serverInfoHex)
	}
	real, err := AppendServerInfo(nil, s, ServerParams{Version: 2})
	if err != nil || len(real) != len(serverInfoHex)/2 {
		t.Errorf("server info of %d bytes, %v: its JSON must be exactly that of the transcript", len(real), err)
	}
	sp, err := OpenServerInfo(shared(t, clientPriv, serverPriv.Public()), unhex(t, serverInfoHex)[HeaderSize:])
	if err != nil || sp != (ServerParams{Version: 2}) {
		t.Errorf("server params %+v, %v", sp, err)
	}
	greeting, err := ParseServerKey(AppendServerKey(nil, serverPriv.Public())[HeaderSize:])
	if err != nil || greeting != serverPriv.Public() {
		t.Errorf("greeting from %v, %v", greeting, err)
	}
}

func TestLoginRoundTrip(t *testing.T) {
	mesh, err := key.ParseMesh(strings.Repeat("Ab", 32))
	if err != nil {
		t.Fatal(err)
	}
	toServer, toClient := shared(t, clientPriv, serverPriv.Public()), shared(t, serverPriv, clientPriv.Public())
	for _, want := range []ClientParams{
		{}, {Version: 2}, {Version: 2, MeshKey: mesh}, {IsProber: true, AppName: "über app"},
	} {
		frame, err := AppendClientInfo(nil, clientPriv.Public(), toServer, want)
		if err != nil {
			t.Fatal(err)
		}
		_, sealed, err := ParseClientInfo(frame[HeaderSize:])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := OpenClientInfo(toClient, sealed); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	long, err := AppendClientInfo(nil, clientPriv.Public(), toServer, ClientParams{AppName: strings.Repeat("é", 100)})
	if err != nil {
		t.Fatal(err)
	}
	_, sealed, _ := ParseClientInfo(long[HeaderSize:])
	if got, err := OpenClientInfo(toClient, sealed); err != nil || got.AppName != strings.Repeat("é", MaxAppName/2) {
		t.Errorf("long name became %q, %v", got.AppName, err)
	}
}

func TestBoundsOfFrames(t *testing.T) {
	for _, c := range []struct {
		t           FrameType
		least, most uint32
	}{
		{SendPacket, 32, 32 + 65536},
		{ForwardPacket, 64, 64 + 65536},
		{NotePreferred, 1, 1},
		{WatchConns, 0, 0},
		{ClosePeer, 32, 32},
		{Ping, 8, 1000},
		{ClientInfo, 72, 16384},
		{ServerKey, 40, 1024},
		{0x99, 0, MaxSkip},
		{KeepAlive, 0, MaxSkip},
	} {
		for _, n := range []uint32{c.least, c.most} {
			if err := CheckLength(c.t, n); err != nil {
				t.Error(err)
			}
		}
		for _, n := range []uint32{c.least - 1, c.most + 1, 1<<32 - 1} {
			if n == c.least-1 && c.least == 0 {
				continue
			}
			if err := CheckLength(c.t, n); !errors.Is(err, ErrLength) {
				t.Errorf("%v of %d bytes: %v", c.t, n, err)
			}
		}
	}
}

func TestIsDisco(t *testing.T) {
	magic := unhex(t, "5453f09f92ac")
	if !IsDisco(append(magic, make([]byte, 56)...)) {
		t.Error("62 bytes with the magic are no disco packet")
	}
	if IsDisco(append(magic, make([]byte, 55)...)) || IsDisco(make([]byte, 124)) || IsDisco(nil) {
		t.Error("too short or without the magic, and yet disco")
	}
}

func TestOldForms(t *testing.T) {
	pub := clientPriv.Public()
	if k, r := ParsePeerGone(pub[:]); k != pub || r != GoneDisconnected {
		t.Errorf("gone without reason: %v %v", k, r)
	}
	if p := ParsePeerPresent(pub[:]); p != (Presence{Key: pub}) {
		t.Errorf("presence without address: %+v", p)
	}
	full := AppendPeerPresent(nil, Presence{Key: pub, Addr: netip.MustParseAddrPort("[2001:db8::1]:9"), Flags: PresentProber})[HeaderSize:]
	if p := ParsePeerPresent(full[:50]); p.Addr.String() != "[2001:db8::1]:9" || p.Flags != 0 {
		t.Errorf("presence without flags: %+v", p)
	}
	if p := ParsePeerPresent(full); p.Flags != PresentProber {
		t.Errorf("presence: %+v", p)
	}
}

// FuzzFrames walks a stream of frames the way a reader does and feeds each body
// within bounds to its parser.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{})
	f.Add(unhex(f, clientInfoHex))
	f.Add(unhex(f, serverInfoHex))
	f.Add(AppendServerKey(nil, serverPriv.Public()))
	f.Add(AppendPeerPresent(AppendPeerGone(AppendPing(nil, PingData{}), clientPriv.Public(), 1), Presence{}))
	f.Add(AppendForwardPacket(AppendSendPacket(nil, key.Public{1}, []byte("x")), key.Public{1}, key.Public{2}, nil))
	f.Add(AppendRestarting(AppendHealth(AppendNotePreferred(nil, true), "x"), 1, 1))
	f.Add([]byte{4, 0xff, 0xff, 0xff, 0xff})
	s := shared(f, serverPriv, clientPriv.Public())
	f.Fuzz(func(t *testing.T, b []byte) {
		for {
			typ, n, ok := ParseHeader(b)
			if !ok || CheckLength(typ, n) != nil || len(b) < HeaderSize+int(n) {
				return
			}
			body := b[HeaderSize : HeaderSize+int(n)]
			parseBody(t, s, typ, body)
			b = b[HeaderSize+int(n):]
		}
	})
}

// parseBody checks that what a parser returns makes the same bytes again, where
// the frame has one form only.
func parseBody(t *testing.T, s key.Shared, typ FrameType, body []byte) {
	var again []byte
	switch typ {
	case ServerKey:
		ParseServerKey(body)
	case ClientInfo:
		if _, sealed, err := ParseClientInfo(body); err == nil {
			OpenClientInfo(s, sealed)
		}
	case ServerInfo:
		OpenServerInfo(s, body)
	case SendPacket:
		k, p := ParsePacket(body)
		again = AppendSendPacket(nil, k, p)
	case RecvPacket:
		k, p := ParsePacket(body)
		again = AppendRecvPacket(nil, k, p)
	case ForwardPacket:
		from, to, p := ParseForwardPacket(body)
		again = AppendForwardPacket(nil, from, to, p)
	case NotePreferred:
		ParseNotePreferred(body)
	case PeerGone:
		ParsePeerGone(body)
	case PeerPresent:
		ParsePeerPresent(body)
	case ClosePeer:
		again = AppendClosePeer(nil, ParseClosePeer(body))
	case Ping, Pong:
		ParsePing(body)
	case Health:
		again = AppendHealth(nil, ParseHealth(body))
	case Restarting:
		ParseRestarting(body)
	}
	if again != nil && !bytes.Equal(again[HeaderSize:], body) {
		t.Errorf("%v %x came back as %x", typ, body, again[HeaderSize:])
	}
}

// FuzzClientInfo fuzzes what is inside the box, which anyone with a key can fill.
func FuzzClientInfo(f *testing.F) {
	for _, s := range []string{`{"version":2,"CanAckPings":true}`, `{}`, `null`, `[]`, `{"meshKey":""}`, `{"meshKey":null}`, `{"MESHKEY":"00"}`, ``} {
		f.Add([]byte(s))
	}
	toServer, toClient := shared(f, clientPriv, serverPriv.Public()), shared(f, serverPriv, clientPriv.Public())
	f.Fuzz(func(t *testing.T, msg []byte) {
		p, err := OpenClientInfo(toClient, toServer.Seal(nil, msg))
		if err != nil {
			return
		}
		if len(p.AppName) > MaxAppName {
			t.Errorf("name of %d bytes", len(p.AppName))
		}
		frame, err := AppendClientInfo(nil, clientPriv.Public(), toServer, p)
		if err != nil {
			t.Fatal(err)
		}
		_, sealed, err := ParseClientInfo(frame[HeaderSize:])
		if err != nil {
			t.Fatal(err)
		}
		if back, err := OpenClientInfo(toClient, sealed); err != nil || back != p {
			t.Errorf("%+v came back as %+v, %v", p, back, err)
		}
	})
}
