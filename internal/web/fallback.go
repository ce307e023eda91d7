package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	siteDial   = 5 * time.Second  // for the site to take a connection
	siteHeader = 2 * time.Minute  // for the site to begin its answer
	siteIdle   = 20 * time.Second // for a connection to the site that nobody uses; sites close theirs later
	siteConns  = 64               // kept for the next request
	siteFailed = time.Minute      // between two log lines about it
)

// Fallback is the site that answers what is not the relay's.
type Fallback struct {
	handler http.Handler
	proxy   *http.Transport // nil: files
	target  string
	logger  *slog.Logger
	failing rate.Sometimes

	requests, failed atomic.Uint64
}

// NewFallback returns a Fallback to target: "http://HOST:PORT" or "unix:" and a
// path, where a web server is that need not run yet, or the path of a directory
// with files, which must be there. The error says what to do next.
func NewFallback(target string, logger *slog.Logger) (*Fallback, error) {
	f := &Fallback{target: target, logger: orSilent(logger), failing: rate.Sometimes{First: 1, Interval: siteFailed}}
	if socket, ok := strings.CutPrefix(target, "unix:"); ok {
		f.handler = f.reverseProxy("unix", socket, "localhost")
		return f, nil
	}
	if host, ok := strings.CutPrefix(target, "http://"); ok {
		host = strings.TrimSuffix(host, "/")
		addr := host
		if _, _, err := net.SplitHostPort(host); err != nil {
			addr = net.JoinHostPort(strings.Trim(host, "[]"), "80")
		}
		f.handler = f.reverseProxy("tcp", addr, host)
		return f, nil
	}
	info, err := os.Stat(target)
	if err == nil && !info.IsDir() {
		err = errors.New("is not a directory")
	}
	if err != nil {
		return nil, fmt.Errorf("fallback: cannot serve %s: %w; hint: name a directory that is there, or http://HOST:PORT of a web server", target, err)
	}
	f.handler = files(target)
	return f, nil
}

// close gives up what is kept for the next request.
func (f *Fallback) close() {
	if f != nil && f.proxy != nil {
		f.proxy.CloseIdleConnections()
	}
}

// SiteStats are a Fallback's counts since it was made.
type SiteStats struct {
	Requests uint64 `json:"requests"`
	Failed   uint64 `json:"failed"` // of them, those that the site did not answer
}

func (f *Fallback) stats() *SiteStats {
	if f == nil {
		return nil
	}
	return &SiteStats{Requests: f.requests.Load(), Failed: f.failed.Load()}
}

// toFallback has the site answer. Our own limits are for small answers: here each
// byte that moves gives more time.
func (s *Server) toFallback(w http.ResponseWriter, r *http.Request) {
	s.fallback.requests.Add(1)
	rw := &patient{ResponseWriter: w, control: http.NewResponseController(w)}
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		// net/http reads on, to see the client leave; nothing else needs to come.
		_ = rw.control.SetReadDeadline(time.Time{})
	} else {
		r.Body = &patientBody{ReadCloser: r.Body, control: rw.control}
	}
	from := origin{proto: "http"}
	if h := handedOf(r.Context()); h != nil {
		if _, ok := h.TLS(); ok {
			from.proto = "https"
		}
		from.trusted = s.proxies.trustsConn(h, remoteAddr(h))
		from.client = s.proxies.client(h, viaOf(r.Header))
	}
	s.fallback.handler.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), originKey{}, from)))
}

// origin is what the site is told about a request.
type origin struct {
	client  netip.AddrPort
	proto   string // "http" or "https"
	trusted bool   // it came from a proxy whose headers are passed on
}

type originKey struct{}

// reverseProxy passes requests on to addr. host is for the URL alone: the site
// sees the client's Host.
func (f *Fallback) reverseProxy(network, addr, host string) http.Handler {
	dialer := &net.Dialer{Timeout: siteDial}
	f.proxy = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr)
		},
		MaxIdleConnsPerHost:   siteConns,
		IdleConnTimeout:       siteIdle,
		ResponseHeaderTimeout: siteHeader,
		DisableCompression:    true, // what the client asked for is passed on, and the answer with it
	}
	return &httputil.ReverseProxy{
		Transport:    f.proxy,
		Rewrite:      func(r *httputil.ProxyRequest) { rewrite(r, host) },
		ErrorHandler: f.unanswered,
		ErrorLog:     slog.NewLogLogger(f.logger.Handler(), slog.LevelDebug),
	}
}

// rewrite sends a request to the site as it came, with its own Host. The headers
// that say who it is from are ours, before those of proxies that are believed.
func rewrite(r *httputil.ProxyRequest, host string) {
	r.Out.URL.Scheme, r.Out.URL.Host = "http", host
	r.Out.URL.RawQuery = r.In.URL.RawQuery // as it is: the site reads it, not we
	r.Out.Host = r.In.Host
	from, _ := r.In.Context().Value(originKey{}).(origin) // always there
	in := r.In.Header
	if from.trusted {
		r.Out.Header["X-Forwarded-For"] = in["X-Forwarded-For"]
	}
	r.SetXForwarded()
	r.Out.Header.Set("X-Forwarded-Proto", from.proto)
	r.Out.Header.Del("X-Real-IP")
	if from.client.IsValid() {
		r.Out.Header.Set("X-Real-IP", from.client.Addr().String())
	}
	if !from.trusted {
		return
	}
	if len(r.Out.Header["X-Forwarded-For"]) == 0 && len(in["X-Forwarded-For"]) > 0 {
		r.Out.Header["X-Forwarded-For"] = in["X-Forwarded-For"] // a unix socket adds no address
	}
	for _, name := range []string{"X-Forwarded-Proto", "X-Forwarded-Host"} {
		if said := in.Get(name); said != "" {
			r.Out.Header.Set(name, said)
		}
	}
}

// unanswered tells the client that there is no answer, and the operator once a
// minute.
func (f *Fallback) unanswered(w http.ResponseWriter, r *http.Request, err error) {
	f.failed.Add(1)
	if r.Context().Err() == nil { // or the client has left
		f.failing.Do(func() {
			f.logger.Warn("the site behind fallback does not answer", "target", f.target, "failed", f.failed.Load(), "err", err,
				"hint", "start the web server there, or correct fallback")
		})
	}
	http.Error(w, "Bad Gateway", http.StatusBadGateway)
}

// patient is a ResponseWriter on which each write has siteLimit.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Unwrap is for http.ResponseController.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// WriteHeader gives siteLimit to an answer that has no body, too.
func (p *patient) WriteHeader(status int) {
	_ = p.control.SetWriteDeadline(time.Now().Add(siteLimit)) // if it fails, so does the write
	p.ResponseWriter.WriteHeader(status)
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(siteLimit)) // if it fails, so does the write
	return p.ResponseWriter.Write(b)
}

// Flush writes what is buffered, with siteLimit for it.
func (p *patient) Flush() {
	_ = p.control.SetWriteDeadline(time.Now().Add(siteLimit))
	_ = p.control.Flush() // the next write fails too
}

// patientBody is a request's body of which each read has siteLimit.
type patientBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (p *patientBody) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(siteLimit)) // if it fails, so does the read
	n, err := p.ReadCloser.Read(b)
	if errors.Is(err, io.EOF) {
		_ = p.control.SetReadDeadline(time.Time{}) // the answer may take longer
	}
	return n, err
}

// files serves the files of a directory: no listings, no names that begin with a
// dot but .well-known, no links that lead out of it, nothing that is no file.
func files(dir string) http.Handler {
	server := http.FileServerFS(directory(dir))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		server.ServeHTTP(w, r)
	})
}

// directory is a directory's path, looked up at each request so that it may be
// replaced as a whole.
type directory string

// Open opens a file, or a directory that has an index.html.
func (d directory) Open(name string) (fs.File, error) {
	none := &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") && part != ".well-known" && name != "." {
			return nil, none
		}
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Stat(name)
	if err != nil {
		return nil, none // whatever it is, such as a link that leads out
	}
	if info.IsDir() {
		index, err := root.Stat(path.Join(name, "index.html"))
		if err != nil || !index.Mode().IsRegular() {
			return nil, none
		}
	} else if !info.Mode().IsRegular() {
		return nil, none
	}
	return root.Open(name)
}
