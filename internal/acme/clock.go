package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"
)

const (
	clockSlack = 5 * time.Minute  // by which a clock may differ from the authority's
	dateLimit  = 10 * time.Second // for the request that looks
)

func dateClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout: dateLimit,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		},
	}
}

// checkClock compares this machine's clock with the authority's, and says so when
// they differ too far: a wrong clock makes good certificates look bad, on either
// side, and no other message would lead to it.
func (m *Manager) checkClock(ctx context.Context) {
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, m.o.Directory, nil)
	if err != nil {
		return // New has parsed the URL
	}
	answer, err := m.http.Do(r)
	if err != nil {
		return // the attempt itself reports it
	}
	answer.Body.Close()
	theirs, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return
	}
	now := m.o.Now()
	if ahead := now.Sub(theirs); ahead.Abs() > clockSlack {
		m.say(CauseClock, "", clockText(now, ahead))
	}
}

// clockText says how far the clock is off; ahead is below zero when it is late.
func clockText(now time.Time, ahead time.Duration) string {
	way := "ahead of"
	if ahead < 0 {
		way = "behind"
	}
	return fmt.Sprintf("this machine's clock says %s and is %v %s the certificate authority's; "+
		"hint: set the clock, best by NTP (timedatectl set-ntp true)",
		now.UTC().Format(time.RFC3339), ahead.Abs().Round(time.Second), way)
}
