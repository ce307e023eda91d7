package daemon

import (
	"time"

	"github.com/detour-relay/detour/internal/acme"
	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/admit"
	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/listen"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/stun"
	"github.com/detour-relay/detour/internal/web"
)

// Stats are the figures of all parts at one moment, as GET /stats shows them.
// Parts that are off are left out.
type Stats struct {
	Version    string         `json:"version"`
	ServerKey  string         `json:"server_key"` // public
	Started    time.Time      `json:"started"`
	Relay      relay.Stats    `json:"relay"`
	Admit      admit.Stats    `json:"admit"`
	Listen     *listen.Stats  `json:"listen,omitempty"`
	Web        *web.Stats     `json:"web,omitempty"`
	Cert       *cert.Stats    `json:"cert,omitempty"`
	HTTPListen *listen.Stats  `json:"http_listen,omitempty"`
	HTTP       *web.HTTPStats `json:"http,omitempty"`
	STUN       *stun.Stats    `json:"stun,omitempty"`
	Admin      *admin.Stats   `json:"admin,omitempty"`
	ACME       *acme.Stats    `json:"acme,omitempty"`
}

// Stats gathers the figures of all parts.
func (d *Daemon) Stats() Stats {
	s := Stats{
		Version: d.version, ServerKey: d.id.serverKey.String(), Started: d.started.UTC(),
		Relay: d.relay.Stats(), Admit: d.gate.Stats(),
	}
	if d.door != nil {
		s.Listen, s.Web = ptr(d.door.Stats()), ptr(d.web.Stats())
	}
	if d.source != nil {
		s.Cert = ptr(d.source.Stats())
	}
	if d.httpDoor != nil {
		s.HTTPListen, s.HTTP = ptr(d.httpDoor.Stats()), ptr(d.portal.Stats())
	}
	if d.stun != nil {
		s.STUN = ptr(d.stun.Stats())
	}
	if d.admin != nil {
		s.Admin = ptr(d.admin.Stats())
	}
	if d.acme != nil {
		s.ACME = ptr(d.acme.manager.Stats())
	}
	return s
}

func ptr[T any](v T) *T { return &v }

// Health says whether clients can use the relay.
func (d *Daemon) Health() admin.Health {
	h := admin.Health{OK: true}
	if d.source != nil && d.acme == nil {
		now := time.Now()
		if c := d.source.Stats(); now.After(c.NotAfter) {
			h.Problems = append(h.Problems, "the certificate expired on "+c.NotAfter.Format(time.DateOnly)+
				": clients refuse it; replace it and restart")
		}
	}
	if d.acme != nil {
		h.Problems = append(h.Problems, d.acme.problems(time.Now())...)
	}
	h.OK = len(h.Problems) == 0
	return h
}
