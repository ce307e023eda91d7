package admin

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"strings"
)

// profilePath is where the profiles of Go's runtime are, by their usual names.
const profilePath = "/debug/pprof/"

// profiles lists them. "profile" is CPU time, for ?seconds=N.
var profiles = []string{"allocs", "block", "goroutine", "heap", "mutex", "threadcreate"}

// endpoint is one path outside /v1/. All of them answer GET and HEAD alone.
type endpoint struct {
	path  string
	about string // for the listing of a 404
	serve http.HandlerFunc
}

func (s *Server) handler() http.Handler {
	endpoints := []endpoint{
		{"/healthz", `200 and "ok", or 503 and the problems as JSON`, s.serveHealth},
		{"/stats", "the counts of every part, as JSON", s.serveStats},
	}
	if s.derpMap != nil {
		endpoints = append(endpoints, endpoint{"/derpmap.json", "the kept DERP map, for derp.urls of a Headscale on this machine", s.derpMap.ServeHTTP})
	}
	if !s.open { // what a profile shows is for the owner alone
		endpoints = append(endpoints, endpoint{profilePath + "profile", "a CPU profile of ?seconds=N", pprof.Profile})
		for _, name := range profiles {
			endpoints = append(endpoints, endpoint{profilePath + name, "Go's profile of that name; ?debug=1 as text", pprof.Handler(name).ServeHTTP})
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		if problem := s.foreign(r); problem != "" {
			s.refusedRequests.Add(1)
			http.Error(w, problem, http.StatusForbidden)
			return
		}
		switch {
		case strings.HasPrefix(r.URL.Path, apiPrefix):
			s.serveAPI(w, r)
			return
		case r.URL.Path == verifyPath:
			s.serveVerify(w, r)
			return
		}
		for _, e := range endpoints {
			if e.path != r.URL.Path {
				continue
			}
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				header.Set("Allow", "GET, HEAD")
				http.Error(w, "use GET", http.StatusMethodNotAllowed)
				return
			}
			e.serve(w, r)
			return
		}
		http.Error(w, s.listing(endpoints), http.StatusNotFound)
	})
}

// foreign says what is wrong with a request that a web page may have made: a
// browser on this machine reaches loopback ports for any page, but no unix socket.
func (s *Server) foreign(r *http.Request) string {
	switch {
	case !s.open:
		return ""
	case len(r.Header.Values("Origin")) > 0:
		return "requests from web pages are refused"
	case !isLoopbackHost(r.Host):
		return "the Host header is not a loopback address; hint: ask for " + s.listener.Addr().String()
	default:
		return ""
	}
}

func (s *Server) listing(endpoints []endpoint) string {
	var b strings.Builder
	b.WriteString("no such endpoint; there are:\n")
	for _, e := range endpoints {
		b.WriteString("GET " + e.path + "  " + e.about + "\n")
	}
	if s.control != nil {
		for _, a := range s.actions() {
			b.WriteString(a.method + " " + a.path + "  " + a.about + "\n")
		}
		b.WriteString("POST /verify  what derper's -verify-client-url asks\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	health := s.health()
	if !health.OK {
		s.writeJSON(w, http.StatusServiceUnavailable, health)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte("ok\n"))
}

func (s *Server) serveStats(w http.ResponseWriter, _ *http.Request) {
	s.writeJSON(w, http.StatusOK, s.stats())
}

func (s *Server) writeJSON(w http.ResponseWriter, status int, value any) {
	body, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		s.logger.Error("admin: cannot encode an answer", "err", err)
		http.Error(w, "cannot encode the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
