package admit

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Bounds of one question over HTTP.
const (
	askLimit      = 5 * time.Second
	verifyBody    = 4 << 10 // octets of an answer that are read
	maxRedirects  = 3
	quoted        = 120      // octets of a foreign text that an error shows
	headerLimit   = 64 << 10 // octets of an answer's header
	idlePerServer = 8        // connections that are kept
	shortSecret   = 6        // octets: shorter values of a query are none
)

// URLOptions configure a source that asks a server by derper's contract.
type URLOptions struct {
	// Name is for logs and statistics; empty: "url", or "headscale" for
	// NewHeadscaleVerify.
	Name string
	// URL is http or https. A user and password in it are sent as basic
	// authentication; they and the query are never shown.
	URL    string
	CAFile string // PEM of the only authorities to trust; empty: the system's
	// Derper reads answers exactly as derper does: only a failed transport is
	// Unavailable, and whatever is not a clear Allow is Refuse.
	Derper bool
	// Transport carries the requests; nil: one of its own, with the proxies that
	// the environment names. CAFile is for the latter.
	Transport http.RoundTripper
}

// urlSource asks a server about each key.
type urlSource struct {
	name     string
	url      string            // what is asked
	shown    string            // the URL for people: without user, password and query
	secrets  *strings.Replacer // takes them out of what else is shown
	derper   bool
	forwards bool
	client   *http.Client
}

// NewURL returns a source that puts each question to the server at o.URL with a
// POST of {"NodePublic":"nodekey:…","Source":"address"} and reads {"Allow":bool}.
// It may ask another relay. It refuses options that cannot work.
func NewURL(o URLOptions) (Source, error) {
	if o.Name == "" {
		o.Name = "url"
	}
	s, err := newURL(o)
	if err != nil {
		return nil, err
	}
	s.forwards = true
	return s, nil
}

// NewHeadscaleVerify returns the source that asks the Headscale at o.URL, which
// answers the same question at /verify, without a password of its own.
func NewHeadscaleVerify(o URLOptions) (Source, error) {
	if o.Name == "" {
		o.Name = "headscale"
	}
	u, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	o.URL = u.JoinPath("verify").String()
	return newURL(o)
}

func newURL(o URLOptions) (*urlSource, error) {
	u, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	s := &urlSource{name: o.Name, url: u.String(), shown: shownURL(u), secrets: hider(u), derper: o.Derper}
	transport := o.Transport
	if transport == nil {
		if transport, err = newTransport(o.CAFile); err != nil {
			return nil, err
		}
	}
	s.client = &http.Client{Transport: transport}
	if !o.Derper { // derper goes wherever it is sent, ten times
		s.client.CheckRedirect = checkRedirect
	}
	return s, nil
}

// parseURL checks what the operator wrote. Its errors do not repeat it: it may hold
// a password.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("this is not a URL; hint: write it as https://host/path")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("the URL begins with %q instead of http or https; hint: write it as https://host/path", u.Scheme)
	case u.Hostname() == "":
		return nil, errors.New("the URL has no host; hint: write it as https://host/path")
	}
	return u, nil
}

func shownURL(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return shown.String()
}

// hider takes the secrets of u out of foreign texts.
func hider(u *url.URL) *strings.Replacer {
	var pairs []string
	hide := func(secret string) {
		if secret != "" {
			pairs = append(pairs, secret, "[hidden]")
		}
	}
	if u.User != nil {
		password, _ := u.User.Password()
		hide(base64.StdEncoding.EncodeToString([]byte(u.User.Username() + ":" + password)))
		hide(u.User.String())
		hide(password)
		if password == "" { // a token may stand in the user's place
			hide(u.User.Username())
		}
	}
	hide(u.RawQuery)
	for _, values := range u.Query() {
		for _, v := range values {
			if len(v) >= shortSecret {
				hide(v)
			}
		}
	}
	return strings.NewReplacer(pairs...)
}

func newTransport(caFile string) (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost, t.MaxResponseHeaderBytes = idlePerServer, headerLimit
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		u, err := http.ProxyFromEnvironment(r)
		if err != nil { // which may show the proxy's password
			return nil, errors.New("the proxy that the environment names is not a URL")
		}
		return u, nil
	}
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the authorities to trust: %v; hint: name a PEM file that the relay's user can read", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s; hint: name a file with the authority's certificate in PEM", caFile)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}

// checkRedirect follows a few redirects, and none that gives up encryption.
func checkRedirect(next *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https":
		return errors.New("a redirect from https to http")
	}
	return nil
}

// Name returns the name from the options.
func (s *urlSource) Name() string { return s.name }

// Forwards reports whether the server may be a relay that asks in turn.
func (s *urlSource) Forwards() bool { return s.forwards }

// verifyQuestion is the body of a question. An unknown address is the empty text.
type verifyQuestion struct {
	NodePublic key.Public
	Source     netip.Addr
}

// Decide asks the server, for five seconds at most.
func (s *urlSource) Decide(ctx context.Context, r Request) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	body, err := json.Marshal(verifyQuestion{r.Key, r.Addr})
	if err != nil {
		return Verdict{Answer: Unavailable}, fmt.Errorf("cannot write the question: %v; hint: report this as a bug", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return s.unavailable("cannot be asked", err, "check the URL")
	}
	// To ask twice does no harm: on a connection that was kept and has ended
	// meanwhile, net/http asks again on a new one. Nil is not sent.
	req.Header["Idempotency-Key"] = nil
	if !s.derper {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json")
	}
	res, err := s.client.Do(req)
	if err != nil {
		return s.unavailable("cannot be reached", err, "check that the server runs and that its address, name and certificate are right")
	}
	defer res.Body.Close()
	if s.derper {
		answer, clear := readAsDerper(res.StatusCode, res.Body)
		return Verdict{Answer: answer, Doubtful: !clear}, nil
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, verifyBody+1))
	if err != nil {
		return s.unavailable("broke off its answer", err, "look at the server's log")
	}
	answer, wrong := readVerify(res.StatusCode, text)
	if answer == Unavailable {
		return s.unavailable(wrong, nil, hintForStatus(res.StatusCode))
	}
	return Verdict{Answer: answer}, nil
}

// unavailable is the answer when the server did not give one.
func (s *urlSource) unavailable(what string, err error, hint string) (Verdict, error) {
	return Verdict{Answer: Unavailable}, errors.New(s.secrets.Replace(s.shown + " " + what + because(err) + "; hint: " + hint))
}

// because returns ": " and why a request failed, or "". The URL that net/http puts
// around it may hold secrets, and goes.
func because(err error) string {
	if err == nil {
		return ""
	}
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return ": no answer in time"
	}
	return ": " + clean(err.Error(), 4*quoted)
}

func hintForStatus(status int) string {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return "check the user and password in the URL"
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed:
		return "check the path of the URL"
	case status >= 500:
		return "look at the server's log"
	}
	return `the server must answer a POST with status 200 and {"Allow":true} or {"Allow":false}`
}

// readVerify reads an answer strictly: with anything but a clear one it returns
// Unavailable and what is wrong.
func readVerify(status int, body []byte) (Answer, string) {
	if status != http.StatusOK {
		return Unavailable, fmt.Sprintf("answers with status %d instead of 200: %q", status, clean(string(body), quoted))
	}
	if len(body) > verifyBody {
		return Unavailable, fmt.Sprintf("answers with more than %d octets: %q", verifyBody, clean(string(body), quoted))
	}
	var answer struct{ Allow *bool }
	if err := json.Unmarshal(body, &answer); err != nil || answer.Allow == nil {
		return Unavailable, fmt.Sprintf("answers with something else than Allow true or false: %q", clean(string(body), quoted))
	}
	if *answer.Allow {
		return Allow, ""
	}
	return Refuse, ""
}

// readAsDerper reads an answer as derper does: the first JSON value in the first
// 4096 octets of a 200, and Refuse with whatever is wrong, which is then not clear.
func readAsDerper(status int, body io.Reader) (answer Answer, clear bool) {
	if status != http.StatusOK {
		return Refuse, false
	}
	var said struct{ Allow *bool }
	err := json.NewDecoder(io.LimitReader(body, verifyBody)).Decode(&said)
	if err != nil || said.Allow == nil {
		return Refuse, false
	}
	if !*said.Allow {
		return Refuse, true
	}
	return Allow, true
}
