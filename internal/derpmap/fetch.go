package derpmap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
)

// Bounds of one fetch.
const (
	fetchLimit    = 30 * time.Second // all of it, redirects included; as Headscale's
	maxRedirects  = 3
	maxHead       = 64 << 10 // bytes of an answer's header
	maxValidator  = 1 << 10  // bytes of an ETag that is kept
	jsonType      = "application/json"
	hintReachable = "is the server up, and can this machine reach it?"
)

// FetchOptions say where a map is fetched.
type FetchOptions struct {
	// URL is http or https. Its user, password and query are sent and never shown.
	URL string
	// Pin is the certificate that the server must show, as PinPrefix and digits: a
	// pinned relay's, which no system's roots know. Empty: the roots decide.
	Pin    string
	CAFile string // PEM of the only authorities to trust; empty: the system's
	// Token is sent as a bearer token to the URL's own host, and read anew for each
	// fetch. Nil: none.
	Token func() (string, error)
}

// Fetcher reads a map from a URL, within bounds of time and size. It may be used
// by one goroutine at a time.
type Fetcher struct {
	url    *url.URL
	token  func() (string, error)
	client *http.Client
}

// Version is what a server tells one state of a map by.
type Version struct {
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`
}

// Fetched is what a fetch brought.
type Fetched struct {
	Unchanged bool // it is still that of the Version that was given, and Map is empty
	Map       Map
	Version   Version
}

// NewFetcher checks the options; it fetches nothing yet.
func NewFetcher(o FetchOptions) (*Fetcher, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("not an http or https URL; hint: write it as in https://relay.example.com/derpmap.json")
	}
	if o.Pin != "" && u.Scheme != "https" {
		return nil, errors.New("a pin is for https alone; hint: leave it out, or write https")
	}
	if err := checkPin(o.Pin); err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxResponseHeaderBytes, t.DisableKeepAlives = maxHead, true // a fetch is rare
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	t.Proxy = proxyOf
	switch {
	case o.Pin != "":
		pinned(t.TLSClientConfig, strings.TrimPrefix(o.Pin, PinPrefix))
	case o.CAFile != "":
		if t.TLSClientConfig.RootCAs, err = roots(o.CAFile); err != nil {
			return nil, err
		}
	}
	return &Fetcher{url: u, token: o.Token, client: &http.Client{Transport: t, CheckRedirect: checkRedirect, Timeout: fetchLimit}}, nil
}

// proxyOf never shows a proxy's password.
func proxyOf(r *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errors.New("the proxy that the environment names is not a URL")
	}
	return u, nil
}

// pinned has a certificate checked as clients check a pinned one: by its hash and
// its dates.
func pinned(c *tls.Config, digits string) {
	c.InsecureSkipVerify = true // VerifyConnection does it
	c.VerifyConnection = func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		sum := sha256.Sum256(leaf.Raw)
		if got := hex.EncodeToString(sum[:]); got != digits {
			return fmt.Errorf("it shows another certificate (%s%s) than the pinned one", PinPrefix, got)
		}
		if now := time.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
			return errors.New("its certificate is not valid today")
		}
		return nil
	}
}

func roots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the authorities to trust: %w; hint: name a PEM file that this user can read", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s; hint: name a file with the authority's certificate in PEM", file)
	}
	return pool, nil
}

// checkRedirect follows a few redirects, and none that gives up encryption.
func checkRedirect(next *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("it redirects more than %d times", maxRedirects)
	case via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https":
		return errors.New("it redirects from https to http")
	}
	return nil
}

// Fetch reads the map, or learns that it is still that of have. What comes is
// parsed and not judged: see Usable. Errors are one line, name the server, and end
// in a hint.
func (f *Fetcher) Fetch(ctx context.Context, have Version) (Fetched, error) {
	got, err := f.fetch(ctx, have)
	if err != nil {
		return Fetched{}, fmt.Errorf("fetch %s: %w", ShownURL(f.url.String()), err)
	}
	return got, nil
}

func (f *Fetcher) fetch(ctx context.Context, have Version) (Fetched, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url.String(), nil)
	if err != nil {
		return Fetched{}, err
	}
	req.Header.Set("Accept", jsonType+", */*;q=0.5")
	setIf(req.Header, "If-None-Match", have.ETag)
	setIf(req.Header, "If-Modified-Since", have.LastModified)
	if f.token != nil {
		token, err := f.token()
		if err != nil {
			return Fetched{}, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return Fetched{}, unreached(err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && have != Version{}:
		return Fetched{Unchanged: true, Version: have}, nil
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return Fetched{}, fmt.Errorf("status %s; hint: it wants another token, in token_file", resp.Status)
	case resp.StatusCode != http.StatusOK:
		return Fetched{}, fmt.Errorf("status %s; hint: is the URL right?", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxSize+1))
	if err != nil {
		return Fetched{}, unreached(err)
	}
	m, err := Parse(path.Ext(f.url.Path), body)
	if err != nil {
		return Fetched{}, hinted(err, "is the URL that of a DERP map?")
	}
	return Fetched{Map: m, Version: versionOf(resp.Header)}, nil
}

func setIf(h http.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}

// versionOf keeps what a server may be asked with again; what is overlong is its fault.
func versionOf(h http.Header) Version {
	v := Version{ETag: h.Get("ETag"), LastModified: h.Get("Last-Modified")}
	if len(v.ETag) > maxValidator || len(v.LastModified) > maxValidator {
		return Version{}
	}
	return v
}

// unreached leaves out the URL, which may hold a secret.
func unreached(err error) error {
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err
	}
	return hinted(err, hintReachable)
}

func hinted(err error, hint string) error {
	if strings.Contains(err.Error(), "; hint: ") {
		return err
	}
	return fmt.Errorf("%w; hint: %s", err, hint)
}

// ShownURL is a URL for people: without user, password and query, which may be
// secret. What is no URL comes back as it is.
func ShownURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return text
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

// IsURL tells an http or https URL from the path of a file.
func IsURL(place string) bool {
	return strings.HasPrefix(place, "http://") || strings.HasPrefix(place, "https://")
}

// Swappable reports whether somebody on the way could change the map that is
// fetched from a URL, and so put their own relay and pin into it: plain HTTP to
// another machine.
func Swappable(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() != "localhost" && (err != nil || !ip.Unmap().IsLoopback())
}

// Parse reads a map in the form that the extension of its name says: ".yaml" and
// ".yml" are Headscale's, ".json" is JSON. With any other extension, what begins
// with a brace is JSON. Errors are as of ParseJSON and ParseHeadscale.
func Parse(ext string, data []byte) (Map, error) {
	switch strings.ToLower(ext) {
	case ".yaml", ".yml":
		return ParseHeadscale(data)
	case ".json":
		return ParseJSON(data)
	}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return ParseJSON(data)
	}
	return ParseHeadscale(data)
}
