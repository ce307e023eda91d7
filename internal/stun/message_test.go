package stun

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Recorded between a Tailscale client and derper.
const (
	recordedRequest  = "000100142112a4420102030405060708090a0b0c802200087461696c6e6f646580280004b32c370f"
	recordedResponse = "0101000c2112a4420102030405060708090a0b0c002000080001ae4d5e12a443"
)

var (
	recordedTx   = TxID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	recordedAddr = netip.MustParseAddrPort("127.0.0.1:36703")
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// attr writes one attribute with its padding.
func attr(kind uint16, value string) string {
	b := appendAttrHeader(nil, kind, len(value))
	b = append(b, value...)
	return string(append(b, make([]byte, -len(value)&3)...))
}

// message writes a message whose length field is right.
func message(kind uint16, attributes ...string) []byte {
	all := strings.Join(attributes, "")
	return append(appendHeader(nil, kind, len(all), recordedTx), all...)
}

// sealed writes a binding request whose last attribute is a correct FINGERPRINT.
func sealed(attributes ...string) []byte {
	return seal(message(typeBindingRequest, append(attributes, attr(attrFingerprint, "\x00\x00\x00\x00"))...))
}

// seal corrects the FINGERPRINT at the end of b.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[len(b)-4:], fingerprint(b[:len(b)-8]))
	return b
}

// patched is b with bytes replaced from an offset on.
func patched(b []byte, at int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], with)
	return b
}

func TestRecordedExchange(t *testing.T) {
	request, response := unhex(t, recordedRequest), unhex(t, recordedResponse)
	if got := AppendRequest([]byte("before"), recordedTx); string(got) != "before"+string(request) {
		t.Errorf("AppendRequest:\n got %x\nwant %x", got[6:], request)
	}
	for _, mode := range []Mode{Tailscale, RFC} {
		if tx, err := ParseRequest(request, mode); err != nil || tx != recordedTx {
			t.Errorf("ParseRequest(%v) = %x, %v", mode, tx, err)
		}
	}
	if got := AppendResponse([]byte("before"), recordedTx, recordedAddr); string(got) != "before"+string(response) {
		t.Errorf("AppendResponse:\n got %x\nwant %x", got[6:], response)
	}
	if tx, addr, err := ParseResponse(response); err != nil || tx != recordedTx || addr != recordedAddr {
		t.Errorf("ParseResponse = %x, %v, %v", tx, addr, err)
	}
}

// The sample of RFC 5769, sections 2.2 and 2.3: the addresses and ids are known, and the messages carry attributes that
// we do not make ourselves.
func TestRFC5769Responses(t *testing.T) {
	tx := TxID(unhex(t, "b7e7a701bc34d686fa87dfae"))
	software := attr(attrSoftware, "test vector")
	for want, value := range map[string]string{
		"192.0.2.1:32853": "0001a147e112a643",
		"[2001:db8:1234:5678:11:2233:4455:6677]:32853": "0002a1470113a9faa5d3f179bc25f4b5bed2b9d9",
	} {
		t.Run(want, func(t *testing.T) {
			body := software + attr(attrXORMappedAddress, string(unhex(t, value)))
			b := append(appendHeader(nil, typeBindingResponse, len(body), tx), body...)
			gotTx, addr, err := ParseResponse(b)
			if err != nil || gotTx != tx || addr.String() != want {
				t.Errorf("ParseResponse = %x, %v, %v", gotTx, addr, err)
			}
			if made := AppendResponse(nil, tx, netip.MustParseAddrPort(want)); string(made[24:]) != string(unhex(t, value)) {
				t.Errorf("AppendResponse made value %x, want %s", made[24:], value)
			}
		})
	}
}

// requestTest is a datagram and what each mode says to it.
type requestTest struct {
	name           string
	in             []byte
	tailscale, rfc error
}

func (r requestTest) run(t *testing.T) {
	for mode, want := range map[Mode]error{Tailscale: r.tailscale, RFC: r.rfc, Mode(9): r.tailscale} {
		tx, err := ParseRequest(r.in, mode)
		if !errors.Is(err, want) {
			t.Errorf("mode %d: got %v, want %v", mode, err, want)
		}
		if (err == nil) != (tx == recordedTx) {
			t.Errorf("mode %d: id %x with error %v", mode, tx, err)
		}
	}
}

func TestRequestsAnswered(t *testing.T) {
	good := unhex(t, recordedRequest)
	tailnode := attr(attrSoftware, "tailnode")
	zeroPrint := attr(attrFingerprint, "\x00\x00\x00\x00")
	bare := message(typeBindingRequest)
	tests := []requestTest{
		{"tailscale", good, nil, nil},
		{"attributes between", sealed(tailnode, attr(0x8023, "abc"), attr(attrUsername, "u")), nil, nil},
		{"attribute before software", sealed(attr(0x8023, "abc"), tailnode), nil, nil},
		{"second software", sealed(attr(attrSoftware, "other"), tailnode), nil, nil},
		{"first software", sealed(tailnode, attr(attrSoftware, "other")), nil, nil},
		{"tailscale, unknown required attribute", sealed(tailnode, attr(0x0003, "\x00\x00\x00\x06")), nil, nil},
		{"tailscale, wrong length field", seal(patched(good, 2, 0xff, 0xff)), nil, nil},
		{"tailscale, early fingerprint", sealed(tailnode, zeroPrint), nil, nil},

		{"header alone", bare, errNotTailscale, nil},
		{"no software", sealed(), errNotTailscale, nil},
		{"other software", sealed(attr(attrSoftware, "tailnod3")), errNotTailscale, nil},
		{"longer software", sealed(attr(attrSoftware, "tailnode\x00")), errNotTailscale, nil},
		{"no fingerprint", message(typeBindingRequest, tailnode), errFingerprint, nil},
		{"every known required attribute", message(typeBindingRequest, attr(0x0001, ""), attr(0x0006, "a"), attr(0x0008, ""),
			attr(0x0009, ""), attr(0x000a, ""), attr(0x0014, ""), attr(0x0015, ""), attr(0x001c, ""), attr(0x001d, ""),
			attr(0x001e, ""), attr(0x0020, "")), errNotTailscale, nil},
		{"unknown optional attribute", message(typeBindingRequest, attr(0x8000, "abc"), attr(0xffff, "")), errNotTailscale, nil},
	}
	for _, test := range tests {
		t.Run(test.name, test.run)
	}
}

func TestRequestsRefused(t *testing.T) {
	good := unhex(t, recordedRequest)
	tailnode := attr(attrSoftware, "tailnode")
	bare := message(typeBindingRequest)
	longPrint := message(typeBindingRequest, tailnode, attr(attrFingerprint, "\x00\x00\x00\x00more"))
	binary.BigEndian.PutUint32(longPrint[36:], fingerprint(longPrint[:32]))
	tests := []requestTest{
		{"wrong fingerprint", patched(good, len(good)-1, good[len(good)-1]^1), errFingerprint, errFingerprint},
		{"changed id", patched(good, 8, 0xff), errFingerprint, errFingerprint},
		{"short fingerprint", message(typeBindingRequest, tailnode, attr(attrFingerprint, "\x00\x00\x00")), errFingerprint, errFingerprint},
		{"long fingerprint", longPrint, errFingerprint, errFingerprint},
		{"fingerprint not last", append(patched(good, 3, 24), attr(0x8023, "")...), errFingerprint, errFingerprint},
		{"change request", message(typeBindingRequest, attr(0x0003, "\x00\x00\x00\x06")), errNotTailscale, errUnknownRequired},
		{"response port", message(typeBindingRequest, attr(0x0027, "\x00\x35\x00\x00")), errNotTailscale, errUnknownRequired},
		{"highest required attribute", message(typeBindingRequest, attr(0x7fff, "")), errNotTailscale, errUnknownRequired},
		{"length too great", patched(bare, 3, 4), errNotTailscale, errLength},
		{"length too small", patched(message(typeBindingRequest, tailnode), 3, 8), errFingerprint, errLength},
		{"trailing attribute header", append(bytes.Clone(good), 0, 0, 0, 0), errFingerprint, errLength},

		{"empty", nil, errNotSTUN, errNotSTUN},
		{"header cut", bare[:19], errNotSTUN, errNotSTUN},
		{"wrong cookie", patched(good, 7, 0x43), errNotSTUN, errNotSTUN},
		{"top bit set", patched(good, 0, 0x80), errNotSTUN, errNotSTUN},
		{"second bit set", patched(good, 0, 0x40), errNotSTUN, errNotSTUN},
		{"disco packet", append([]byte("TS\xf0\x9f\x92\xac"), make([]byte, 80)...), errNotSTUN, errNotSTUN},
		{"response", unhex(t, recordedResponse), errNotRequest, errNotRequest},
		{"error response", message(0x0111), errNotRequest, errNotRequest},
		{"indication", message(0x0011), errNotRequest, errNotRequest},
		{"allocate", message(0x0003), errNotRequest, errNotRequest},
		{"trailing byte", append(bytes.Clone(good), 0), errAttributes, errAttributes},
		{"attribute header cut", append(bytes.Clone(bare), 0x80, 0x22, 0), errAttributes, errAttributes},
		{"value cut", good[:30], errAttributes, errAttributes},
		{"padding cut", append(bytes.Clone(bare), 0x80, 0x22, 0, 1, 'x'), errAttributes, errAttributes},
		{"greatest length", append(bytes.Clone(bare), 0x80, 0x22, 0xff, 0xff), errAttributes, errAttributes},
	}
	for _, test := range tests {
		t.Run(test.name, test.run)
	}
}

// A request that a network damaged in any one bit gets no answer.
func TestEveryBitOfRequestCounts(t *testing.T) {
	good := unhex(t, recordedRequest)
	for bit := range len(good) * 8 {
		damaged := patched(good, bit/8, good[bit/8]^(1<<(bit%8)))
		if _, err := ParseRequest(damaged, Tailscale); err == nil {
			t.Errorf("accepted with bit %d of byte %d turned", bit%8, bit/8)
		}
	}
}

func TestResponseNeverOverThreeTimesRequest(t *testing.T) {
	least := message(typeBindingRequest)
	if _, err := ParseRequest(least, RFC); err != nil {
		t.Fatalf("the least request is refused: %v", err)
	}
	if _, err := ParseRequest(least[:len(least)-1], RFC); err == nil {
		t.Fatal("a shorter request is accepted")
	}
	for addr, want := range map[string]int{
		"192.0.2.1:1":            32,
		"[::ffff:192.0.2.1]:1":   32,
		"[2001:db8::1]:65535":    44,
		"[fe80::1%eth0]:1":       44,
		"255.255.255.255:65535":  32,
		"[ffff:ffff::ffff]:4242": 44,
	} {
		n := len(AppendResponse(nil, recordedTx, netip.MustParseAddrPort(addr)))
		if n != want || n > MaxResponseLen || n > 3*len(least) {
			t.Errorf("response to %s is %d bytes, want %d; most %d; request %d", addr, n, want, MaxResponseLen, len(least))
		}
	}
}

func TestParseResponse(t *testing.T) {
	xored4 := attr(attrXORMappedAddress, "\x00\x01\xae\x4d\x5e\x12\xa4\x43")
	xoredAlt := attr(attrXORMappedAddressAlt, "\x00\x01\xae\x4d\x5e\x12\xa4\x43")
	plain4 := attr(attrMappedAddress, "\x00\x01\x12\x34\xc0\x00\x02\x01")
	plainMapped := attr(attrMappedAddress, "\x00\x02\x12\x34\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01")
	whole := message(typeBindingResponse, xored4)
	tests := []struct {
		name string
		in   []byte
		want string // an address, or the error
	}{
		{"xored", whole, "127.0.0.1:36703"},
		{"xored, alternative number", message(typeBindingResponse, xoredAlt), "127.0.0.1:36703"},
		{"xored wins over plain before it", message(typeBindingResponse, plain4, xored4), "127.0.0.1:36703"},
		{"xored wins over plain after it", message(typeBindingResponse, xored4, plain4), "127.0.0.1:36703"},
		{"plain", message(typeBindingResponse, attr(attrSoftware, "x"), plain4), "192.0.2.1:4660"},
		{"plain, IPv4 in IPv6 form", message(typeBindingResponse, plainMapped), "192.0.2.1:4660"},
		{
			"first of two xored", message(typeBindingResponse, xoredAlt, attr(attrXORMappedAddress, "\x00\x01\x00\x00\x00\x00\x00\x00")),
			"127.0.0.1:36703",
		},
		{"first of two plain", message(typeBindingResponse, plain4, plainMapped[:4]+"\x00\x02"+strings.Repeat("\x01", 18)), "192.0.2.1:4660"},
		{"trailing bytes", append(bytes.Clone(whole), "junk!"...), "127.0.0.1:36703"},
		{"attribute past the length", append(message(typeBindingResponse, plain4), xored4...), "192.0.2.1:4660"},

		{"empty", nil, errNotSTUN.Error()},
		{"request", unhex(t, recordedRequest), errNotResponse.Error()},
		{"error response", message(0x0111), errNotResponse.Error()},
		{"cut", whole[:len(whole)-1], errCut.Error()},
		{"length splits an attribute", patched(whole, 3, 8), errAttributes.Error()},
		{"no attributes", message(typeBindingResponse), errNoAddress.Error()},
		{"no address", message(typeBindingResponse, attr(attrSoftware, "x")), errNoAddress.Error()},
		{"unknown family", patched(whole, 25, 3), errAddress.Error()},
		{"family zero", patched(whole, 25, 0), errAddress.Error()},
		{"IPv6 family, IPv4 length", patched(whole, 25, 2), errAddress.Error()},
		{"IPv4 family, IPv6 length", patched(message(typeBindingResponse, plainMapped), 25, 1), errAddress.Error()},
		{"no port", message(typeBindingResponse, attr(attrXORMappedAddress, "\x00\x01\x00")), errAddress.Error()},
		{"no address bytes", message(typeBindingResponse, attr(attrMappedAddress, "\x00\x01\x00\x00")), errAddress.Error()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tx, addr, err := ParseResponse(test.in)
			got := addr.String()
			if err != nil {
				got = err.Error()
			}
			if got != test.want || (err == nil) != (tx == recordedTx) {
				t.Errorf("got %s, id %x; want %s", got, tx, test.want)
			}
		})
	}
}

// Both directions agree with each other over all ids and addresses.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tx := TxID(rapid.SliceOfN(rapid.Byte(), 12, 12).Draw(t, "tx"))
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
		ip, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "ip"))
		addr := netip.AddrPortFrom(ip.Unmap(), rapid.Uint16().Draw(t, "port"))
		for _, mode := range []Mode{Tailscale, RFC} {
			if got, err := ParseRequest(AppendRequest(nil, tx), mode); err != nil || got != tx {
				t.Fatalf("request in mode %v: %x, %v", mode, got, err)
			}
		}
		gotTx, gotAddr, err := ParseResponse(AppendResponse(nil, tx, addr))
		if err != nil || gotTx != tx || gotAddr != addr {
			t.Fatalf("response: %x, %v, %v; want %x, %v", gotTx, gotAddr, err, tx, addr)
		}
	})
}

func TestCodecDoesNotAllocate(t *testing.T) {
	request := AppendRequest(nil, recordedTx)
	from := netip.MustParseAddrPort("[2001:db8::1]:4242")
	out := make([]byte, 0, MaxResponseLen)
	allocs := testing.AllocsPerRun(100, func() {
		tx, err := ParseRequest(request, RFC)
		if err != nil {
			t.Fatal(err)
		}
		answer := AppendResponse(out, tx, from)
		if _, _, err := ParseResponse(answer); err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRequest(answer, RFC); err == nil { // the refusal is free too
			t.Fatal("accepted a response")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per exchange, want 0", allocs)
	}
}

func TestMode(t *testing.T) {
	for _, mode := range []Mode{Tailscale, RFC} {
		if got, err := ParseMode(mode.String()); err != nil || got != mode {
			t.Errorf("ParseMode(%q) = %v, %v", mode.String(), got, err)
		}
	}
	if _, err := ParseMode("RFC8489"); err == nil || !strings.Contains(err.Error(), "use tailscale or rfc") {
		t.Errorf("an unknown mode gives %v", err)
	}
}
