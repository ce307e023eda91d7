package cert

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

func TestCovers(t *testing.T) {
	c := loaded(t, nil, "Relay.example.com", "*.wild.example.com", "192.0.2.1", "2001:db8::1")
	for name, want := range map[string]bool{
		"relay.example.com":        true,
		"RELAY.EXAMPLE.COM":        true,
		"a.wild.example.com":       true,
		"A.Wild.Example.Com":       true,
		"a.b.wild.example.com":     false,
		"wild.example.com":         false,
		"example.com":              false,
		"evil-relay.example.com":   false,
		"192.0.2.1":                true,
		"192.0.2.2":                false,
		"2001:db8::1":              true,
		"2001:0db8:0:0:0:0:0:0001": true,
		"2001:db8::2":              false,
		"test leaf":                false, // the common name
		"":                         false,
	} {
		if got := c.Covers(name); got != want {
			t.Errorf("Covers(%q) = %v, want %v", name, got, want)
		}
	}
	want := "Relay.example.com *.wild.example.com 192.0.2.1 2001:db8::1"
	if got := strings.Join(c.Names(), " "); got != want {
		t.Errorf("Names() = %s, want %s", got, want)
	}
	c.Names()[0] = "other"
	if c.Names()[0] != "Relay.example.com" {
		t.Error("a caller's change of Names() changed the certificate")
	}
}

func TestSelfSigned(t *testing.T) {
	ca := authority(t)
	alone := loaded(t, nil, "a.example")
	if !alone.SelfSigned() {
		t.Error("a certificate signed by itself is not SelfSigned")
	}
	if want := fmt.Sprintf("sha256-raw:%x", sha256.Sum256(alone.Leaf().Raw)); alone.Pin() != want {
		t.Errorf("Pin() = %s, want %s", alone.Pin(), want)
	}

	leaf := issue(t, named("a.example"), &ca)
	// An issuer of the same name as the leaf signs nothing by itself.
	impostor := named("a.example")
	impostor.Subject = ca.leaf.Subject
	sameName := issue(t, impostor, &ca)
	self := issue(t, named("a.example"), nil)
	for what, c := range map[string]struct {
		first issued
		text  string
	}{
		"with its issuer":               {leaf, pemCerts(leaf, ca)},
		"without its issuer":            {leaf, pemCerts(leaf)},
		"issued under its own name":     {sameName, pemCerts(sameName)},
		"self-signed with a second one": {self, pemCerts(self, ca)},
	} {
		certFile, keyFile := writePair(t, c.text, pemKey(t, c.first.key))
		got, err := LoadFiles(certFile, keyFile, testNow)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got.SelfSigned() || got.Pin() != "" {
			t.Errorf("%s: SelfSigned %v, pin %q", what, got.SelfSigned(), got.Pin())
		}
	}
}

func TestTLSSharesNoSlice(t *testing.T) {
	ca := authority(t)
	c := loaded(t, &ca, "a.example")
	one, two := c.TLS(), c.TLS()
	if len(one.Certificate) != 2 || cap(one.Certificate) != 2 {
		t.Fatalf("chain of %d with room for %d, want 2 and no more", len(one.Certificate), cap(one.Certificate))
	}
	one.Certificate[1] = nil
	if two.Certificate[1] == nil || c.TLS().Certificate[1] == nil {
		t.Error("two callers share a chain slice")
	}
}

func TestCheckName(t *testing.T) {
	ca := authority(t)
	pin, certFile, keyFile := pinned(t, "192.0.2.1", "old.example.com")
	files := loaded(t, &ca, "*.example.com")
	own := loaded(t, nil, "a.example")
	nameless, _, _ := pinned(t)
	for _, tt := range []struct {
		c    *Certificate
		name string
		want []string // parts of the error; none: no error
	}{
		{pin, "old.example.com", nil},
		{pin, "OLD.example.com", nil},
		{pin, "198.51.100.7", nil}, // clients check no name for an address
		{pin, "2001:db8::7", nil},
		{files, "new.example.com", nil},
		{files, "198.51.100.7", nil},
		{pin, "new.example.com", []string{
			`not valid for "new.example.com"`, "it holds old.example.com, 192.0.2.1", "even of a pinned certificate",
			"move both " + certFile + " and " + keyFile + " away", "every DERP map",
		}},
		{nameless, "new.example.com", []string{"it holds no names", "; hint: "}},
		{files, "a.b.example.com", []string{"it holds *.example.com", "--cert and --key", "or set --hostname"}},
		{own, "b.example", []string{"it holds a.example", "another pin", "every DERP map"}},
		{files, "", []string{"the hostname is empty", "--hostname"}},
	} {
		err := CheckName(tt.c, tt.name)
		if tt.want == nil {
			if err != nil {
				t.Errorf("CheckName(%q): %v", tt.name, err)
			}
			continue
		}
		wantError(t, err, tt.want...)
	}
}
