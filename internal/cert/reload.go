package cert

import (
	"crypto/sha256"
	"slices"
	"time"
)

// watched is a pair of files and what is served of it.
type watched struct {
	Pair
	current *Certificate
	taken   digest    // of the files' content when it was last found to be current
	wrong   time.Time // when the files began to hold what cannot be served; zero: they do not
	told    digest    // of the content that was last logged as refused; zero: none since it was right
}

// digest tells contents apart, and the reasons why there is none.
type digest [sha256.Size]byte

// look reads the pair's files. It returns nil for a certificate that is current.
func (p *watched) look(now time.Time) (next *Certificate, seen digest, err error) {
	certPEM, keyPEM, err := readPair(p.CertFile, p.KeyFile)
	if err != nil {
		return nil, sha256.Sum256([]byte(err.Error())), p.explain(err)
	}
	sum := sha256.Sum256(certPEM)
	seen = sha256.Sum256(append(sum[:], keyPEM...))
	if seen == p.taken {
		return nil, seen, nil
	}
	next, err = takeFiles(p.CertFile, p.KeyFile, certPEM, keyPEM, now)
	if err == nil && !p.current.Early(now) && !p.current.Expired(now) {
		err = next.checkBeginning(now) // there is a better one
	}
	switch {
	case err != nil:
		return nil, seen, p.explain(err)
	case next.sameAs(p.current):
		return nil, seen, nil
	}
	return next, seen, nil
}

func (c *Certificate) sameAs(d *Certificate) bool {
	return slices.EqualFunc(c.chain, d.chain, func(a, b []byte) bool { return string(a) == string(b) })
}

// found is what one look at one pair found.
type found struct {
	*watched
	next *Certificate // nil: nothing new
	seen digest
	err  error
}

// scan looks at all files and serves what is new in them. Asked is for an
// operator who waits for a word. It reports whether to look again soon.
func (w *Watcher) scan(asked bool) (again bool) {
	now, before := w.Now(), w.reloads.Load()
	all := make([]*found, len(w.pairs))
	for i, p := range w.pairs {
		f := &found{watched: p}
		f.next, f.seen, f.err = p.look(now)
		all[i] = f
	}
	w.take(all)
	refusing := []string{}
	for _, f := range all {
		if f.err == nil {
			f.taken, f.wrong, f.told = f.seen, time.Time{}, digest{}
			continue
		}
		refusing = append(refusing, f.CertFile)
		again = w.doubt(f, now, asked) || again
	}
	w.refusing.Store(&refusing)
	if asked && w.reloads.Load() == before && len(refusing) == 0 {
		w.Logger.Info("certificate files read again: nothing new", "certificates", len(w.pairs))
	}
	return again
}

// take serves all that is new, or, where that cannot be as a whole, as much of
// it as can. A pair that stays out has the reason in its err.
func (w *Watcher) take(all []*found) {
	fresh := slices.DeleteFunc(slices.Clone(all), func(f *found) bool { return f.next == nil })
	if len(fresh) == 0 || w.try(fresh) == nil {
		return
	}
	for _, f := range fresh {
		f.err = w.try([]*found{f})
	}
}

// try serves the new certificates of some pairs, and the current of the others.
func (w *Watcher) try(some []*found) error {
	certs := make([]*Certificate, len(w.pairs))
	for i, p := range w.pairs {
		certs[i] = p.current
		for _, f := range some {
			if f.watched == p {
				certs[i] = f.next
			}
		}
	}
	if err := checkOverlap(certs); err != nil {
		return err
	}
	if w.Check != nil {
		if err := w.Check(certs); err != nil {
			return err
		}
	}
	if err := w.Source.Replace(certs); err != nil {
		return err
	}
	for _, f := range some {
		old := f.current
		f.current = f.next
		w.reloads.Add(1)
		w.announce(f.CertFile, old, f.next)
	}
	return nil
}

// announce logs a certificate that is served from now on.
func (w *Watcher) announce(file string, old, next *Certificate) {
	w.Logger.Info("serving a new certificate", "file", file, "names", next.Names(), "not_after", next.NotAfter(), "until_now", old.NotAfter())
	if old.Pin() == next.Pin() {
		return
	}
	none := func(pin string) string {
		if pin == "" {
			return "none"
		}
		return pin
	}
	w.Logger.Warn("THE PIN HAS CHANGED with the new certificate: clients refuse the relay until every DERP map carries the new one as CertName "+
		"(none: an authority issued it, so remove CertName); print the map with detour map",
		"file", file, "old_pin", none(old.Pin()), "new_pin", none(next.Pin()))
}

// doubt deals with files that cannot be served: whoever writes them may be half
// way, so it is said only when they stay so, once for each content, and to one
// who asks. It reports whether it is still to be said.
func (w *Watcher) doubt(f *found, now time.Time, asked bool) (again bool) {
	if f.wrong.IsZero() {
		f.wrong = now
	}
	switch {
	case f.told == f.seen && !asked:
		return false
	case f.told != f.seen && !asked && now.Sub(f.wrong) < w.Patience:
		return true
	case f.told != f.seen:
		w.refused.Add(1)
	}
	f.told = f.seen
	w.Logger.Warn("the certificate files are refused; the old certificate is still served, until right files are in their place (no restart is needed)",
		"file", f.CertFile, "key_file", f.KeyFile, "err", f.err, "old_not_after", f.current.NotAfter())
	return false
}
