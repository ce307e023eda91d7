package admin

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"strings"

	"github.com/detour-relay/detour/internal/key"
)

const (
	apiPrefix  = "/v1/"
	verifyPath = "/verify" // derper's contract for -verify-client-url
	maxBody    = 64 << 10  // bytes of a request
	maxVerify  = 4096      // bytes of a question at verifyPath, as Headscale has it
)

// Fault is how the API tells of an error.
type Fault struct {
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"`
}

// action is one method of one path under /v1/.
type action struct {
	method, path, about string
	serve               func(r *http.Request) (any, error)
}

// actions lists the API. It is the whole of it, and its documentation.
func (s *Server) actions() []action {
	c := s.control
	return []action{
		{"GET", "/v1/status", "the relay and who is connected; ?skip=N", s.servePeers},
		{"GET", "/v1/admit/pending", "keys that were refused lately", func(*http.Request) (any, error) { return orEmpty(c.Pending()), nil }},
		{"GET", "/v1/admit/rules", "keys that were allowed or denied; ?skip=N", s.serveRules},
		{"POST", "/v1/admit/allow", "allow a key", with(c.Allow)},
		{"POST", "/v1/admit/deny", "deny a key", with(c.Deny)},
		{"POST", "/v1/admit/revoke", "forget what was said of a key", with(c.Revoke)},
		{"POST", "/v1/kick", "end the connections of a key", with(c.Kick)},
		{"GET", "/v1/bans", "bans", func(*http.Request) (any, error) { return orEmpty(c.Bans()), nil }},
		{"POST", "/v1/bans", "ban a key, address or network", with(c.Ban)},
		{"POST", "/v1/bans/remove", "let one off", with(c.Unban)},
		{"GET", "/v1/probe-keys", "probes that are let in", func(*http.Request) (any, error) { return orEmpty(c.Probes()), nil }},
		{"POST", "/v1/probe-keys", "let probes in, for a minute at most", with(short(c.Probe))},
		{"POST", "/v1/probe-tokens", "let probes in, for a day at most", with(c.Probe)},
		{"POST", "/v1/probe-keys/end", "end that", func(*http.Request) (any, error) { return c.EndProbes(), nil }},
	}
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// maxProbeSeconds is how long /v1/probe-keys lets probes in at most.
const maxProbeSeconds = 60

// short is f for short times.
func short(f func(ProbeRequest) (ProbeResult, error)) func(ProbeRequest) (ProbeResult, error) {
	return func(q ProbeRequest) (ProbeResult, error) {
		if q.Seconds > maxProbeSeconds {
			return ProbeResult{}, fmt.Errorf("%d seconds are more than %d; hint: /v1/probe-tokens takes longer times", q.Seconds, maxProbeSeconds)
		}
		return f(q)
	}
}

// badRequest is a request that is not understood.
type badRequest struct{ error }

// with reads the request's body for f.
func with[Q, A any](f func(Q) (A, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var q Q
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			return nil, badRequest{errors.New("the Content-Type is not application/json; hint: send a JSON object and say so")}
		}
		dec := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&q); err != nil {
			return nil, badRequest{fmt.Errorf("the body is not the JSON object that is wanted: %w; hint: see docs/control.md", err)}
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return nil, badRequest{errors.New("something stands behind the JSON object; hint: send one object alone")}
		}
		return f(q)
	}
}

// serveAPI answers a request under /v1/.
func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(w, r) {
		return
	}
	if s.control == nil {
		s.writeFault(w, http.StatusNotFound, errors.New("this relay has no control API; hint: it runs under derper's command line"))
		return
	}
	var methods []string
	for _, a := range s.actions() {
		switch {
		case a.path != r.URL.Path:
		case a.method != r.Method && !(a.method == http.MethodGet && r.Method == http.MethodHead):
			methods = append(methods, a.method)
		default:
			answer, err := a.serve(r)
			if err != nil {
				s.writeFault(w, statusOf(err), err)
				return
			}
			s.writeJSON(w, http.StatusOK, answer)
			return
		}
	}
	if len(methods) > 0 {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		s.writeFault(w, http.StatusMethodNotAllowed, fmt.Errorf("%s is not for this; hint: use %s", r.Method, strings.Join(methods, " or ")))
		return
	}
	s.writeFault(w, http.StatusNotFound, errors.New("there is no such path; hint: see docs/control.md; is detour of the same version as the relay?"))
}

func statusOf(err error) int {
	var bad badRequest
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ErrAmbiguous):
		return http.StatusConflict
	}
	return http.StatusUnprocessableEntity
}

func (s *Server) writeFault(w http.ResponseWriter, status int, err error) {
	message, hint, _ := strings.Cut(err.Error(), "; hint: ")
	s.writeJSON(w, status, Fault{message, hint})
}

// authorized lets in who came over the unix socket, whose owner is checked, and
// elsewhere who has the token. It answers others.
func (s *Server) authorized(w http.ResponseWriter, r *http.Request) bool {
	if !s.open {
		return true
	}
	if s.token == "" {
		s.refusedRequests.Add(1)
		s.writeFault(w, http.StatusForbidden, errors.New("who is a member is for the owner alone, and every user of this machine can reach this port; "+
			"hint: ask over the unix socket, or set admin_token_file and send the token as Authorization: Bearer"))
		return false
	}
	if subtle.ConstantTimeCompare([]byte(presented(r)), []byte(s.token)) != 1 {
		s.refusedRequests.Add(1)
		w.Header().Set("WWW-Authenticate", `Bearer realm="detour", Basic realm="detour"`)
		s.writeFault(w, http.StatusUnauthorized, errors.New("the token is missing or wrong; hint: send that of admin_token_file as Authorization: Bearer"))
		return false
	}
	return true
}

// presented is the token of a request: as Bearer, or as the password of Basic, which
// is what http://relay:TOKEN@host/verify becomes in derper's -verify-client-url.
func presented(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// serveVerify answers another relay by derper's contract for -verify-client-url:
// 200 and {"Allow":…}, or another status when it cannot tell.
func (s *Server) serveVerify(w http.ResponseWriter, r *http.Request) {
	switch {
	case !s.authorized(w, r):
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		s.writeFault(w, http.StatusMethodNotAllowed, errors.New("this takes questions; hint: use POST"))
		return
	case s.control == nil:
		s.writeFault(w, http.StatusNotFound, errors.New("this relay does not answer for others; hint: it runs under derper's command line"))
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxVerify+1))
	if err != nil {
		return // who asked is gone
	}
	if len(body) > maxVerify {
		s.writeFault(w, http.StatusRequestEntityTooLarge, fmt.Errorf("more than %d bytes; hint: send one key and address", maxVerify))
		return
	}
	var question struct {
		NodePublic key.Public
		Source     string
	}
	if err := json.Unmarshal(body, &question); err != nil {
		s.writeFault(w, http.StatusBadRequest, fmt.Errorf("not a question: %w; hint: send {\"NodePublic\":\"nodekey:…\",\"Source\":\"ADDRESS\"}", err))
		return
	}
	addr, _ := netip.ParseAddr(question.Source) // unknown: it is optional
	allow, err := s.control.Vouch(r.Context(), question.NodePublic, addr)
	if err != nil {
		s.writeFault(w, http.StatusServiceUnavailable, err)
		return
	}
	s.writeJSON(w, http.StatusOK, map[string]bool{"Allow": allow})
}
