package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/privilege"
)

// rootless is the change from root to the user of run_as, once the relay has
// bound its ports and read its files. Nil: there is nothing to change.
type rootless struct {
	user   privilege.User
	estate *privilege.Estate
	log    *slog.Logger
}

// planRootless looks at the disk before the relay makes anything there.
func planRootless(cfg config.Config, derper bool, log *slog.Logger) (*rootless, error) {
	if cfg.RunAs == "" {
		return nil, nil
	}
	if os.Geteuid() != 0 {
		log.Debug("run_as has no effect: this is not root", "run_as", cfg.RunAs, "uid", os.Geteuid())
		return nil, nil
	}
	u, err := privilege.Lookup(cfg.RunAs)
	if err != nil {
		return nil, err
	}
	p := privilege.Plan{
		StateDir: cfg.StateDir, Keeps: []string{cfg.ServerKey},
		Shared: derper, // its key file may lie among strangers, as in /etc
	}
	if socket, ok := strings.CutPrefix(cfg.AdminListen, "unix:"); ok {
		p.Makes = append(p.Makes, socket)
	}
	switch {
	case cfg.CertMode != config.CertFiles:
		p.Keeps = append(p.Keeps, cfg.Cert, cfg.Cert+".lock", cfg.Key)
		if cfg.CertMode == config.CertACME {
			dir := filepath.Join(cfg.StateDir, "acme")
			p.Keeps = append(p.Keeps, dir, filepath.Join(dir, "mode"))
		}
	case cfg.TLS:
		for _, pair := range cfg.CertPairs() {
			p.Again = append(p.Again, pair.Cert, pair.Key)
		}
	}
	return &rootless{u, privilege.Survey(p), log}, nil
}

// drop gives up root. After an error the process must end.
func (r *rootless) drop() error {
	if r == nil {
		return nil
	}
	if err := r.estate.Give(r.user); err != nil {
		return err
	}
	if err := privilege.Drop(r.user); err != nil {
		return err
	}
	r.log.Info("gave up root", "run_as", r.user.String())
	for _, o := range r.estate.Unreachable() {
		r.log.Warn("out of reach of the user that the relay runs as: changes of it will not be seen, or it cannot be written",
			"path", o.Path, "stopped_at", o.At, "hint", o.Hint)
	}
	return nil
}
