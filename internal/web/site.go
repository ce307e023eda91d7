package web

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/detour-relay/detour/internal/derp"
)

// neutralPage says nothing: relays that could be told by their front page have
// been listed by search engines, and used by strangers.
const neutralPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Welcome</title>
</head>
<body>
</body>
</html>
`

const (
	htmlType  = "text/html; charset=utf-8"
	plainType = "text/plain; charset=utf-8"

	noTransform = "no-cache, no-store, must-revalidate, no-transform, max-age=0"

	contentPolicy = "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'; " +
		"block-all-mixed-content; object-src 'none'"

	maxChallenge = 64 // characters
)

// frontPage is what paths that mean nothing get. At most one field is set.
type frontPage struct {
	blank    bool
	redirect string // URL
}

func newFrontPage(setting string) frontPage {
	switch {
	case setting == "blank":
		return frontPage{blank: true}
	case strings.HasPrefix(setting, "http://"), strings.HasPrefix(setting, "https://"):
		return frontPage{redirect: setting}
	}
	return frontPage{}
}

// ServeHTTP answers one request. It is called by net/http alone; paths, statuses
// and headers are derper's, whose clients and probers rely on them. Derper's
// /debug does not exist here: what it shows is for the operator, who has a
// listener of their own for it, so on the public one it is a path like any other.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.counts.requests.Add(1)
	switch {
	case r.Method == http.MethodConnect:
		http.Error(w, "CONNECT not enabled", http.StatusForbidden)
		return
	case r.RequestURI == "*": // no path; among others, how HTTP/2 begins
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case derp.Path:
		s.upgrade(w, r)
	case "/derp/probe", "/derp/latency-check":
		probe(w, r)
	case "/generate_204":
		noContent(w, r)
	case "/bootstrap-dns":
		// Not configured: clients cannot read an empty body and ask elsewhere.
		secure(w.Header())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Connection", "close")
		write(w, "")
	case "/robots.txt":
		if s.fallback != nil {
			s.toFallback(w, r)
			return
		}
		secure(w.Header())
		w.Header().Set("Content-Type", plainType)
		write(w, "User-agent: *\nDisallow: /\n")
	default:
		if s.also != nil && s.also(w, r) {
			return
		}
		if s.fallback != nil {
			s.toFallback(w, r)
			return
		}
		s.front.serve(w, r)
	}
}

// upgrade takes the connection from net/http for the relay, or says why not.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	switch up := decide(r); up.kind {
	case rawDERP:
		taken := &hijackOnce{ResponseWriter: w}
		_, buffered, err := taken.Hijack()
		if err != nil {
			http.Error(w, "cannot upgrade", http.StatusInternalServerError)
			return
		}
		// The peer's first frame is most often here already.
		early, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // cannot fail: it is there
		taken.conn.Unread(early)
		taken.conn.giveBack(takeover{upgrade: up})
	case webSocket:
		s.acceptWebSocket(w, r, up)
	case noUpgrade:
		http.Error(w, "DERP requires connection upgrade", http.StatusUpgradeRequired)
	}
}

// probe answers latency measurements. They time the answer, so it is tiny.
func probe(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "bogus probe method", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Access-Control-Allow-Origin", "*")
	write(w, "")
}

// noContent answers the check for captive portals. A portal in between would
// not know how to answer the challenge.
func noContent(w http.ResponseWriter, r *http.Request) {
	if c := r.Header.Get("X-Tailscale-Challenge"); validChallenge(c) {
		w.Header().Set("X-Tailscale-Response", "response "+c)
	}
	w.Header().Set("Cache-Control", noTransform)
	w.WriteHeader(http.StatusNoContent)
}

func validChallenge(s string) bool {
	for _, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		digit := c >= '0' && c <= '9'
		if !letter && !digit && !strings.ContainsRune("._:-", rune(c)) {
			return false
		}
	}
	return s != "" && len(s) <= maxChallenge
}

func (p frontPage) serve(w http.ResponseWriter, r *http.Request) {
	secure(w.Header())
	if p.redirect != "" {
		http.Redirect(w, r, p.redirect, http.StatusFound)
		return
	}
	w.Header().Set("Content-Type", htmlType)
	if p.blank {
		write(w, "")
		return
	}
	write(w, neutralPage)
}

// secure sets the headers that keep browsers from doing anything with a page.
func secure(h http.Header) {
	h.Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
}

// write sends a body with its length. To HEAD, net/http sends the length alone.
func write(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = io.WriteString(w, body) // if it fails, the client is gone
}
