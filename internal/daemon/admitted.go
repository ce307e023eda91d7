package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/detour-relay/detour/internal/admit"
	"github.com/detour-relay/detour/internal/config"
)

// admitted writes who may connect, and how to change that.
func (d *Daemon) admitted(b *strings.Builder) {
	tenants := d.cfg.Tenants()
	switch {
	case d.cfg.Listen == config.Off: // STUN knows no clients
	case d.cfg.AdmitsAll() && d.derper:
		fmt.Fprintf(b, "Admitted: EVERYBODY, as with derper. Strangers who find this relay can use it and your traffic.\n"+
			"To close it: detour serve --server-key %s, which asks you about each node (see detour serve --help).\n\n", d.cfg.ServerKey)
	case d.cfg.AdmitsAll():
		b.WriteString("Admitted: EVERYBODY. Strangers who find this relay can use it and your traffic.\n" +
			"To close it, leave out --admit any: then it asks you about each node.\n\n")
	case len(tenants) == 0:
		b.WriteString("Admitted: nobody. --admit ask lets you decide about each node that tries.\n\n")
	default:
		b.WriteString("Admitted:\n")
		for _, t := range tenants {
			for _, e := range t.Entries {
				b.WriteString("  " + d.sourceInWords(t, e) + "\n")
			}
		}
		if d.cfg.Asks() {
			fmt.Fprintf(b, "Nodes that you have not decided about wait:\n"+
				"  detour admit pending%[1]s             who waits\n"+
				"  detour admit allow nodekey:…%[1]s     lets one in, at once\n"+
				"On a node, `tailscale status --json | grep -m1 PublicKey` shows its key. --admit any lets in everybody, strangers too.\n", d.reach())
		}
		b.WriteString("\n")
	}
}

// sourceInWords is a line of the start text.
func (d *Daemon) sourceInWords(t config.Tenant, e config.Entry) string {
	words := e.Explain()
	if e.Kind == config.AdmitKeys && e.Target == "" {
		words = fmt.Sprintf("the %d node keys in admit_key", len(d.cfg.AdmitKey))
		if len(d.cfg.AdmitKey) == 1 {
			words = "the one node key in admit_key"
		}
	}
	if t.Name != "" {
		words = "tenant " + t.Name + ": " + words
	}
	if t.AllOf && len(t.Entries) > 1 {
		words += " (all of its sources must allow)"
	}
	return words
}

// reach is what a command needs to find this relay, with a space in front, or
// nothing where it finds it by itself.
func (d *Daemon) reach() string {
	home, _ := os.UserHomeDir() // without one there is no default
	defaults := config.Defaults(config.Host{Root: os.Geteuid() == 0, Getenv: os.Getenv, Home: home})
	switch {
	case d.cfg.AdminListen == defaults.AdminListen:
		return ""
	case d.cfg.AdminListen == "unix:"+filepath.Join(d.cfg.StateDir, "admin.sock"):
		return " --state-dir " + d.cfg.StateDir
	}
	return " --admin-listen " + d.cfg.AdminListen
}

// admitHint tells how to let a refused node in.
func (d *Daemon) admitHint() string {
	switch {
	case d.derper:
		return "let this peer in at what -verify-clients or -verify-client-url asks"
	case d.cfg.Asks():
		return "let this node in with detour admit allow " + admit.KeyInHint + d.reach()
	case len(d.cfg.Tenants()) == 0:
		return "nobody is admitted; --admit ask lets you decide about each node"
	}
	return "add this node where admit looks, or add --admit ask and decide yourself"
}
