package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPinCertificate(t *testing.T) {
	c, _, _ := pinned(t, "Relay.Example.com.", "192.0.2.1", "::ffff:192.0.2.1", "relay.example.com", "2001:DB8::1", "*.b.example")
	leaf := c.Leaf()
	if got, want := strings.Join(c.Names(), " "), "relay.example.com *.b.example 192.0.2.1 2001:db8::1"; got != want {
		t.Errorf("names %q, want %q", got, want)
	}
	if leaf.Subject.String() != "CN=relay.example.com" {
		t.Errorf("subject %s", leaf.Subject)
	}
	if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key %T, want ECDSA P-256", leaf.PublicKey)
	}
	if !leaf.BasicConstraintsValid || leaf.IsCA {
		t.Error("want basic constraints with CA false")
	}
	if len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("usage %v, extended %v", leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	if want := testNow.AddDate(10, 0, 0); !c.NotAfter().Equal(want) {
		t.Errorf("valid until %v, want %v", c.NotAfter(), want)
	}
	if late := testNow.Sub(leaf.NotBefore); late < 24*time.Hour {
		t.Errorf("a client whose clock is a day late refuses it: valid from %v before now", late)
	}
	if !c.SelfSigned() || c.Mode() != ModePin || len(c.TLS().Certificate) != 1 {
		t.Errorf("SelfSigned %v, mode %s", c.SelfSigned(), c.Mode())
	}
	other, _, _ := pinned(t, "192.0.2.1")
	if other.Leaf().SerialNumber.Cmp(leaf.SerialNumber) == 0 || leaf.SerialNumber.BitLen() < 64 {
		t.Errorf("serial numbers %x and %x are not random", leaf.SerialNumber, other.Leaf().SerialNumber)
	}
	if other.Pin() == c.Pin() {
		t.Error("two certificates have one pin")
	}
}

func TestPinCommonName(t *testing.T) {
	long := strings.Repeat("a", 60) + ".example"
	for _, tt := range []struct {
		names []string
		want  string
	}{
		{nil, "server"},
		{[]string{"192.0.2.1", "a.example"}, "192.0.2.1"},
		{[]string{"a.example", "192.0.2.1"}, "a.example"},
		{[]string{long, "a.example"}, "server"},
		{[]string{"DERPKEY.example"}, "server"}, // clients would take it for the meta certificate
	} {
		c, _, _ := pinned(t, tt.names...)
		if got := c.Leaf().Subject.CommonName; got != tt.want {
			t.Errorf("names %q: common name %q, want %q", tt.names, got, tt.want)
		}
		for _, name := range tt.names {
			if !c.Covers(name) {
				t.Errorf("names %q: does not cover %q", tt.names, name)
			}
		}
	}
}

func TestPinRefusesNames(t *testing.T) {
	for _, name := range []string{
		"", ".", "a b", "a..example", "-a.example", "a-.example", "*", "a.*.example", "rélais.example", "https://a.example",
		"a.example:443", "[::1]", "192.0.2.300", "192.0.2", "10.0.0.0/8", strings.Repeat("a", 64) + ".example",
		strings.Repeat("a.", 126) + "aa",
	} {
		path := filepath.Join(t.TempDir(), "state", "c")
		_, created, err := LoadOrCreatePin(path, path+".key", []string{"ok.example", name}, testNow)
		wantError(t, err, fmt.Sprintf("%q is neither a DNS name nor an IP address", name), "; hint: ", "relay.example.com")
		if _, statErr := os.Stat(path); created || statErr == nil {
			t.Errorf("%q: a certificate was made all the same", name)
		}
	}
	path := filepath.Join(t.TempDir(), "c")
	_, _, err := LoadOrCreatePin(path, path+".key", []string{"fe80::1%eth0"}, testNow)
	wantError(t, err, "has a zone", "; hint: leave out")
}

func TestPinIsKept(t *testing.T) {
	first, certFile, keyFile := pinned(t, "a.example")
	before, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	for i, names := range [][]string{{"a.example"}, {"b.example", "192.0.2.9"}, nil, {"not a name"}} {
		again, created, err := LoadOrCreatePin(certFile, keyFile, names, testNow.AddDate(i, 0, 0))
		if err != nil || created {
			t.Fatalf("names %q: created %v, err %v", names, created, err)
		}
		if again.Pin() != first.Pin() || !again.Covers("a.example") || again.Covers("b.example") {
			t.Errorf("names %q: another certificate %s", names, again.Names())
		}
	}
	loadedAgain, err := LoadPin(certFile, keyFile, testNow)
	if err != nil || loadedAgain.Pin() != first.Pin() || loadedAgain.Mode() != ModePin {
		t.Errorf("LoadPin: %v", err)
	}
	if after, err := os.ReadFile(certFile); err != nil || !slices.Equal(before, after) {
		t.Errorf("the file changed (err %v)", err)
	}
}

func TestPinFileModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lib", "detour")
	certFile, keyFile := filepath.Join(dir, "pin.crt"), filepath.Join(dir, "keys", "pin.key")
	if _, _, err := LoadOrCreatePin(certFile, keyFile, nil, testNow); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{
		filepath.Dir(dir):     os.ModeDir | 0o700,
		dir:                   os.ModeDir | 0o700,
		filepath.Dir(keyFile): os.ModeDir | 0o700,
		keyFile:               0o600,
		certFile:              0o644,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
	// No temporary file stays behind; the lock file may.
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q (err %v)", left, err)
	}
}

func TestPinHalfPair(t *testing.T) {
	for _, missing := range []int{0, 1} {
		_, certFile, keyFile := pinned(t, "a.example")
		paths := []string{certFile, keyFile}
		if err := os.Remove(paths[missing]); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the first failure must not mend it for the second
			_, created, err := LoadOrCreatePin(certFile, keyFile, []string{"a.example"}, testNow)
			wantError(t, err, paths[missing]+" is missing although "+paths[1-missing]+" is there",
				"; hint: put "+paths[missing]+" back from a backup, or move both "+certFile+" and "+keyFile+" away", "every DERP map")
			_, loadErr := LoadPin(certFile, keyFile, testNow)
			wantError(t, loadErr, "is missing although")
			if _, statErr := os.Stat(paths[missing]); created || statErr == nil {
				t.Error("the missing file was remade")
			}
		}
	}
}

func TestPinNotMadeYet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	_, err := LoadPin(filepath.Join(dir, "c"), filepath.Join(dir, "k"), testNow)
	wantError(t, err, "no pin certificate yet", "; hint: start detour serve once")
	if !errors.Is(err, ErrNoPin) {
		t.Error("the error is not ErrNoPin")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("LoadPin made the directory")
	}
}

func TestPinRefuses(t *testing.T) {
	ca := authority(t)
	leaf := issue(t, named("a.example"), &ca)
	other, _, _ := pinned(t)
	for what, tt := range map[string]struct {
		change func(certFile, keyFile string)
		want   []string
	}{
		"empty after a crash": {func(c, _ string) { write(t, c, "") }, []string{"it is empty", "from a backup, or move both "}},
		"key of another":      {func(_, k string) { write(t, k, pemKey(t, other.key)) }, []string{"it is not the key of", "from a backup, or move both "}},
		"from an authority": {func(c, k string) {
			write(t, c, pemCerts(leaf, ca))
			write(t, k, pemKey(t, leaf.key))
		}, []string{"not one certificate signed by itself", "--cert-mode files --cert ", "or move both "}},
		"dangling link": {func(c, _ string) {
			if err := errors.Join(os.Remove(c), os.Symlink(c+".gone", c)); err != nil {
				t.Fatal(err)
			}
		}, []string{"read certificate file ", "no such file", "check the path"}},
		"both dangling": {func(c, k string) {
			if err := errors.Join(os.Remove(c), os.Symlink(c+".gone", c), os.Remove(k), os.Symlink(k+".gone", k)); err != nil {
				t.Fatal(err)
			}
		}, []string{"read certificate file ", "no such file"}},
	} {
		_, certFile, keyFile := pinned(t, "a.example")
		tt.change(certFile, keyFile)
		_, created, err := LoadOrCreatePin(certFile, keyFile, nil, testNow)
		t.Run(what, func(t *testing.T) {
			wantError(t, err, append(tt.want, "; hint: ")...)
			if created {
				t.Error("a certificate was made")
			}
		})
	}
}

func TestPinClock(t *testing.T) {
	c, certFile, keyFile := pinned(t)
	if _, _, err := LoadOrCreatePin(certFile, keyFile, nil, c.NotAfter()); err != nil {
		t.Errorf("in its last second: %v", err)
	}
	_, _, err := LoadOrCreatePin(certFile, keyFile, nil, c.NotAfter().Add(time.Second))
	wantError(t, err, "expired at 2036-03-01T12:00:00Z; hint: move both ", "every DERP map", "clock says 2036-03-01T12:00:01Z")

	// A machine that forgets the time when it is off can still serve.
	if _, _, err := LoadOrCreatePin(certFile, keyFile, nil, time.Unix(100, 0)); err != nil {
		t.Errorf("with the clock in 1970: %v", err)
	}
	dir := t.TempDir()
	early, _, err := LoadOrCreatePin(filepath.Join(dir, "c"), filepath.Join(dir, "k"), nil, time.Unix(100, 0))
	if err != nil {
		t.Fatal(err)
	}
	if early.NotAfter().Before(testNow.AddDate(5, 0, 0)) || early.Leaf().NotBefore.After(time.Unix(100, 0)) {
		t.Errorf("made in 1970, it is valid from %v to %v", early.Leaf().NotBefore, early.NotAfter())
	}
}

func TestPinCannotWrite(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "file"), "x")
	for _, tt := range []struct{ cert, key string }{
		{filepath.Join(file, "c"), filepath.Join(dir, "k")},
		{filepath.Join(dir, "c"), filepath.Join(file, "k")},
	} {
		_, _, err := LoadOrCreatePin(tt.cert, tt.key, nil, testNow)
		wantError(t, err, "not a directory", "; hint: ", "--state-dir")
	}
	locked := filepath.Join(dir, "locked")
	if err := os.Mkdir(locked+".lock", 0o700); err != nil {
		t.Fatal(err)
	}
	_, _, err := LoadOrCreatePin(locked, locked+".key", nil, testNow)
	wantError(t, err, "make the pin certificate: ", locked+".lock is no file", "; hint: let the user that runs detour write there")
	same := filepath.Join(dir, "same")
	_, _, err = LoadOrCreatePin(same, dir+"/./same", nil, testNow)
	wantError(t, err, "are the same file", "; hint: give each a path")

	// What fails once the key is placed takes the key away again: half a pair
	// would stop every later start.
	dir = t.TempDir()
	key, taken := filepath.Join(dir, "key"), filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := placePair(taken, key, []byte("c"), []byte("k"), nil, nil); err == nil {
		t.Fatal("a directory was replaced by the certificate")
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 1 || left[0] != taken {
		t.Errorf("left behind: %q (err %v)", left, err)
	}
}

func TestPinStartedAtOnce(t *testing.T) {
	for range 20 {
		dir := filepath.Join(t.TempDir(), "state")
		certFile, keyFile := filepath.Join(dir, "c"), filepath.Join(dir, "k")
		const starters = 8
		var (
			wg    sync.WaitGroup
			pins  [starters]string
			made  [starters]bool
			errs  [starters]error
			begin = make(chan struct{})
		)
		for i := range starters {
			wg.Go(func() {
				<-begin
				var c *Certificate
				if c, made[i], errs[i] = LoadOrCreatePin(certFile, keyFile, []string{"a.example"}, testNow); errs[i] == nil {
					pins[i] = c.Pin()
				}
			})
		}
		close(begin)
		wg.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		count := 0
		for i := range starters {
			if made[i] {
				count++
			}
			if pins[i] != pins[0] {
				t.Fatalf("starter %d has pin %s, starter 0 has %s", i, pins[i], pins[0])
			}
		}
		if count != 1 {
			t.Fatalf("%d starters made the certificate, want 1", count)
		}
		if c, err := LoadPin(certFile, keyFile, testNow); err != nil || c.Pin() != pins[0] {
			t.Fatalf("the files hold another pair (err %v)", err)
		}
	}
}
