package cert

import (
	"math"
	"time"
)

// Stats is what a Source serves, for people and for metrics. The fields beside
// Certificates are those of the default.
type Stats struct {
	Mode         Mode      `json:"mode"`
	Names        []string  `json:"names"`     // subject alternative names, never null
	NotAfter     time.Time `json:"not_after"` // UTC, whole seconds
	DaysLeft     int       `json:"days_left"` // whole days, rounded down; below zero once expired
	SelfSigned   bool      `json:"self_signed"`
	Pin          string    `json:"pin,omitempty"`  // CertName for the DERP map, when SelfSigned
	MetaNotAfter time.Time `json:"meta_not_after"` // UTC, whole seconds
	RefusedNames uint64    `json:"refused_names"`  // handshakes refused by StrictSNI

	Certificates []CertificateStats `json:"certificates"` // all that are served, the default first
}

// CertificateStats is one certificate that is served.
type CertificateStats struct {
	Mode       Mode      `json:"mode"`
	File       string    `json:"file,omitempty"` // or another name of where it came from
	Names      []string  `json:"names"`          // subject alternative names, never null
	KeyType    string    `json:"key_type"`       // "ECDSA", "RSA" or "Ed25519"
	NotAfter   time.Time `json:"not_after"`      // UTC, whole seconds
	DaysLeft   int       `json:"days_left"`      // whole days, rounded down; below zero once expired
	SelfSigned bool      `json:"self_signed"`
}

// Stats returns the present figures. Like a handshake it renews the meta
// certificate when due, so that a relay which nobody visits looks no staler
// than it would be to a visitor.
func (s *Source) Stats() Stats {
	v, now := s.fresh(), s.now()
	c := v.certificates[0]
	stats := Stats{
		Mode:         c.mode,
		Names:        c.Names(),
		NotAfter:     c.NotAfter(),
		DaysLeft:     c.daysLeft(now),
		SelfSigned:   c.selfSigned,
		Pin:          c.Pin(),
		MetaNotAfter: v.metaNotAfter(),
		RefusedNames: s.refused.Load(),
	}
	for _, c := range v.certificates {
		stats.Certificates = append(stats.Certificates, CertificateStats{
			Mode: c.mode, File: c.certFile, Names: c.Names(), KeyType: c.keyType(),
			NotAfter: c.NotAfter(), DaysLeft: c.daysLeft(now), SelfSigned: c.selfSigned,
		})
	}
	return stats
}

// daysLeft counts whole days, rounded down: 0 on the last day, below zero after it.
func (c *Certificate) daysLeft(now time.Time) int {
	return int(math.Floor(c.NotAfter().Sub(now).Hours() / 24))
}
