package daemon

import (
	"time"

	"github.com/detour-relay/detour/internal/acme"
	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/admit"
	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/listen"
	"github.com/detour-relay/detour/internal/relay"
	"github.com/detour-relay/detour/internal/sni"
	"github.com/detour-relay/detour/internal/stun"
	"github.com/detour-relay/detour/internal/web"
)

// Stats are the figures of all parts at one moment, as GET /stats shows them.
// Parts that are off are left out.
type Stats struct {
	Version    string           `json:"version"`
	ServerKey  string           `json:"server_key"` // public
	Started    time.Time        `json:"started"`
	Relay      relay.Stats      `json:"relay"`
	Admit      admit.Stats      `json:"admit"`
	Listen     *listen.Stats    `json:"listen,omitempty"`
	Web        *web.Stats       `json:"web,omitempty"`
	Cert       *cert.Stats      `json:"cert,omitempty"`
	SecondCert *cert.Stats      `json:"second_cert,omitempty"` // on the second port of a rotation
	CertFiles  *cert.WatchStats `json:"cert_files,omitempty"`
	HTTPListen *listen.Stats    `json:"http_listen,omitempty"`
	HTTP       *web.HTTPStats   `json:"http,omitempty"`
	STUN       *stun.Stats      `json:"stun,omitempty"`
	Admin      *admin.Stats     `json:"admin,omitempty"`
	SNIRoutes  *sni.Stats       `json:"sni_routes,omitempty"`
	AlsoListen []DoorStats      `json:"also_listen,omitempty"`
	ACME       *acme.Stats      `json:"acme,omitempty"`
	Map        *MapStats        `json:"map,omitempty"`
}

// DoorStats are the figures of one address besides the main one.
type DoorStats struct {
	Address string `json:"address"`
	listen.Stats
}

// Stats gathers the figures of all parts.
func (d *Daemon) Stats() Stats {
	s := Stats{
		Version: d.version, ServerKey: d.id.serverKey.String(), Started: d.started.UTC(),
		Relay: d.relay.Stats(), Admit: d.gate.Stats(),
	}
	d.doorsMu.Lock()
	for i, e := range d.doors {
		if i == 0 {
			s.Listen, s.Web = ptr(e.Stats()), ptr(d.web.Stats())
			continue
		}
		s.AlsoListen = append(s.AlsoListen, DoorStats{e.Where(), e.Stats()})
	}
	d.doorsMu.Unlock()
	if second := d.second.Load(); second != nil {
		s.AlsoListen = append(s.AlsoListen, DoorStats{second.door.Where(), second.door.Stats()})
		s.SecondCert = ptr(second.source.Stats())
	}
	if d.router != nil {
		s.SNIRoutes = ptr(d.router.Stats())
	}
	if d.source != nil {
		s.Cert = ptr(d.source.Stats())
	}
	if d.watch != nil {
		s.CertFiles = ptr(d.watch.Stats())
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
	s.Map = d.mapStats()
	return s
}

func ptr[T any](v T) *T { return &v }

// Health says whether clients can use the relay.
func (d *Daemon) Health() admin.Health {
	h := admin.Health{OK: true}
	if stuck := d.rotationStuck.Load(); stuck != nil && *stuck != nil {
		h.Problems = append(h.Problems, "the rotation of the certificate is stuck: "+(*stuck).Error())
	}
	if d.acme != nil {
		h.Problems = append(h.Problems, d.acme.problems(time.Now())...)
	} else {
		h.Problems = append(h.Problems, d.certProblems()...)
	}
	h.Problems = append(h.Problems, d.keeper.Problems(time.Now())...)
	h.Problems = append(h.Problems, d.follower.Problems(time.Now())...)
	h.OK = len(h.Problems) == 0
	return h
}
