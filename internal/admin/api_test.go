package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/detour-relay/detour/internal/key"
)

// desk is a Control that remembers what it was told.
type desk struct {
	Control
	told []string
	err  error // of the next action
}

func (d *desk) Status() Status     { return Status{Version: "test", Peers: []Peer{}} }
func (d *desk) Pending() []Pending { return nil }
func (d *desk) Rules() []Rule      { return nil }
func (d *desk) Bans() []Ban        { return nil }

func (d *desk) rule(what string, q RuleRequest) (RuleResult, error) {
	d.told = append(d.told, fmt.Sprint(what, " ", q))
	return RuleResult{Present: 1}, d.err
}

func (d *desk) Allow(q RuleRequest) (RuleResult, error)  { return d.rule("allow", q) }
func (d *desk) Deny(q RuleRequest) (RuleResult, error)   { return d.rule("deny", q) }
func (d *desk) Revoke(q RuleRequest) (RuleResult, error) { return d.rule("revoke", q) }

func (d *desk) Kick(q KickRequest) (KickResult, error) {
	d.told = append(d.told, "kick "+q.Key)
	return KickResult{Key: key.Public{1}, Ended: 2}, d.err
}

func (d *desk) Ban(q BanRequest) (BanResult, error) {
	d.told = append(d.told, fmt.Sprint("ban ", q))
	return BanResult{}, d.err
}

func (d *desk) Unban(q BanRequest) (BanResult, error) {
	d.told = append(d.told, "unban "+q.Target)
	return BanResult{}, d.err
}

func (d *desk) Probes() []Probe { return nil }

func (d *desk) Probe(q ProbeRequest) (ProbeResult, error) {
	d.told = append(d.told, fmt.Sprint("probe ", len(q.Keys), " ", q.Seconds))
	return ProbeResult{}, d.err
}

func (d *desk) EndProbes() ProbesEnded {
	d.told = append(d.told, "end probes")
	return ProbesEnded{Ended: 3}
}

func (d *desk) Vouch(_ context.Context, k key.Public, addr netip.Addr) (bool, error) {
	d.told = append(d.told, fmt.Sprint("vouch ", k.Short(), " ", addr))
	return !k.IsZero(), d.err
}

func (d *desk) take() string {
	told := strings.Join(d.told, "; ")
	d.told = nil
	return told
}

// post is a POST of JSON, with further header lines.
func post(path, body string, header ...string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\nHost: localhost\nConnection: close\nContent-Type: application/json\nContent-Length: %d\n%s\n%s",
		path, len(body), strings.Join(append(header, ""), "\n"), body)
}

func get(path string, header ...string) string {
	return fmt.Sprintf("GET %s HTTP/1.1\nHost: localhost\nConnection: close\n%s\n", path, strings.Join(append(header, ""), "\n"))
}

func onSocket(t *testing.T, o Options) *Server {
	t.Helper()
	l, err := Listen("unix:" + filepath.Join(t.TempDir(), "a.sock"))
	if err != nil {
		t.Fatal(err)
	}
	o.Listener = l
	return New(o)
}

func probe(seconds int) string {
	return fmt.Sprintf(`{"keys":["nodekey:%s"],"seconds":%d}`, strings.Repeat("ab", 32), seconds)
}

func TestAPI(t *testing.T) {
	d := &desk{}
	s := onSocket(t, Options{Control: d})
	start(t, s)
	for _, tt := range []struct {
		request, told, body string
		status              int
	}{
		{get("/v1/status"), "", `"version": "test"`, 200},
		{get("/v1/admit/pending"), "", "[]", 200},
		{get("/v1/admit/rules"), "", "[]", 200},
		{get("/v1/bans"), "", "[]", 200},
		{post("/v1/admit/allow", `{"key":"ab12","name":"x"}`), "allow {ab12  x }", `"present": 1`, 200},
		{post("/v1/admit/deny", `{"key":"ab12"}`), "deny {ab12   }", "", 200},
		{post("/v1/admit/revoke", `{"key":"ab12"}`), "revoke {ab12   }", "", 200},
		{post("/v1/kick", `{"key":"ab12"}`), "kick ab12", `"ended": 2`, 200},
		{post("/v1/bans", `{"target":"10.0.0.0/8","seconds":60}`), "ban {10.0.0.0/8 60 }", "", 200},
		{post("/v1/bans/remove", `{"target":"10.0.0.0/8"}`), "unban 10.0.0.0/8", "", 200},
		{get("/v1/probe-keys"), "", "[]", 200},
		{post("/v1/probe-keys", probe(60)), "probe 1 60", "", 200},
		{post("/v1/probe-keys", probe(61)), "", "more than 60", 422},
		{post("/v1/probe-tokens", probe(61)), "probe 1 61", "", 200},
		{post("/v1/probe-keys", `{"keys":["nodekey:12"],"seconds":1}`), "", "hint", 400},
		{post("/v1/probe-keys/end", `{}`), "end probes", `"ended": 3`, 200},

		{get("/v1/nowhere"), "", "no such path", 404},
		{get("/v1/kick"), "", `"hint": "use POST"`, 405},
		{post("/v1/status", "{}"), "", `"hint": "use GET"`, 405},
		{post("/v1/kick", `{"key":"a","more":1}`), "", "unknown field", 400},
		{post("/v1/kick", `{"key":"a"} x`), "", "stands behind", 400},
		{post("/v1/kick", `{"key":`), "", "hint", 400},
		{post("/v1/kick", ``), "", "hint", 400},
		{post("/v1/kick", `{"key":"`+strings.Repeat("a", maxBody)+`"}`), "", "too large", 400},
		{strings.Replace(post("/v1/kick", `{"key":"a"}`), "application/json", "text/plain", 1), "", "Content-Type", 400},
	} {
		line, _, _ := strings.Cut(tt.request, "\n")
		resp, body := ask(t, s, tt.request)
		if told := d.take(); resp.StatusCode != tt.status || told != tt.told || !strings.Contains(body, tt.body) {
			t.Errorf("%s: %d %q, told %q; want %d %q, %q", line, resp.StatusCode, body, told, tt.status, tt.body, tt.told)
		}
	}
	for err, want := range map[error]int{
		fmt.Errorf("%w: x; hint: look", ErrNotFound): 404, fmt.Errorf("%w: x; hint: look", ErrAmbiguous): 409, errors.New("no; hint: look"): 422,
	} {
		d.err = err
		resp, body := ask(t, s, post("/v1/kick", `{"key":"a"}`))
		if resp.StatusCode != want || !strings.Contains(body, `"hint": "look"`) {
			t.Errorf("%v: %d %s", err, resp.StatusCode, body)
		}
	}
}

func TestAPIOnTCP(t *testing.T) {
	d := &desk{}
	const token = "0123456789abcdef"
	closed, open := onTCP(t, Options{Control: d}), onTCP(t, Options{Control: d, Token: token})
	start(t, closed)
	start(t, open)
	const basic = "Authorization: Basic cmVsYXk6MDEyMzQ1Njc4OWFiY2RlZg=="
	question := `{"NodePublic":"nodekey:` + strings.Repeat("01", 32) + `","Source":"192.0.2.1"}`
	for _, tt := range []struct {
		server  *Server
		request string
		status  int
	}{
		{closed, get("/v1/status"), 403},
		{closed, get("/v1/status", "Authorization: Bearer "), 403},
		{closed, post(verifyPath, question), 403},
		{open, get("/v1/status"), 401},
		{open, get("/v1/status", "Authorization: Bearer 0123456789abcdeX"), 401},
		{open, get("/v1/status", "Authorization: Bearer "+token), 200},
		{open, get("/v1/status", basic), 200},
		{open, post(verifyPath, question, basic), 200},
		{open, post(verifyPath, question), 401},
		{open, get("/v1/status", "Authorization: Bearer "+token, "Origin: http://evil.example"), 403},
		{open, strings.Replace(post(verifyPath, question, basic), "Host: localhost", "Host: evil.example", 1), 403},
		{open, get("/healthz"), 200},
	} {
		line, _, _ := strings.Cut(tt.request, "\n")
		resp, body := ask(t, tt.server, tt.request)
		if resp.StatusCode != tt.status {
			t.Errorf("%s: %d %s, want %d", line, resp.StatusCode, body, tt.status)
		}
	}
}

func TestVerify(t *testing.T) {
	d := &desk{}
	s := onSocket(t, Options{Control: d})
	start(t, s)
	k := key.Public{1}
	question := fmt.Sprintf(`{"NodePublic":%q,"Source":"192.0.2.1"}`, k)
	for _, tt := range []struct {
		request, body string
		err           error
		status        int
	}{
		{post(verifyPath, question), `"Allow": true`, nil, 200},
		{strings.Replace(post(verifyPath, question), "Content-Type: application/json\n", "", 1), `"Allow": true`, nil, 200}, // as derper sends it
		{post(verifyPath, fmt.Sprintf(`{"NodePublic":%q,"Source":""}`, k)), `"Allow": true`, nil, 200},
		{post(verifyPath, `{}`), `"Allow": false`, nil, 200},
		{post(verifyPath, question), "cannot tell", errors.New("cannot tell"), 503},
		{post(verifyPath, "nonsense"), "not a question", nil, 400},
		{post(verifyPath, strings.Repeat(" ", maxVerify+1)), "more than", nil, 413},
		{get(verifyPath), "use POST", nil, 405},
	} {
		d.err = tt.err
		resp, body := ask(t, s, tt.request)
		if resp.StatusCode != tt.status || !strings.Contains(body, tt.body) {
			t.Errorf("%q: %d %s, want %d %s", tt.request, resp.StatusCode, body, tt.status, tt.body)
		}
	}
}

func TestWithoutControl(t *testing.T) {
	s := onSocket(t, Options{})
	start(t, s)
	for _, request := range []string{get("/v1/status"), post(verifyPath, "{}")} {
		if resp, body := ask(t, s, request); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}
}

func TestCall(t *testing.T) {
	d := &desk{}
	s := onSocket(t, Options{Control: d})
	start(t, s)
	c, err := NewClient("unix:" + s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var result KickResult
	if err := c.Call(t.Context(), "POST", "/v1/kick", KickRequest{Key: "ab12"}, &result); err != nil || result.Ended != 2 || d.take() != "kick ab12" {
		t.Errorf("%+v, %v", result, err)
	}
	d.err = errors.New("cannot be done; hint: try something else")
	if err := c.Call(t.Context(), "POST", "/v1/kick", KickRequest{}, &result); err == nil || err.Error() != d.err.Error() {
		t.Errorf("the relay's error is %v", err)
	}
	if err := c.Call(t.Context(), "GET", "/nowhere", nil, &result); err == nil || !strings.Contains(err.Error(), "; hint: ") {
		t.Errorf("no such path: %v", err)
	}
}
