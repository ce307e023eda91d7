package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/daemon"
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
	return &rootless{u, privilege.Survey(planEstate(cfg, derper)), log}, nil
}

// planEstate says what a relay with these settings needs on disk.
func planEstate(cfg config.Config, derper bool) privilege.Plan {
	p := privilege.Plan{
		StateDir: cfg.StateDir, Keeps: []string{cfg.ServerKey, filepath.Join(cfg.StateDir, daemon.BookName)}, Makes: socketPaths(cfg),
		Again:  append(cfg.AdmissionFiles(), cfg.MapFiles()...),
		Shared: derper, // its key file may lie among strangers, as in /etc
	}
	if cfg.MapWrite != "" {
		p.Replaces = append(p.Replaces, cfg.MapWrite)
	}
	switch {
	case cfg.CertMode != config.CertFiles:
		p.Keeps = append(p.Keeps, cfg.Cert, cfg.Cert+".lock", cfg.Key)
		if cfg.CertMode == config.CertACME {
			dir := filepath.Join(cfg.StateDir, "acme")
			p.Keeps = append(p.Keeps, dir, filepath.Join(dir, "mode"))
			p.Fills = append(p.Fills, dir)
		}
	case cfg.TLS:
		for _, pair := range cfg.CertPairs() {
			p.Again = append(p.Again, pair.Cert, pair.Key)
		}
	}
	return p
}

// socketPaths are the unix sockets that a relay with these settings opens.
func socketPaths(cfg config.Config) []string {
	http, _ := config.AddressAndMode(cfg.HTTPListen)
	addresses := []string{cfg.AdminListen, http}
	for _, d := range cfg.Doors() {
		addresses = append(addresses, d.Address)
	}
	var paths []string
	for _, address := range addresses {
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			paths = append(paths, path)
		}
	}
	return paths
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
