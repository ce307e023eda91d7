package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/detour-relay/detour/internal/admit"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/relay"
)

// doorkeeper lets the relay ask the gate.
type doorkeeper struct{ gate *admit.Gate }

// Admit hands the question on.
func (k doorkeeper) Admit(ctx context.Context, peer key.Public, addr netip.Addr) relay.Verdict {
	return verdict(k.gate.Admit(ctx, peer, addr))
}

// Seated hands it on.
func (k doorkeeper) Seated(v relay.Verdict) { k.gate.Seated(v.Ticket) }

func verdict(d admit.Decision) relay.Verdict {
	return relay.Verdict{Admitted: d.Admitted, Reason: d.Reason, Lobby: d.Text, Tenant: d.Tenant, Guest: d.Tenant == admit.GuestTenant, Name: memberName(d.Member), Realm: d.Realm, Ticket: d.Ticket}
}

// memberName is how people call a member.
func memberName(m admit.Member) string {
	switch {
	case m.Name != "" && m.User != "":
		return m.Name + " (" + m.User + ")"
	case m.Name != "":
		return m.Name
	}
	return m.User
}

// roster lets the gate look at who is connected.
type roster struct{ d *Daemon }

// Present leaves out sibling relays, which admission is not about.
func (r roster) Present() []admit.Present {
	members := r.d.relay.Members()
	list := make([]admit.Present, 0, len(members))
	for _, m := range members {
		if !m.Mesh {
			list = append(list, admit.Present{ID: m.ID, Key: m.Key, Addr: m.Addr.Addr(), Tenant: m.Tenant, Waiting: m.Waiting})
		}
	}
	return list
}

// Judge hands a decision on.
func (r roster) Judge(p admit.Present, d admit.Decision) { r.d.relay.Judge(p.ID, verdict(d)) }

// Dismiss ends a connection.
func (r roster) Dismiss(p admit.Present, reason string) {
	r.d.relay.Dismiss(p.Key, reason, func(m relay.Member) bool { return m.ID == p.ID })
}

// serveAdmission runs the gate and the book, which is closed when both are done.
func (d *Daemon) serveAdmission(ctx context.Context) error {
	if d.book == nil {
		return d.gate.Serve(ctx)
	}
	var book sync.WaitGroup
	book.Go(func() { d.book.Serve(ctx, d.gate.Changed) })
	err := d.gate.Serve(ctx)
	book.Wait()
	return errors.Join(err, d.book.Close())
}

// BookName is the file in the state directory of whom the operator has allowed,
// denied and banned, and of what admission sources have said.
const BookName = "admission.db"

// openBook opens what the operator has decided. derper's command line has nothing
// of the kind, unless somebody asks.
func (d *Daemon) openBook() (err error) {
	if d.derper && !d.cfg.Asks() {
		return nil
	}
	d.book, err = admit.OpenBook(filepath.Join(d.cfg.StateDir, BookName), admit.BookOptions{Logger: d.log})
	return err
}

// adminToken reads the secret of the setting admin_token_file.
func (d *Daemon) adminToken() (string, error) {
	if d.cfg.AdminTokenFile == "" {
		return "", nil
	}
	const least = 16 // characters
	text, err := os.ReadFile(d.cfg.AdminTokenFile)
	if err != nil {
		return "", fmt.Errorf("admin_token_file: %w; hint: make it with: head -c 24 /dev/urandom | base64 > FILE, readable for the relay's user alone", err)
	}
	token := strings.TrimSpace(string(text))
	if len(token) < least {
		return "", fmt.Errorf("admin_token_file: %s holds fewer than %d characters; hint: make it with: head -c 24 /dev/urandom | base64 > FILE", d.cfg.AdminTokenFile, least)
	}
	return token, nil
}

// newGate makes the gate that the settings ask for.
func (d *Daemon) newGate() (*admit.Gate, error) {
	if err := d.openBook(); err != nil {
		return nil, err
	}
	var tenants []admit.Tenant
	var used []string
	for _, t := range d.cfg.Tenants() {
		tenant := admit.Tenant{Name: t.Name, AllOf: t.AllOf}
		for _, e := range t.Entries {
			used = append(used, memoryOf(t.Name, e))
			s, err := d.admissionSource(t.Name, e)
			if err != nil {
				return nil, fmt.Errorf("admission source %s: %w", e.Name(), err)
			}
			if s != nil {
				tenant.Sources = append(tenant.Sources, s)
			}
		}
		tenants = append(tenants, tenant)
	}
	var rules admit.Rules
	if d.book != nil {
		rules = d.book
		if err := d.book.ForgetSources(used); err != nil {
			return nil, err
		}
	}
	return admit.NewGate(admit.Options{
		Rules: rules, Tenants: tenants, Isolate: d.cfg.Isolate, Lobby: d.cfg.Refusal == config.RefusalLobby, Roster: roster{d},
		Recheck: d.cfg.AdmitRecheck, Logger: d.log,
		Hint: d.admitHint(),
	}), nil
}
