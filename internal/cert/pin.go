package cert

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// ErrNoPin says that the pin certificate has not been made yet.
var ErrNoPin = errors.New("there is no pin certificate yet")

// LoadOrCreatePin returns the relay's pin certificate, and whether this call
// made it. It is made when neither file exists and kept from then on, whatever
// names are asked for later: replacing it would cut off every client whose map
// holds its pin. So names only say what a new certificate holds; use CheckName
// to learn whether the one there is will do.
//
// Names are DNS names (a first label "*" is allowed) and IP literals; there may
// be none. A new certificate is ECDSA P-256, signed by itself, and valid for
// ten years from now. Missing directories are made with mode 0700; the key gets
// mode 0600, the certificate 0644. Processes that start at once agree on one
// pair. One file without the other is an error and is not repaired.
func LoadOrCreatePin(certFile, keyFile string, names []string, now time.Time) (c *Certificate, created bool, err error) {
	if filepath.Clean(certFile) == filepath.Clean(keyFile) {
		return nil, false, fault(fmt.Sprintf("make the pin certificate: certificate and key are the same file %s", certFile), "give each a path of its own")
	}
	c, err = LoadPin(certFile, keyFile, now)
	// A key alone may be another process at work, as the key is placed first.
	half, isHalf := errors.AsType[*halfPairError](err)
	beingMade := isHalf && half.missing == certFile
	if !errors.Is(err, ErrNoPin) && !beingMade {
		return c, false, err
	}
	for _, dir := range []string{filepath.Dir(certFile), filepath.Dir(keyFile)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, false, writeFault(err)
		}
	}
	unlock, err := lockPair(certFile)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	// With the lock held nobody is half way: look again, and believe it.
	if c, err = LoadPin(certFile, keyFile, now); !errors.Is(err, ErrNoPin) {
		return c, false, err
	}
	c, err = createPin(certFile, keyFile, names, now, nil, nil)
	return c, err == nil, err
}

// createPin makes a pair where there is none, for the owners of two other files. The
// caller holds the lock.
func createPin(certFile, keyFile string, names []string, now time.Time, likeCert, likeKey fs.FileInfo) (*Certificate, error) {
	certPEM, keyPEM, err := makePin(names, now)
	if err != nil {
		return nil, err
	}
	if err := placePair(certFile, keyFile, certPEM, keyPEM, likeCert, likeKey); err != nil {
		return nil, writeFault(err)
	}
	return LoadPin(certFile, keyFile, now)
}

// LoadPin returns the pin certificate that LoadOrCreatePin made. It makes
// nothing: with neither file there, the error matches ErrNoPin. It refuses a
// pair that is damaged, that is not a single certificate signed by itself, or
// that has expired at now. While another process is making the pair, it may for
// a moment report that the certificate is missing.
func LoadPin(certFile, keyFile string, now time.Time) (*Certificate, error) {
	// The certificate is placed last, so looking for it first never takes a
	// pair that is just being made for one that lost its key.
	haveCert, err := exists(certFile, "certificate")
	if err != nil {
		return nil, err
	}
	haveKey, err := exists(keyFile, "key")
	if err != nil {
		return nil, err
	}
	switch {
	case !haveCert && !haveKey:
		return nil, fmt.Errorf("%w: neither %s nor %s exists; hint: start detour serve once, which makes them", ErrNoPin, certFile, keyFile)
	case !haveCert:
		return nil, &halfPairError{missing: certFile, present: keyFile, certFile: certFile, keyFile: keyFile}
	case !haveKey:
		return nil, &halfPairError{missing: keyFile, present: certFile, certFile: certFile, keyFile: keyFile}
	}
	remake := remakePin(certFile, keyFile)
	certPEM, keyPEM, err := readPair(certFile, keyFile)
	if err != nil {
		return nil, err // perhaps only for this user: no reason to make another
	}
	c, err := parsePair(certFile, keyFile, certPEM, keyPEM)
	if err != nil {
		if h, ok := errors.AsType[*hinted](err); ok {
			err = fault(h.what, "put both files back from a backup, or "+remake)
		}
		return nil, err
	}
	c.mode = ModePin
	if !c.selfSigned {
		return nil, fault(fmt.Sprintf("load the pin certificate %s: it is not one certificate signed by itself, and no other can be pinned", certFile),
			"serve it with --cert-mode files --cert "+certFile+" --key "+keyFile+", or "+remake)
	}
	if err := c.checkEnd(now, remake); err != nil {
		return nil, err
	}
	return c, nil
}

// halfPairError says that one file of a pair is there without the other.
type halfPairError struct{ missing, present, certFile, keyFile string }

func (e *halfPairError) Error() string {
	return fmt.Sprintf("load the pin certificate: %s is missing although %s is there; hint: put %s back from a backup, or %s",
		e.missing, e.present, e.missing, remakePin(e.certFile, e.keyFile))
}

// exists does not follow a symbolic link: one that leads nowhere, as to a disk
// that is not mounted yet, must fail and not be taken for a first start.
func exists(path, what string) (bool, error) {
	_, err := os.Lstat(path)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, readFault(what, "--state-dir", path, err)
}

func writeFault(err error) error {
	return fault(fmt.Sprintf("make the pin certificate: %v", err), "let the user that runs detour write there, or choose another --state-dir")
}
