// Package config turns one YAML file, DETOUR_* variables and command-line flags
// into one checked Config. It touches no network and no state.
package config

import (
	"net/netip"
	"time"
)

// Off disables a listener wherever a listen setting stands.
const Off = "off"

// The values of CertMode.
const (
	CertPin   = "pin"   // a self-signed certificate, made once and pinned in the DERP map
	CertFiles = "files" // certificate and key from PEM files
	CertACME  = "acme"  // from a certificate authority, and a pin until it is there
)

// The values of STUNMode.
const (
	STUNTailscale = "tailscale" // only requests as Tailscale clients send them
	STUNRFC       = "rfc"       // any RFC 8489 binding request too
)

// The values of FrontPage besides an http or https URL to redirect to.
const (
	FrontNeutral = "neutral" // a page that names neither DERP nor Tailscale nor Detour
	FrontBlank   = "blank"   // an empty page

	FrontFallback = "fallback" // what Fallback answers
)

// The values of Admit.
const (
	AdmitAny  = "any"  // everybody
	AdmitNone = "none" // nobody but the keys of AdmitKey and the tenants
)

// Config is one relay's settings after all layers are merged and checked. It is
// passed by value and never changed.
type Config struct {
	StateDir  string // directory of keys, certificate and admin socket; made when missing
	ServerKey string // file of the relay's private key, in derper's format; made when missing

	Listen      string // HOST:PORT, "unix:" and a path, or "systemd" with or without a name, of the relay; or Off
	TLS         bool   // whether Listen speaks TLS; false only behind a proxy that does, or for tests
	STUNListen  string // UDP address, or Off
	STUNMode    string // STUNTailscale or STUNRFC
	HTTPListen  string // TCP address of plain HTTP for captive-portal checks, or Off
	AdminListen string // "unix:" and a path, a loopback TCP address, or Off

	Hostname   string     // domain or IP that clients dial; empty: the public address
	PublicIPv4 netip.Addr // address to publish; invalid: found on the interfaces
	PublicIPv6 netip.Addr // the same

	CertMode string // CertPin, CertFiles or CertACME
	Cert     string // PEM file of the certificate chain; in CertPin and CertACME the pin, made when missing; else never empty
	Key      string // PEM file of its private key; the same

	RegionID   int    // 1..65535; 900-999 are reserved for users
	RegionCode string // short, for ping and netcheck
	RegionName string // long, for people
	NodeName   string // unique over all regions of a DERP map; empty: made from region and server key

	Admit       []string // sources, as KIND[=TARGET][,option=value...]; empty: as AdmitNone
	AdmitKey    []string // node keys, as nodekey:<64 hex>, each with = and a name behind it if it has one
	MeshKeyFile string   // 64 hex digits that sibling relays share; empty: no mesh

	FrontPage string // FrontNeutral, FrontBlank, FrontFallback or a URL

	WriteTimeout   time.Duration // longest that a peer may take no byte before it is cut off; 0: no limit
	TCPUserTimeout time.Duration // TCP_USER_TIMEOUT of accepted connections; 0: the system's
	TCPKeepAlive   time.Duration // idle time before TCP keepalive probes; 0: the system's

	LogFormat string // "text" or "json"
	LogLevel  string // "debug", "info", "warn" or "error"

	CertPair  []string // in CertFiles: further pairs, as CERT,KEY or one file with both; see CertPairs
	StrictSNI bool     // refuse clients that would get the default certificate for want of a better one

	// What stands around the relay. TrustedFrom and Routes give these in the form in which they are used.
	TrustedProxies []string // networks, addresses or "unix": whose X-Forwarded-For and X-Real-IP are believed
	Fallback       string   // http://HOST:PORT, "unix:" and a path, or a directory: answers what is not the relay's; empty: FrontPage does
	SNIRoute       []string // "NAME=TARGET": connections for NAME are handed on before TLS

	AlsoListen     []string // further addresses of the relay with their options; Doors reads them
	AlsoSTUNListen []string // further UDP addresses
	ProxyProtocol  []string // proxies at Listen that must send a PROXY header: networks, addresses or "unix"
	PublicPort     int      // TCP port that clients dial for Listen; 0: the same
	PublicSTUNPort int      // UDP port that clients ask for STUNListen; 0: the same

	// Deployment, in table_run.go.
	RunAs string // USER, USER:GROUP or UID:GID to become once the ports are bound, where root started it; empty: stay

	ACMEDirectory  string   // https URL
	ACMEEmail      string   // contact; may be empty
	ACMEEABKeyID   string   // external account; empty: none
	ACMEEABKeyFile string   // file of its key, or empty
	ACMEEABKey     string   // the key itself, a secret; not in file or flags
	ACMECAFile     string   // PEM roots of the authority; empty: the system's
	ACMEName       []string // domains and addresses; empty: Hostname, or else the published addresses
	ACMEDNSHook    string   // program for DNS-01; empty: none
	ACMEIPProfile  string   // profile for addresses, or ProfileNone
	ACMESwitch     bool     // leave the pin for the authority's certificate

	// Admission, in table_admit.go. Tenants gives the sources in the form in which they are used.
	AdmitPolicy        string        // PolicyAnyOf or PolicyAllOf
	AdmitOnUnavailable string        // UnavailableCached, UnavailableRefuse or UnavailableAdmit
	AdmitMaxAge        time.Duration // of an answer that serves while its source is down
	AdmitRecheck       time.Duration // between two looks at everybody
	TenantList         []string      // NAME:SOURCE, or NAME:all_of
	Isolate            bool          // keep tenants apart
	Refusal            string        // RefusalLobby or RefusalClose
	AdminTokenFile     string        // file of the token that opens the control API on TCP; empty: it is closed there

	// Before admission, in table_limits.go; 0: no limit.
	LoginPending int // unfinished connections of one source: an IPv4 address or IPv6 /64
	LoginRate    int // new connections of one source in a second
	LoginBurst   int // new connections of one source at once
	AcceptRate   int // new connections of all in a second
	AcceptBurst  int // new connections of all at once

	// The kept DERP map, in table_map.go. MapEntries and MapAddresses give the lists in the form in which they are used.
	MapWrite     string        // file; empty: none
	MapSources   []string      // PLACE[,option=value...]
	MapRefresh   time.Duration // between two fetches of a URL
	MapListen    string        // TCP address of plain HTTP, or Off
	MapPublic    bool          // /derpmap.json at the relay's own doors
	MapTokenFile string        // file of the token for it; empty: none
	MapAddress   []string      // dns:NAME, stun:HOST:PORT or interfaces
}
