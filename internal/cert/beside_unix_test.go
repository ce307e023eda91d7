//go:build unix

package cert

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
)

// A pipe in the place of a file keeps no command waiting.
func TestPipesAreNotWaitedFor(t *testing.T) {
	certFile, keyFile, _ := rotated(t)
	r, err := BeginRotation(certFile, keyFile, Place{Listen: ":8444"}, nil, time.Now())
	if err == nil {
		r, err = r.Withdraw(certFile, time.Now())
	}
	if err == nil {
		err = errors.Join(os.Remove(certFile), syscall.Mkfifo(certFile, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	within(t, "finish", func() error { _, err := r.Finish(certFile, keyFile, time.Now()); return err })
	within(t, "copy", func() error { return copyFile(certFile, certFile+".old") })
	state, _, _ := RotationFiles(certFile)
	if err := errors.Join(os.Remove(state), syscall.Mkfifo(state, 0o600)); err != nil {
		t.Fatal(err)
	}
	within(t, "the state", func() error { _, err := LoadRotation(certFile, keyFile); return err })
	if err := errors.Join(os.Remove(certFile+".lock"), syscall.Mkfifo(certFile+".lock", 0o600)); err != nil {
		t.Fatal(err)
	}
	within(t, "the lock", func() error { _, err := lockPair(certFile); return err })
}

// within wants an error of f, soon.
func within(t *testing.T, what string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: it waits", what)
	}
}
