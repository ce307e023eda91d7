package cert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Phase is how far a rotation has come. Clients dial the first node of a region
// whose TCP connects and do not try the next one when its certificate is another
// than the map says, so at no time may a port show a certificate that a map in
// use does not name for that port. That is why a rotation takes a second port.
type Phase string

// The phases, in their order.
const (
	// PhaseBoth: the old certificate on the relay's port, the new one on the second
	// port, and a map that names both.
	PhaseBoth Phase = "both"
	// PhaseMoved: the relay's port is closed, so that clients with either map come
	// to the second port. The map names the second port alone.
	PhaseMoved Phase = "moved"
	// PhaseClosing: the new certificate on both ports. The map names the relay's
	// port alone, as before the rotation.
	PhaseClosing Phase = "closing"

	// phaseSwapping is only ever seen after a crash: the new pair is being given the
	// old one's name.
	phaseSwapping Phase = "swapping"
)

// RotationUnused is how long a port must have had no login before the relay
// closes it by itself.
const RotationUnused = 7 * 24 * time.Hour

// Place is where the second port is.
type Place struct {
	Listen     string `json:"listen"`                // as a listen setting
	PublicPort int    `json:"public_port,omitempty"` // TCP port that clients dial for it; 0: that of Listen
	// Proxied: a proxy takes the clients' connections, whether the relay's port is open
	// or not, so that a person has to close the proxy's.
	Proxied bool `json:"proxied,omitempty"`
}

// Rotation is the change of a pinned certificate for a new one, as it is kept
// beside the certificate. The command changes it, the relay follows.
type Rotation struct {
	Phase Phase `json:"phase"`
	Place
	Since  time.Time `json:"since"`   // when the phase began, UTC
	NewPin string    `json:"new_pin"` // as the map's CertName; empty with Authority
	// Authority: the new certificate is not a pin but that of a certificate
	// authority, which the relay has by itself. The pair beside stays as it is.
	Authority bool `json:"authority,omitempty"`
}

// Errors of the steps of a rotation, for errors.Is.
var (
	ErrNoRotation  = errors.New("no rotation is under way")
	ErrRotating    = errors.New("a rotation is under way already")
	ErrWrongPhase  = errors.New("the rotation is not at that step")
	errLocked      = errors.New("it is locked")
	errBadRotation = errors.New("the rotation's file is damaged")
)

// RotationFiles returns where a rotation of the pair keeps its state and the new
// pair, all beside certFile.
func RotationFiles(certFile string) (state, nextCert, nextKey string) {
	base := certFile[:len(certFile)-len(filepath.Ext(certFile))]
	return base + "-rotation.json", base + "-next.crt", base + "-next.key"
}

// LoadRotation returns the rotation of the pair that is under way, or
// ErrNoRotation. One that a crash interrupted is completed first.
func LoadRotation(certFile, keyFile string) (Rotation, error) {
	r, err := readRotation(certFile)
	if err != nil || r.Phase != phaseSwapping {
		return r, err
	}
	unlock, err := lockPair(certFile)
	if err != nil {
		return r, err
	}
	defer unlock()
	return completed(certFile, keyFile)
}

// completed is LoadRotation for who holds the lock.
func completed(certFile, keyFile string) (Rotation, error) {
	r, err := readRotation(certFile)
	if err == nil && r.Phase == phaseSwapping {
		return r.swap(certFile, keyFile)
	}
	return r, err
}

// lockPair is held by whoever makes the pair or changes its rotation.
func lockPair(certFile string) (unlock func(), err error) {
	unlock, err = lockFile(certFile + ".lock")
	switch {
	case errors.Is(err, errLocked):
		return nil, fault(err.Error(), "another detour is at work on "+certFile+": wait for it, or see which one it is with fuser "+certFile+".lock")
	case err != nil:
		return nil, writeFault(err)
	}
	return unlock, nil
}

// hold takes the lock for a step of r, if r is still what is kept. Another command
// may have taken that step meanwhile: the error is ErrWrongPhase then.
func (r Rotation) hold(certFile string, phases ...Phase) (unlock func(), err error) {
	if !slices.Contains(phases, r.Phase) {
		return nil, ErrWrongPhase
	}
	if unlock, err = lockPair(certFile); err != nil {
		return nil, err
	}
	kept, err := readRotation(certFile)
	if err == nil && (kept.Phase != r.Phase || kept.Place != r.Place || kept.NewPin != r.NewPin) || errors.Is(err, ErrNoRotation) {
		err = ErrWrongPhase
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// readRotation returns what is kept, also phaseSwapping.
func readRotation(certFile string) (Rotation, error) {
	state, _, _ := RotationFiles(certFile)
	var r Rotation
	data, err := readFile(state, "rotation", "--state-dir")
	if _, statErr := os.Lstat(state); errors.Is(statErr, fs.ErrNotExist) {
		return r, ErrNoRotation
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%w: %s: %v; hint: put it back from a backup; without it the relay serves %s alone", errBadRotation, state, err, certFile)
	}
	if _, port, err := net.SplitHostPort(r.Listen); err != nil || port == "" || port == "0" || (r.NewPin == "") != r.Authority {
		return r, fmt.Errorf("%w: %s: it names no second port, or not what is to be there; hint: put it back from a backup; without it the relay serves %s alone",
			errBadRotation, state, certFile)
	}
	switch r.Phase {
	case PhaseBoth, PhaseMoved, PhaseClosing, phaseSwapping:
		return r, nil
	}
	return r, fmt.Errorf("%w: %s: there is no phase %q; hint: was it written by a newer Detour?", errBadRotation, state, r.Phase)
}

// BeginRotation makes a new pair for names and the state that says that it is
// served at that place. It returns ErrRotating when there is one already.
func BeginRotation(certFile, keyFile string, at Place, names []string, now time.Time) (Rotation, error) {
	certInfo, keyInfo, err := ownFiles(certFile, keyFile)
	if err != nil {
		return Rotation{}, err
	}
	unlock, err := lockPair(certFile)
	if err != nil {
		return Rotation{}, err
	}
	defer unlock()
	if _, err := completed(certFile, keyFile); !errors.Is(err, ErrNoRotation) {
		return Rotation{}, errors.Join(ErrRotating, err)
	}
	_, nextCert, nextKey := RotationFiles(certFile)
	for _, left := range []string{nextKey, nextCert} { // by one that was interrupted before it began
		if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Rotation{}, writeFault(err)
		}
	}
	c, err := createPin(nextCert, nextKey, names, now, certInfo, keyInfo)
	if err != nil {
		return Rotation{}, err
	}
	r := Rotation{Phase: PhaseBoth, Place: at, Since: now.UTC().Truncate(time.Second), NewPin: c.Pin()}
	return r, r.save(certFile)
}

// BeginAuthorityRotation is BeginRotation towards an authority's certificate.
func BeginAuthorityRotation(certFile, keyFile string, at Place, now time.Time) (Rotation, error) {
	unlock, err := lockPair(certFile)
	if err != nil {
		return Rotation{}, err
	}
	defer unlock()
	if _, err := completed(certFile, keyFile); !errors.Is(err, ErrNoRotation) {
		return Rotation{}, errors.Join(ErrRotating, err)
	}
	r := Rotation{Phase: PhaseBoth, Place: at, Since: now.UTC().Truncate(time.Second), Authority: true}
	return r, r.save(certFile)
}

// Withdraw goes on to PhaseMoved.
func (r Rotation) Withdraw(certFile string, now time.Time) (Rotation, error) {
	unlock, err := r.hold(certFile, PhaseBoth)
	if err != nil {
		return r, err
	}
	defer unlock()
	r.Phase, r.Since = PhaseMoved, now.UTC().Truncate(time.Second)
	return r, r.save(certFile)
}

// Back returns from PhaseMoved to PhaseBoth: whichever of the two maps a client has,
// both are true again.
func (r Rotation) Back(certFile string, now time.Time) (Rotation, error) {
	unlock, err := r.hold(certFile, PhaseMoved)
	if err != nil {
		return r, err
	}
	defer unlock()
	r.Phase, r.Since = PhaseBoth, now.UTC().Truncate(time.Second)
	return r, r.save(certFile)
}

// Finish gives the new pair the old one's name and goes on to PhaseClosing. The
// old pair is kept beside it, with .old behind its name. With Authority no file
// moves.
func (r Rotation) Finish(certFile, keyFile string, now time.Time) (Rotation, error) {
	unlock, err := r.hold(certFile, PhaseMoved)
	if err != nil {
		return r, err
	}
	defer unlock()
	if r.Authority {
		r.Phase, r.Since = PhaseClosing, now.UTC().Truncate(time.Second)
		return r, r.save(certFile)
	}
	_, nextCert, nextKey := RotationFiles(certFile)
	for _, file := range []string{nextCert, nextKey} {
		if _, err := os.Lstat(file); err != nil {
			return r, fmt.Errorf("the new certificate is not there: %w; hint: put %s and %s back from a backup", err, nextCert, nextKey)
		}
	}
	if _, _, err := ownFiles(certFile, keyFile); err != nil {
		return r, err
	}
	for _, file := range []string{certFile, keyFile} {
		if err := copyFile(file, file+".old"); err != nil {
			return r, fault("keep the old certificate: "+err.Error(), "let this user read and write in "+filepath.Dir(file))
		}
	}
	r.Phase, r.Since = phaseSwapping, now.UTC().Truncate(time.Second)
	if err := r.save(certFile); err != nil {
		return r, err
	}
	return r.swap(certFile, keyFile)
}

// swap may be done again at any point at which it was interrupted.
func (r Rotation) swap(certFile, keyFile string) (Rotation, error) {
	_, nextCert, nextKey := RotationFiles(certFile)
	for _, move := range [][2]string{{nextKey, keyFile}, {nextCert, certFile}} {
		if err := os.Rename(move[0], move[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return r, writeFault(err)
		}
	}
	if err := syncDir(filepath.Dir(certFile)); err != nil {
		return r, writeFault(err)
	}
	r.Phase = PhaseClosing
	return r, r.save(certFile)
}

// End forgets the rotation, in PhaseBoth with the new pair and in PhaseClosing
// without the second port.
func (r Rotation) End(certFile string) error {
	unlock, err := r.hold(certFile, PhaseBoth, PhaseClosing)
	if err != nil {
		return err
	}
	defer unlock()
	state, nextCert, nextKey := RotationFiles(certFile)
	for _, file := range []string{state, nextCert, nextKey} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return writeFault(err)
		}
	}
	return nil
}

func (r Rotation) save(certFile string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the rotation: %w", err)
	}
	state, _, _ := RotationFiles(certFile)
	like, err := os.Lstat(certFile)
	if err != nil {
		like = nil // the one who writes owns it
	}
	return replaceFile(state, append(data, '\n'), 0o644, like)
}
