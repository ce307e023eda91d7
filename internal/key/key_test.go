package key

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// The key pairs of section 13.0 of the protocol notes, accepted by a real relay.
const (
	serverPrivHex = "2222222222222222222222222222222222222222222222222222222222222222"
	serverPubHex  = "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20"
	clientPrivHex = "1111111111111111111111111111111111111111111111111111111111111111"
	clientPubHex  = "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13"
)

func mustPrivate(t *testing.T, digits string) Private {
	t.Helper()
	k, err := ParsePrivate("privkey:" + digits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKnownVectors(t *testing.T) {
	server, client := mustPrivate(t, serverPrivHex), mustPrivate(t, clientPrivHex)
	if got := server.Public().Hex(); got != serverPubHex {
		t.Errorf("server public key %s, want %s", got, serverPubHex)
	}
	if got := client.Public().Hex(); got != clientPubHex {
		t.Errorf("client public key %s, want %s", got, clientPubHex)
	}
	toServer, err := client.Shared(server.Public())
	if err != nil {
		t.Fatal(err)
	}
	toClient, err := server.Shared(client.Public())
	if err != nil {
		t.Fatal(err)
	}
	nonce := [NonceSize]byte(bytes.Repeat([]byte{0x33}, NonceSize))
	sealed := toServer.SealNonce(nil, []byte(`{"version":2,"CanAckPings":true}`), nonce)
	const want = "0cac76b82cb75df3a51a9d802720c3384d3eb8fccc9a8433ce902111b5d68524935652b1a16fbfc21be3b4a3ed66992a"
	if got := hex.EncodeToString(sealed[NonceSize:]); got != want {
		t.Errorf("box %s, want %s", got, want)
	}
	msg, ok := toClient.Open(nil, sealed)
	if !ok || string(msg) != `{"version":2,"CanAckPings":true}` {
		t.Errorf("opened %q, %v", msg, ok)
	}
}

func TestSealIsRandomAndTamperProof(t *testing.T) {
	a, b := NewPrivate(), NewPrivate()
	ab, err := a.Shared(b.Public())
	if err != nil {
		t.Fatal(err)
	}
	ba, err := b.Shared(a.Public())
	if err != nil {
		t.Fatal(err)
	}
	one, two := ab.Seal(nil, []byte("hello")), ab.Seal(nil, []byte("hello"))
	if bytes.Equal(one, two) {
		t.Error("two seals of one message are the same: nonces repeat")
	}
	if len(one) != len("hello")+Overhead {
		t.Errorf("sealed length %d, want %d", len(one), len("hello")+Overhead)
	}
	for i := range one {
		bad := bytes.Clone(one)
		bad[i] ^= 1
		if _, ok := ba.Open(nil, bad); ok {
			t.Fatalf("opened with byte %d changed", i)
		}
	}
	for n := range Overhead {
		if _, ok := ba.Open(nil, one[:n]); ok {
			t.Fatalf("opened %d bytes", n)
		}
	}
}

func TestSharedRefusesLowOrder(t *testing.T) {
	k := NewPrivate()
	if _, err := k.Shared(Public{}); err == nil {
		t.Error("zero peer key accepted")
	}
	if _, err := k.Shared(Public{1}); err == nil {
		t.Error("peer key of order one accepted")
	}
	if _, err := (Private{}).Shared(k.Public()); err == nil {
		t.Error("zero private key used")
	}
}

func TestParse(t *testing.T) {
	for _, s := range []string{
		"", "nodekey:", serverPubHex, "nodekey:" + serverPubHex[1:], "nodekey:" + serverPubHex + "0",
		"nodekey:" + strings.Repeat("g", 64), "nodekey:" + strings.Repeat("0", 64), "mkey:" + serverPubHex,
	} {
		if k, err := ParsePublic(s); err == nil {
			t.Errorf("ParsePublic(%q) = %v", s, k)
		}
		if _, err := ParsePrivate(strings.Replace(s, "nodekey", "privkey", 1)); err == nil {
			t.Errorf("ParsePrivate accepted %q", s)
		}
	}
	k, err := ParsePublic("nodekey:" + strings.ToUpper(serverPubHex))
	if err != nil || k.Hex() != serverPubHex {
		t.Errorf("upper-case digits: %v, %v", k, err)
	}
	var back Public
	if err := back.UnmarshalText([]byte(k.String())); err != nil || back != k {
		t.Errorf("text round trip: %v, %v", back, err)
	}
	if got := k.Short(); got != "[D6poT]" {
		t.Errorf("short form %s", got)
	}
}

func TestMeshEqual(t *testing.T) {
	a, err := ParseMesh(strings.ToUpper(serverPubHex))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := ParseMesh(serverPubHex)
	c, _ := ParseMesh(clientPubHex)
	if !a.Equal(b) || a.Equal(c) || (Mesh{}).Equal(Mesh{}) {
		t.Error("mesh key comparison is wrong")
	}
	for _, bad := range []string{"", serverPubHex[1:], serverPubHex + "00", strings.Repeat("x", 64)} {
		if _, err := ParseMesh(bad); err == nil {
			t.Errorf("ParseMesh(%q) succeeded", bad)
		}
	}
}

func TestSecretsRedactThemselves(t *testing.T) {
	priv := mustPrivate(t, clientPrivHex)
	mesh, _ := ParseMesh(clientPrivHex)
	var out bytes.Buffer
	for _, v := range []any{priv, mesh, struct{ K Private }{priv}, struct{ M Mesh }{mesh}} {
		fmt.Fprintf(&out, "%v %+v %s %#v\n", v, v, v, v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "k", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("key", "k", v)
		b, _ := json.Marshal(v)
		out.Write(b)
	}
	if strings.Contains(out.String(), clientPrivHex[:16]) {
		t.Errorf("a secret was printed: %s", out.String())
	}
	if back, err := ParsePrivate(priv.Reveal()); err != nil || back.Public() != priv.Public() {
		t.Errorf("Reveal round trip: %v", err)
	}
}
