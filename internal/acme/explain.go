package acme

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	acmewire "github.com/mholt/acmez/v3/acme"
)

// Cause is why there is no certificate, in one word for logs and figures.
type Cause string

// The causes.
const (
	CauseClock       Cause = "clock"
	CauseUnreachable Cause = "ca-unreachable"
	CauseUntrusted   Cause = "ca-untrusted"
	CauseTrouble     Cause = "ca-trouble"
	CauseRateLimited Cause = "rate-limited"
	CauseAccount     Cause = "account"
	CauseName        Cause = "name-refused"
	CauseNoConnect   Cause = "relay-unreachable"
	CauseAnswer      Cause = "wrong-answer"
	CauseDNS         Cause = "dns"
	CauseCAA         Cause = "caa"
	CauseProfile     Cause = "profile"
	CauseHook        Cause = "dns-hook"
	CauseStorage     Cause = "storage"
	CauseOther       Cause = "other"
)

// Problem is a failure as an operator needs it.
type Problem struct {
	Cause Cause
	Text  string    // one line that ends in the next step
	until time.Time // no attempt before; zero: the authority named no time
}

// explain finds out what went wrong for subject, and what to do about it.
func explain(err error, subject string, o Options) Problem {
	host := o.Directory
	if u, parseErr := url.Parse(host); parseErr == nil {
		host = u.Host
	}
	if p, ok := errors.AsType[*hookError](err); ok {
		return Problem{Cause: CauseHook, Text: "the DNS hook failed: " + p.what + "; hint: run it by hand with the same arguments, and see that it ends with status 0"}
	}
	if p, ok := errors.AsType[acmewire.Problem](err); ok {
		return explainProblem(p, subject, host, o)
	}
	if cause, what, hint := explainTransport(err, host, o); cause != "" {
		return Problem{Cause: cause, Text: what + "; hint: " + hint}
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "profile"):
		return Problem{Cause: CauseProfile, Text: fmt.Sprintf("%s has no profile %q for certificates of addresses; "+
			"hint: set acme_ip_profile to none, or to a profile of this authority", host, o.IPProfile)}
	case strings.Contains(text, "no solvers available"):
		return Problem{Cause: CauseNoConnect, Text: fmt.Sprintf("%s offers no way to prove %s that this relay can use (%s); "+
			"hint: turn on http_listen on port 80, listen on port 443, or set acme_dns_hook for a domain", host, subject, short(text))}
	case strings.Contains(text, "does not qualify for a public certificate"), strings.Contains(text, "cannot have public IP certificate"):
		return Problem{Cause: CauseName, Text: fmt.Sprintf("%s gives no certificate for %s; "+
			"hint: set acme_name to a public domain or address, or acme_directory to an authority of your own", host, subject)}
	case strings.Contains(text, "no certificate chains"): // certmagic has just made a new account
		return Problem{Cause: CauseAccount, Text: fmt.Sprintf("%s no longer knew this relay's account, so a new one was made; "+
			"hint: nothing to do here, it is tried again", host)}
	case strings.Contains(text, "HTTP 5"):
		return Problem{Cause: CauseTrouble, Text: fmt.Sprintf("%s has trouble of its own (%s); hint: nothing to do here, it is tried again", host, short(text))}
	case strings.Contains(text, "storage"), errors.Is(err, fs.ErrPermission):
		return Problem{Cause: CauseStorage, Text: fmt.Sprintf("certificates cannot be kept in %s (%s); hint: check its owner, mode and free space", o.Storage, short(text))}
	}
	return Problem{Cause: CauseOther, Text: fmt.Sprintf("no certificate for %s: %s; hint: log_level debug shows each step", subject, short(text))}
}

// explainTransport knows what keeps a request from reaching the authority.
func explainTransport(err error, host string, o Options) (c Cause, what, hint string) {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		now := o.Now()
		return CauseClock, fmt.Sprintf("the certificate of %s itself is valid from %s to %s, and this machine's clock says %s", host,
				invalid.Cert.NotBefore.UTC().Format(time.DateOnly), invalid.Cert.NotAfter.UTC().Format(time.DateOnly), now.UTC().Format(time.RFC3339)),
			"set the clock, best by NTP (timedatectl set-ntp true)"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return CauseUntrusted, "this machine does not trust the certificate of " + host,
			"install ca-certificates; for an authority of your own give its root as acme_ca_file"
	}
	if wrong, ok := errors.AsType[x509.HostnameError](err); ok {
		return CauseUntrusted, fmt.Sprintf("the certificate of %s is for another name (%v)", host, wrong), "check acme_directory"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return CauseUnreachable, fmt.Sprintf("cannot find the address of %s (%v)", host, dns),
			"check this machine's DNS (/etc/resolv.conf) and acme_directory; it is tried again"
	}
	if transport, ok := errors.AsType[*url.Error](err); ok {
		return CauseUnreachable, fmt.Sprintf("%s does not answer (%s)", host, short(transport.Err.Error())),
			"check that this machine can open connections to it; it is tried again"
	}
	return "", "", ""
}

// explainProblem knows what an authority may answer (RFC 8555, 6.7).
func explainProblem(p acmewire.Problem, subject, host string, o Options) Problem {
	detail := short(p.Detail)
	_, aboutName := p.Resource.(acmewire.Authorization)
	say := func(c Cause, format, hint string) Problem {
		return Problem{Cause: c, Text: fmt.Sprintf(format, host, subject) + " (" + detail + "); hint: " + hint}
	}
	switch p.Type {
	case acmewire.ProblemTypeRateLimited:
		r := say(CauseRateLimited, "%s has had too many requests for %s of late", "wait: it is tried again when the limit allows; do not delete the state directory, which makes it worse")
		r.until = retryAfter(p.Detail)
		return r
	case acmewire.ProblemTypeConnection:
		return say(CauseNoConnect, "%s could not connect to %s", reach(subject, o))
	case acmewire.ProblemTypeDNS:
		return say(CauseDNS, "%s found no address of %s", "let the name's A (and AAAA) record point to this relay; a stale AAAA record does harm too")
	case acmewire.ProblemTypeCAA:
		return say(CauseCAA, "%s may not certify %s, by the name's CAA record", "allow this authority in the CAA record, or take the record away")
	case acmewire.ProblemTypeIncorrectResponse, acmewire.ProblemTypeTLS:
		return say(CauseAnswer, "%s got an answer for %s that was not this relay's", elsewhere(subject, o))
	case acmewire.ProblemTypeRejectedIdentifier, acmewire.ProblemTypeUnsupportedIdentifier:
		return say(CauseName, "%s gives no certificate for %s", "name what it does certify in acme_name, or use another authority in acme_directory")
	case acmewire.ProblemTypeExternalAccountRequired:
		return say(CauseAccount, "%s wants an account of its own before it certifies %s", "get a key id and key there, and set acme_eab_kid and acme_eab_key_file")
	case acmewire.ProblemTypeInvalidContact, acmewire.ProblemTypeUnsupportedContact:
		return say(CauseAccount, "%s does not take the contact for %s", "mend acme_email, or leave it out")
	case acmewire.ProblemTypeUserActionRequired:
		return say(CauseAccount, "%s wants you to agree to something before it certifies %s", "open the address that it names")
	case acmewire.ProblemTypeNamespace + "invalidProfile":
		return say(CauseProfile, "%s does not know the profile asked for with %s", "set acme_ip_profile to none, or to a profile of this authority")
	case acmewire.ProblemTypeServerInternal:
		return say(CauseTrouble, "%s has trouble of its own with %s", "nothing to do here, it is tried again")
	case acmewire.ProblemTypeUnauthorized, acmewire.ProblemTypeMalformed:
		if aboutName {
			return say(CauseAnswer, "%s got an answer for %s that was not this relay's", elsewhere(subject, o))
		}
		return say(CauseAccount, "%s does not take this relay's account or order for %s", "check acme_eab_kid and its key; if the account is gone, move the acme directory in the state directory away")
	}
	if p.Status >= 500 {
		return say(CauseTrouble, "%s has trouble of its own with %s", "nothing to do here, it is tried again")
	}
	return say(CauseOther, "%s refused a certificate for %s", "see what it says; it is tried again")
}

// reach is what to do when the authority cannot connect.
func reach(subject string, o Options) string {
	switch {
	case o.HTTP && o.TLS:
		return "port 80 or 443 of " + subject + " must lead to this relay from everywhere: check firewall, cloud security group, router and DNS"
	case o.HTTP:
		return "port 80 of " + subject + " must lead to this relay's http_listen from everywhere: check firewall, cloud security group, router and DNS"
	default:
		return "port 443 of " + subject + " must lead to this relay's listen from everywhere: check firewall, cloud security group, router and DNS"
	}
}

// elsewhere is what to do when something else answered the authority.
func elsewhere(subject string, o Options) string {
	if o.DNSHook != "" && !isIP(subject) {
		return "the DNS hook must not return before all name servers show the TXT record"
	}
	return subject + " or its port leads to another server, or only some of its addresses lead here; check its A and AAAA records and what listens on ports 80 and 443"
}

// retryTime is how Let's Encrypt names the end of a limit.
var retryTime = regexp.MustCompile(`retry after (\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)`)

func retryAfter(detail string) time.Time {
	found := retryTime.FindStringSubmatch(detail)
	if found == nil {
		return time.Time{}
	}
	t, err := time.Parse(time.DateTime, found[1]+" "+found[2])
	if err != nil {
		return time.Time{}
	}
	return t
}

// short makes one printable line of at most a few hundred bytes of what a server said.
func short(text string) string {
	const most = 300
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// refused is how long to wait after each refusal. Let's Encrypt takes five failed
// validations of a name in an hour. The first wait is short because a new relay
// prints no map before its first certificate, and waits a minute for it.
var refused = []time.Duration{
	20 * time.Second, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 6 * time.Hour,
}

// backoff returns how long to wait after tries failures before this one. An
// authority that does not answer counts nothing, so it is asked more often.
func backoff(p Problem, tries int, first time.Duration, now time.Time) time.Duration {
	const longest = 10 * time.Minute
	switch p.Cause {
	case CauseUnreachable, CauseUntrusted, CauseTrouble, CauseClock:
		return min(first<<min(tries, 10), longest)
	case CauseRateLimited:
		if wait := p.until.Sub(now); wait > 0 {
			return min(wait, 24*time.Hour) + time.Minute
		}
		return max(time.Hour, refused[min(tries, len(refused)-1)])
	default:
		return refused[min(tries, len(refused)-1)]
	}
}
