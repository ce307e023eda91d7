package cert

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rotated is a pin pair in a directory of its own.
func rotated(t *testing.T) (certFile, keyFile, pin string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "pin.crt"), filepath.Join(dir, "pin.key")
	c, _, err := LoadOrCreatePin(certFile, keyFile, []string{"192.0.2.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile, c.Pin()
}

func loadedPin(t *testing.T, certFile, keyFile string) string {
	t.Helper()
	c, err := LoadPin(certFile, keyFile, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c.Pin()
}

func TestRotation(t *testing.T) {
	certFile, keyFile, old := rotated(t)
	if _, err := LoadRotation(certFile, keyFile); !errors.Is(err, ErrNoRotation) {
		t.Fatalf("before: %v", err)
	}
	now := time.Date(2026, 11, 25, 3, 0, 0, 500, time.UTC)
	r, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, []string{"192.0.2.1"}, now)
	if err != nil || r.Phase != PhaseBoth || r.NewPin == old || r.Listen != ":8444" {
		t.Fatalf("begin: %+v, %v", r, err)
	}
	if _, err := BeginRotation(certFile, keyFile, Place{Listen: ":8445"}, nil, now); !errors.Is(err, ErrRotating) {
		t.Errorf("a second one: %v", err)
	}
	_, nextCert, nextKey := RotationFiles(certFile)
	if got := loadedPin(t, nextCert, nextKey); got != r.NewPin {
		t.Errorf("the new pair has pin %s, the state says %s", got, r.NewPin)
	}
	if _, err := r.Finish(certFile, keyFile, now); !errors.Is(err, ErrWrongPhase) {
		t.Errorf("finished before the old port is closed: %v", err)
	}
	if r, err = r.Withdraw(certFile, now.Add(time.Hour)); err != nil || r.Phase != PhaseMoved {
		t.Fatalf("withdraw: %+v, %v", r, err)
	}
	if err := r.End(certFile); !errors.Is(err, ErrWrongPhase) {
		t.Errorf("ended where nothing would be left to dial: %v", err)
	}
	if got := loadedPin(t, certFile, keyFile); got != old {
		t.Errorf("the pin changed to %s before the end", got)
	}
	if r, err = r.Finish(certFile, keyFile, now.Add(2*time.Hour)); err != nil || r.Phase != PhaseClosing {
		t.Fatalf("finish: %+v, %v", r, err)
	}
	if got := loadedPin(t, certFile, keyFile); got != r.NewPin {
		t.Errorf("the pin is %s, want %s", got, r.NewPin)
	}
	if got := loadedPin(t, certFile+".old", keyFile+".old"); got != old {
		t.Errorf("the old pair is kept with pin %s, want %s", got, old)
	}
	loaded, err := LoadRotation(certFile, keyFile)
	if err != nil || !loaded.Since.Equal(now.Add(2*time.Hour).Truncate(time.Second)) || loaded.Phase != PhaseClosing {
		t.Errorf("loaded %+v, %v", loaded, err)
	}
	if err := r.End(certFile); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadRotation(certFile, keyFile); !errors.Is(err, ErrNoRotation) {
		t.Errorf("after: %v", err)
	}
}

// A crash at any point of the exchange leaves what the next look completes.
func TestRotationInterrupted(t *testing.T) {
	for _, moved := range []int{0, 1, 2} {
		certFile, keyFile, _ := rotated(t)
		r, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r.Phase = phaseSwapping
		if err := r.save(certFile); err != nil {
			t.Fatal(err)
		}
		_, nextCert, nextKey := RotationFiles(certFile)
		for _, move := range [][2]string{{nextKey, keyFile}, {nextCert, certFile}}[:moved] {
			if err := os.Rename(move[0], move[1]); err != nil {
				t.Fatal(err)
			}
		}
		got, err := LoadRotation(certFile, keyFile)
		if err != nil || got.Phase != PhaseClosing {
			t.Errorf("after %d moves: %+v, %v", moved, got, err)
		}
		if pin := loadedPin(t, certFile, keyFile); pin != r.NewPin {
			t.Errorf("after %d moves the pin is %s, want %s", moved, pin, r.NewPin)
		}
	}
}

func TestRotationGivenUp(t *testing.T) {
	certFile, keyFile, old := rotated(t)
	r, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.End(certFile); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Dir(certFile)); err != nil || len(left) > 3 || loadedPin(t, certFile, keyFile) != old {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestRotationDamaged(t *testing.T) {
	for text, want := range map[string]error{"{": errBadRotation, "null": errBadRotation, `{"phase":"swept"}`: errBadRotation} {
		certFile, keyFile, _ := rotated(t)
		state, _, _ := RotationFiles(certFile)
		if err := os.WriteFile(state, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadRotation(certFile, keyFile); !errors.Is(err, want) {
			t.Errorf("%s: %v", text, err)
		}
		if _, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, nil, time.Now()); !errors.Is(err, ErrRotating) {
			t.Errorf("%s: begun anew: %v", text, err)
		}
	}
}

// The directory may be another user's than that of who finishes, who may be root:
// what leads out of it is not copied to where that user can read it.
func TestFinishFollowsNoLink(t *testing.T) {
	certFile, keyFile, _ := rotated(t)
	r, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, []string{"192.0.2.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r, err = r.Withdraw(certFile, time.Now()); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("TOPSECRET"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(certFile), os.Symlink(secret, certFile)); err != nil {
		t.Skipf("SKIPPED: this system makes no symbolic links: %v", err)
	}
	if _, err := r.Finish(certFile, keyFile, time.Now()); err == nil {
		t.Error("finished")
	}
	if text, err := os.ReadFile(certFile + ".old"); err == nil {
		t.Errorf("copied %q", text)
	}
}

// A new pair that is lost is no reason to say that it is in its place.
func TestFinishWithoutTheNewPair(t *testing.T) {
	certFile, keyFile, old := rotated(t)
	r, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, []string{"192.0.2.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r, err = r.Withdraw(certFile, time.Now()); err != nil {
		t.Fatal(err)
	}
	_, nextCert, _ := RotationFiles(certFile)
	if err := os.Remove(nextCert); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Finish(certFile, keyFile, time.Now()); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("finished: %v", err)
	}
	if got := loadedPin(t, certFile, keyFile); got != old {
		t.Errorf("the pin is %s, want %s", got, old)
	}
}
