package admit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Bounds of tailscaled's answers. One about a node holds its capabilities, which
// the control server may fill.
const (
	whoisBody = 4 << 20 // octets
	nameLimit = 256     // octets of a name
	tagLimit  = 32      // tags of a node
)

// whoisCapability is the version of LocalAPI that we speak. tailscaled takes any.
const whoisCapability = "145"

// TailscaledOptions configure a source that asks the local tailscaled.
type TailscaledOptions struct {
	Name   string // for logs and statistics; empty: "tailscaled"
	Socket string // of tailscaled; empty: where it is on this system
}

// tailscaledSource asks the tailscaled on this machine about each key.
type tailscaledSource struct {
	name   string
	socket string
	client *http.Client
}

// NewTailscaled returns a source that allows the nodes that the tailscaled behind
// o.Socket can see in its own tailnet. The socket is opened when somebody is asked
// about, so tailscaled may start later and restart.
func NewTailscaled(o TailscaledOptions) Source {
	if o.Name == "" {
		o.Name = "tailscaled"
	}
	if o.Socket == "" {
		o.Socket = tailscaledSocket(runtime.GOOS, exists)
	}
	s := &tailscaledSource{name: o.Name, socket: o.Socket}
	s.client = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", s.socket)
			},
			MaxIdleConnsPerHost: idlePerServer, MaxResponseHeaderBytes: headerLimit, IdleConnTimeout: 30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// tailscaledSocket is where tailscaled of the operating system listens.
func tailscaledSocket(system string, exists func(path string) bool) string {
	switch system {
	case "windows":
		return `\\.\pipe\ProtectedPrefix\Administrators\Tailscale\tailscaled`
	case "darwin":
		return "/var/run/tailscaled.socket"
	}
	for _, elsewhere := range []struct{ mark, socket string }{
		{"/var/packages/Tailscale/var", "/var/packages/Tailscale/var/tailscaled.sock"}, // Synology
		{"/var/packages/Tailscale/etc", "/var/packages/Tailscale/etc/tailscaled.sock"}, // Synology before DSM 7
		// Anybody may make a directory below /tmp, so that the mark is elsewhere.
		{"/etc/config/qpkg.conf", "/tmp/tailscale/tailscaled.sock"}, // QNAP
		{"/perm/tailscaled", "/perm/tailscaled/tailscaled.sock"},    // gokrazy
	} {
		if exists(elsewhere.mark) {
			return elsewhere.socket
		}
	}
	if exists("/var/run") {
		return "/var/run/tailscale/tailscaled.sock"
	}
	return "tailscaled.sock"
}

// Name returns the name from the options.
func (s *tailscaledSource) Name() string { return s.name }

// Decide asks tailscaled, for five seconds at most.
func (s *tailscaledSource) Decide(ctx context.Context, r Request) (Verdict, error) {
	if strings.HasPrefix(s.socket, `\\.\pipe\`) {
		return s.unavailable("is a named pipe, which Detour does not speak", nil, "use the tailscale or keys source on Windows")
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, whoisURL(r.Key), http.NoBody)
	if err != nil {
		return s.unavailable("cannot be asked", err, "report this as a bug")
	}
	req.Header.Set("Tailscale-Cap", whoisCapability)
	res, err := s.client.Do(req)
	if err != nil {
		hint := "see whether tailscaled runs, and name its socket if it is elsewhere"
		if errors.Is(err, os.ErrPermission) {
			hint = "let the relay's user reach that socket"
		}
		return s.unavailable("cannot be reached", err, hint)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, whoisBody+1))
	if err != nil {
		return s.unavailable("broke off its answer", err, "look at tailscaled's log")
	}
	v, wrong := readWhois(res.StatusCode, body)
	if v.Answer == Unavailable {
		return s.unavailable(wrong, nil, whoisHint(res.StatusCode, body))
	}
	return v, nil
}

func (s *tailscaledSource) unavailable(what string, err error, hint string) (Verdict, error) {
	return Verdict{Answer: Unavailable}, fmt.Errorf("%s %s%s; hint: %s", s.socket, what, because(err), hint)
}

func whoisURL(k key.Public) string {
	return "http://local-tailscaled.sock/localapi/v0/whois?addr=" + url.QueryEscape(k.String())
}

func whoisHint(status int, body []byte) string {
	switch {
	case status == http.StatusBadRequest && strings.Contains(string(body), "addr"):
		return "this tailscaled is too old to be asked about node keys: update it"
	case status == http.StatusForbidden:
		return "tailscaled does not let the relay's user ask: run tailscale set --operator=USER"
	}
	return "look at tailscaled's log"
}

// whois is what we read of an answer. All of it may be missing.
type whois struct {
	Node struct {
		Name         string
		ComputedName string
		Tags         []string
	}
	UserProfile struct {
		LoginName   string
		DisplayName string
	}
}

// readWhois reads an answer. With Unavailable it returns what is wrong.
func readWhois(status int, body []byte) (Verdict, string) {
	switch status {
	case http.StatusOK:
	case http.StatusNotFound:
		return Verdict{}, ""
	default:
		return Verdict{Answer: Unavailable}, fmt.Sprintf("answers with status %d: %q", status, clean(string(body), quoted))
	}
	if len(body) > whoisBody {
		return Verdict{Answer: Unavailable}, fmt.Sprintf("answers with more than %d octets", whoisBody)
	}
	var object map[string]json.RawMessage // null is none
	if err := json.Unmarshal(body, &object); err != nil || object == nil {
		return Verdict{Answer: Unavailable}, fmt.Sprintf("answers with something else than a JSON object: %q", clean(string(body), quoted))
	}
	return Verdict{Answer: Allow, Member: memberOf(object)}, ""
}

// memberOf finds the names in an answer. Versions differ: what is of another type
// than we know is left out, and does not spoil the rest.
func memberOf(object map[string]json.RawMessage) Member {
	var w whois
	_ = json.Unmarshal(object["Node"], &w.Node)
	_ = json.Unmarshal(object["UserProfile"], &w.UserProfile)
	m := Member{Name: clean(w.Node.ComputedName, nameLimit), User: clean(w.UserProfile.LoginName, nameLimit)}
	if m.Name == "" {
		m.Name = strings.TrimSuffix(clean(w.Node.Name, nameLimit), ".")
	}
	if m.User == "" {
		m.User = clean(w.UserProfile.DisplayName, nameLimit)
	}
	m.Tags = w.Node.Tags
	return m.cleaned()
}
