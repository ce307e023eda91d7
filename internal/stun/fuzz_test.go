package stun

import (
	"bytes"
	"net/netip"
	"testing"
)

func FuzzParseRequest(f *testing.F) {
	f.Add(unhex(f, recordedRequest))
	f.Add(unhex(f, recordedResponse))
	f.Add(message(typeBindingRequest))
	f.Add(message(typeBindingRequest, attr(attrUsername, "user"), attr(attrSoftware, "x")))
	f.Add(sealed(attr(0x8023, "abc")))
	f.Add(sealed(attr(attrSoftware, "tailnode"), attr(attrFingerprint, "\x00\x00\x00\x00")))
	f.Add(append(message(typeBindingRequest), 0x80, 0x22, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		strictTx, strictErr := ParseRequest(b, Tailscale)
		tx, err := ParseRequest(b, RFC)
		if !bytes.Equal(b, before) {
			t.Fatal("the datagram was written to")
		}
		if strictErr == nil && (err != nil || tx != strictTx) {
			t.Fatalf("tailscale accepts %x, rfc says %x, %v", strictTx, tx, err)
		}
		if err != nil {
			return
		}
		if len(b) < minRequestLen || !bytes.Equal(b[:2], []byte{0, 1}) || TxID(b[8:20]) != tx {
			t.Fatalf("accepted %x with id %x", b, tx)
		}
		answer := AppendResponse(nil, tx, netip.MustParseAddrPort("[2001:db8::1]:4242"))
		if len(answer) > 3*len(b) {
			t.Fatalf("%d bytes in, %d out", len(b), len(answer))
		}
		if _, err := ParseRequest(answer, RFC); err == nil {
			t.Fatal("two servers could answer each other for ever")
		}
	})
}

func FuzzParseResponse(f *testing.F) {
	f.Add(unhex(f, recordedResponse))
	f.Add(unhex(f, recordedRequest))
	f.Add(AppendResponse(nil, recordedTx, netip.MustParseAddrPort("[2001:db8::1]:4242")))
	f.Add(message(typeBindingResponse, attr(attrMappedAddress, "\x00\x01\x12\x34\xc0\x00\x02\x01"), attr(attrSoftware, "x")))
	f.Add(append(unhex(f, recordedResponse), "junk"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		tx, addr, err := ParseResponse(b)
		if err != nil {
			if tx != (TxID{}) || addr.IsValid() {
				t.Fatalf("values beside the error: %x, %v", tx, addr)
			}
			return
		}
		if !addr.IsValid() || addr.Addr().Is4In6() || TxID(b[8:20]) != tx {
			t.Fatalf("accepted %x with id %x, address %v", b, tx, addr)
		}
		if againTx, again, err := ParseResponse(append(bytes.Clone(b), 0xff)); err != nil || againTx != tx || again != addr {
			t.Fatalf("a trailing byte changes it to %x, %v, %v", againTx, again, err)
		}
		if _, again, err := ParseResponse(AppendResponse(nil, tx, addr)); err != nil || again != addr {
			t.Fatalf("round trip of %v gives %v, %v", addr, again, err)
		}
	})
}
