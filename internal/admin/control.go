package admin

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Control is what the API under /v1/ acts on. Its methods are safe for concurrent
// use. Keys and targets come as people write them: the implementation resolves
// abbreviations. Errors end in the next step; ErrNotFound and ErrAmbiguous may be
// wrapped in them.
type Control interface {
	Status() Status
	Pending() []Pending
	Rules() []Rule
	// Allow, Deny and Revoke carry out what the operator says of a key.
	Allow(q RuleRequest) (RuleResult, error)
	Deny(q RuleRequest) (RuleResult, error)
	Revoke(q RuleRequest) (RuleResult, error)
	Kick(q KickRequest) (KickResult, error)
	Bans() []Ban
	Ban(q BanRequest) (BanResult, error)
	Unban(q BanRequest) (BanResult, error)
	// Probe lets keys of probes in for a time, and EndProbes ends that for all;
	// those of the relay itself stay.
	Probes() []Probe
	Probe(q ProbeRequest) (ProbeResult, error)
	EndProbes() ProbesEnded
	// Vouch answers another relay's question about a key, from sources that are
	// this relay's own.
	Vouch(ctx context.Context, k key.Public, addr netip.Addr) (bool, error)
}

// What a wrong key or target is.
var (
	ErrNotFound  = errors.New("not found")
	ErrAmbiguous = errors.New("ambiguous")
)

// Status is the relay at one moment.
type Status struct {
	Version   string    `json:"version"`
	ServerKey string    `json:"server_key"` // public
	Started   time.Time `json:"started"`
	Health    Health    `json:"health"`
	Admission Admission `json:"admission"`
	// Connected and Waiting count all peers. Peers are some of them: a page.
	Connected int    `json:"connected"`
	Waiting   int    `json:"waiting"`
	Peers     []Peer `json:"peers"` // those that wait included; the newest last
	// More is how many came earlier than the first of Peers: ?skip= asks for them.
	More    int `json:"more"`
	Pending int `json:"pending"` // keys that were refused and wait for a decision
	Bans    int `json:"bans"`
	Probes  int `json:"probes"` // keys of probes that are let in for a time, the relay's own left out
}

// Admission says who may connect.
type Admission struct {
	Open    bool              `json:"open"`    // to everybody
	Lobby   bool              `json:"lobby"`   // refused peers wait, and are told why
	Isolate bool              `json:"isolate"` // tenants exchange no packets
	Tenants []Tenant          `json:"tenants"` // none: nobody may
	Refused map[string]uint64 `json:"refused"` // logins since the start, by reason
}

// Tenant is a group of admission sources.
type Tenant struct {
	Name     string         `json:"name"`     // empty: the relay's own
	Admitted uint64         `json:"admitted"` // logins since the start
	Sources  []string       `json:"sources"`
	Reports  map[string]any `json:"reports,omitempty"`
	// Troubles says by the source's name what is wrong with it.
	Troubles map[string]string `json:"troubles,omitempty"`
}

// Peer is one connection.
type Peer struct {
	Key     key.Public     `json:"key"`
	Name    string         `json:"name,omitempty"`
	Tenant  string         `json:"tenant,omitempty"`
	Addr    netip.AddrPort `json:"addr,omitzero"`
	App     string         `json:"app,omitempty"` // as the client names it
	Since   time.Time      `json:"since"`
	Waiting bool           `json:"waiting,omitempty"`
	Mesh    bool           `json:"mesh,omitempty"` // a sibling relay
}

// Pending is a key that was refused lately and that no rule speaks of.
type Pending struct {
	Key     key.Public `json:"key"`
	Addr    netip.Addr `json:"addr,omitzero"` // of the last try
	First   time.Time  `json:"first"`
	Last    time.Time  `json:"last"`
	Tries   uint64     `json:"tries"`
	Reason  string     `json:"reason"`
	Waiting bool       `json:"waiting"` // it is connected
}

// Rule is what the operator has said of one key.
type Rule struct {
	Key    key.Public `json:"key"`
	Allow  bool       `json:"allow"`
	Tenant string     `json:"tenant,omitempty"`
	Name   string     `json:"name,omitempty"`
	Note   string     `json:"note,omitempty"`
	At     time.Time  `json:"at"`
}

// RuleRequest says what to do with a key.
type RuleRequest struct {
	Key    string `json:"key"` // whole, or as much of it as is unique
	Tenant string `json:"tenant,omitempty"`
	Name   string `json:"name,omitempty"`
	Note   string `json:"note,omitempty"`
}

// RuleResult is what came of it.
type RuleResult struct {
	Rule    Rule `json:"rule"`    // as it is now, or was before Revoke
	Present int  `json:"present"` // connections of the key, on which it acts at once
}

// KickRequest names whose connections are to end.
type KickRequest struct {
	Key string `json:"key"`
}

// KickResult is what came of it.
type KickResult struct {
	Key   key.Public `json:"key"`
	Ended int        `json:"ended"` // connections
}

// Ban keeps a key or a network out.
type Ban struct {
	Target string    `json:"target"`         // a key or CIDR
	Until  time.Time `json:"until,omitzero"` // zero: for ever
	Note   string    `json:"note,omitempty"`
	At     time.Time `json:"at"`
}

// BanRequest says whom to ban, or to let off.
type BanRequest struct {
	Target  string `json:"target"`            // a key, address or CIDR
	Seconds int64  `json:"seconds,omitempty"` // 0: for ever
	Note    string `json:"note,omitempty"`
}

// BanResult is what came of it.
type BanResult struct {
	Ban   Ban `json:"ban"`
	Ended int `json:"ended"` // connections of it
}

// Probe is the key of a probe that is let in for a time.
type Probe struct {
	Key   key.Public `json:"key"`
	Until time.Time  `json:"until"`
	Own   bool       `json:"own,omitempty"` // the relay's, to look after itself
}

// ProbeRequest names keys that are to be let in.
type ProbeRequest struct {
	Keys    []key.Public `json:"keys"` // one or two
	Seconds int64        `json:"seconds"`
}

// ProbeResult is what came of it.
type ProbeResult struct {
	Keys  []key.Public `json:"keys"`
	Until time.Time    `json:"until"`
	// ServerKey and Open say which relay it was, and whether it lets everybody in.
	ServerKey string `json:"server_key"`
	Open      bool   `json:"open"`
}

// ProbesEnded says how many are let in no more.
type ProbesEnded struct {
	Ended int `json:"ended"`
}
