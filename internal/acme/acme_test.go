package acme

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	acmewire "github.com/mholt/acmez/v3/acme"
)

func options(change func(*Options)) Options {
	o := Options{Names: []string{"Relay.example"}, HTTP: true, Storage: "unused"}
	if change != nil {
		change(&o)
	}
	return o
}

func TestNewRefuses(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"no https URL":       func(o *Options) { o.Directory = "http://ca.example/dir" },
		"key id and key":     func(o *Options) { o.EABKeyID = "kid" },
		"not base64":         func(o *Options) { o.EABKeyID, o.EABMACKey = "kid", "s3cret!" },
		"no name to certify": func(o *Options) { o.Names = nil },
		"no way to ask":      func(o *Options) { o.HTTP = false },
		"a DNS hook": func(o *Options) {
			o.HTTP, o.DNSHook, o.IPs = false, "/hook", []netip.Addr{netip.MustParseAddr("203.0.113.7")}
		},
	} {
		_, err := New(options(change))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "hint: ") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("want an error with %q and a hint, got %v", want, err)
		}
	}
	m, err := New(options(func(o *Options) { o.EABKeyID, o.EABMACKey = "kid", " a+/b== \n" }))
	if err != nil || m.o.EABMACKey != "a-_b" {
		t.Errorf("a key in the standard alphabet: %v, %v", m, err)
	}
}

func TestOtherRequestsAndHandshakesPass(t *testing.T) {
	m, err := New(options(nil))
	if err != nil {
		t.Fatal(err)
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, path := range []string{"/", "/generate_204", challengePath, challengePath + "token"} {
		w := httptest.NewRecorder()
		m.HTTPChallenge(next).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://relay.example"+path, nil))
		if w.Code != http.StatusTeapot {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	for _, protos := range [][]string{nil, {"http/1.1"}, {"acme-tls/1"}, {"acme-tls/1", "http/1.1"}} {
		c, err := m.TLSChallenge(&tls.ClientHelloInfo{ServerName: "relay.example", SupportedProtos: protos})
		if c != nil || err != nil {
			t.Errorf("%q: %v, %v", protos, c, err)
		}
	}
}

func problem(kind string) error {
	return fmt.Errorf("obtain: %w", acmewire.Problem{Type: acmewire.ProblemTypeNamespace + kind, Detail: "the detail"})
}

func TestExplanations(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	o := options(func(o *Options) {
		o.Directory, o.IPProfile, o.Now = "https://ca.example/dir", ShortLived, func() time.Time { return now }
	})
	expired := x509.CertificateInvalidError{Cert: &x509.Certificate{NotBefore: now.AddDate(1, 0, 0), NotAfter: now.AddDate(1, 3, 0)}, Reason: x509.Expired}
	aboutName := acmewire.Problem{Type: acmewire.ProblemTypeUnauthorized, Detail: "the detail", Resource: acmewire.Authorization{}}
	for _, tt := range []struct {
		err   error
		cause Cause
		want  string
	}{
		{problem("rateLimited"), CauseRateLimited, "too many requests"},
		{problem("connection"), CauseNoConnect, "port 80 of relay.example"},
		{problem("dns"), CauseDNS, "AAAA"},
		{problem("caa"), CauseCAA, "CAA"},
		{problem("tls"), CauseAnswer, "not this relay's"},
		{problem("incorrectResponse"), CauseAnswer, "not this relay's"},
		{aboutName, CauseAnswer, "not this relay's"},
		{problem("unauthorized"), CauseAccount, "acme_eab_kid"},
		{problem("rejectedIdentifier"), CauseName, "acme_name"},
		{problem("externalAccountRequired"), CauseAccount, "acme_eab_key_file"},
		{problem("invalidContact"), CauseAccount, "acme_email"},
		{problem("userActionRequired"), CauseAccount, "agree"},
		{problem("invalidProfile"), CauseProfile, "acme_ip_profile"},
		{problem("serverInternal"), CauseTrouble, "trouble of its own"},
		{acmewire.Problem{Status: 503}, CauseTrouble, "trouble of its own"},
		{problem("somethingNew"), CauseOther, "the detail"},
		{&url.Error{Op: "Get", URL: "x", Err: expired}, CauseClock, "clock says 2030-01-02T03:04:05Z"},
		{&url.Error{Op: "Get", URL: "x", Err: x509.UnknownAuthorityError{}}, CauseUntrusted, "acme_ca_file"},
		{&url.Error{Op: "Get", URL: "x", Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "ca.example"}}, CauseUntrusted, "another name"},
		{&url.Error{Op: "Get", URL: "x", Err: &net.DNSError{Err: "no such host", Name: "ca.example"}}, CauseUnreachable, "cannot find the address"},
		{&url.Error{Op: "Get", URL: "x", Err: errors.New("connection refused")}, CauseUnreachable, "ca.example does not answer (connection refused)"},
		{errors.New("unknown profile name 'x'"), CauseProfile, "acme_ip_profile"},
		{errors.New("no solvers available for remaining challenges"), CauseNoConnect, "acme_dns_hook"},
		{errors.New("subject '10.0.0.1' does not qualify for a public certificate"), CauseName, "acme_directory"},
		{errors.New("attempt 1: HTTP 502: bad gateway"), CauseTrouble, "bad gateway"},
		{errors.New("failed storage check: disk full"), CauseStorage, "free space"},
		{&fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission}, CauseStorage, "owner"},
		{errors.New("no certificate chains"), CauseAccount, "a new one was made"},
		{&hookError{"/hook present: exit status 1"}, CauseHook, "/hook present"},
		{errors.New("else\n" + strings.Repeat("x", 2000)), CauseOther, "log_level debug"},
	} {
		p := explain(tt.err, "relay.example", o)
		if p.Cause != tt.cause || !strings.Contains(p.Text, tt.want) {
			t.Errorf("%v: %s %q, want %s with %q", tt.err, p.Cause, p.Text, tt.cause, tt.want)
		}
		if _, hint, _ := strings.Cut(p.Text, "; hint: "); hint == "" || strings.Contains(p.Text, "\n") || len(p.Text) > 600 || strings.Contains(p.Text, "%!") {
			t.Errorf("%v: %q is not one line that ends in a hint", tt.err, p.Text)
		}
	}
}

func TestBackoff(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	within := func(p Problem, span time.Duration) (n int) {
		for at := time.Duration(0); at < span; n++ {
			at += backoff(p, n, 10*time.Second, now)
		}
		return n
	}
	if n := within(Problem{Cause: CauseNoConnect}, time.Hour); n > 5 {
		t.Errorf("%d failed validations in an hour, and Let's Encrypt takes five", n)
	}
	if n := within(Problem{Cause: CauseUnreachable}, time.Hour); n < 8 || n > 20 {
		t.Errorf("an authority that is down is asked %d times in an hour", n)
	}
	if wait := backoff(Problem{Cause: CauseOther}, 1000, time.Second, now); wait != 6*time.Hour {
		t.Errorf("after a thousand failures it waits %v", wait)
	}
	limited := acmewire.Problem{Type: acmewire.ProblemTypeRateLimited, Detail: "too many certificates, retry after 2030-01-02 06:04:05 UTC: see https://x"}
	if wait := backoff(explain(limited, "a", options(nil)), 0, time.Second, now); wait != 3*time.Hour+time.Minute {
		t.Errorf("told to wait three hours, it waits %v", wait)
	}
	if wait := backoff(Problem{Cause: CauseRateLimited}, 0, time.Second, now); wait != time.Hour {
		t.Errorf("over a limit of unknown length it waits %v", wait)
	}
}

func TestOneLineForOneCause(t *testing.T) {
	log := &logText{}
	m, err := New(options(func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) }))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		m.failed("relay.example", Problem{Cause: CauseDNS, Text: "a"}, time.Time{})
		m.failed("relay.example", Problem{Cause: CauseCAA, Text: "b"}, time.Time{})
	}
	if lines := strings.Count(log.String(), "\n"); lines != 2 {
		t.Errorf("%d lines for two causes:\n%s", lines, log)
	}
	s := m.Stats().Names
	if len(s) != 1 || s[0].Name != "relay.example" || s[0].Failed != 6 || s[0].Cause != CauseCAA {
		t.Errorf("stats %+v", s)
	}
}

func TestClockText(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for ahead, want := range map[time.Duration]string{
		time.Hour: "1h0m0s ahead of", -6 * time.Minute: "6m0s behind",
	} {
		if text := clockText(now, ahead); !strings.Contains(text, want) || !strings.Contains(text, "hint: ") {
			t.Errorf("%v: %q", ahead, text)
		}
	}
}

func TestNothingStored(t *testing.T) {
	_, _, err := Stored(filepath.Join(t.TempDir(), "none"), "", "relay.example")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
