package cert

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Pair names the files of one certificate: a PEM chain and its key, which may
// be one file.
type Pair struct {
	CertFile, KeyFile string

	// Flag is what errors tell the operator to correct; empty: --cert and --key.
	Flag string
}

// LoadPairs reads all pairs as LoadFiles does. It also refuses two certificates
// of one key type for one name: which of them clients get would be an accident.
func LoadPairs(pairs []Pair, now time.Time) ([]*Certificate, error) {
	certs := make([]*Certificate, len(pairs))
	for i, p := range pairs {
		certPEM, keyPEM, err := readPair(p.CertFile, p.KeyFile)
		if err == nil {
			certs[i], err = takeFiles(p.CertFile, p.KeyFile, certPEM, keyPEM, now)
		}
		if err != nil {
			return nil, p.explain(err)
		}
	}
	if err := checkOverlap(certs); err != nil {
		return nil, err
	}
	return certs, nil
}

// explain makes the hint of an error name the pair's own flag.
func (p Pair) explain(err error) error {
	h, ok := errors.AsType[*hinted](err)
	if !ok || p.Flag == "" {
		return err
	}
	// Of two that begin alike the first is taken, so the longest comes first.
	own := strings.NewReplacer("--cert and --key", p.Flag, "--cert", p.Flag, "--key", p.Flag)
	return fault(h.what, own.Replace(h.hint))
}

func checkOverlap(certs []*Certificate) error {
	holder := map[string]*Certificate{} // by name and key type
	for _, c := range certs {
		for _, name := range c.sortedNames() {
			of := name + " " + c.keyType()
			if other := holder[of]; other != nil {
				return fault(fmt.Sprintf("certificates %s and %s are both for %q, with keys of one type (%s)", other.certFile, c.certFile, name, c.keyType()),
					"take one of them out of cert and cert_pair; a name may have one certificate of each key type, and a wildcard beside it")
			}
			holder[of] = c
		}
	}
	return nil
}
