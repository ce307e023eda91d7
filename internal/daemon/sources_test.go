package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/key"
)

// registrar is a server that knows nodes, by Headscale's /verify, its API and
// Tailscale's.
type registrar struct {
	mu    sync.Mutex
	known map[key.Public]string // guarded by mu; by name
	down  bool                  // guarded by mu
}

func (r *registrar) set(down bool, nodes map[key.Public]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down, r.known = down, nodes
}

func (r *registrar) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return
	}
	var answer any
	switch req.URL.Path {
	case "/verify":
		var q struct{ NodePublic key.Public }
		if err := json.NewDecoder(req.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, ok := r.known[q.NodePublic]
		answer = map[string]bool{"Allow": ok}
	case "/api/v1/node", "/api/v2/tailnet/example.com/devices":
		if req.Header.Get("Authorization") != "Bearer s3cret-token" {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		list := []map[string]any{}
		for k, name := range r.known {
			list = append(list, map[string]any{"nodeKey": k.String(), "givenName": name, "name": name + ".ts.net", "authorized": true, "user": nil})
		}
		answer = map[string]any{"nodes": list, "devices": list}
	default:
		http.NotFound(w, req)
		return
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// visitor is a client and what it hears.
type visitor struct {
	*client.Client
	mu    sync.Mutex
	told  string // guarded by mu; the last Health text
	ended bool   // guarded by mu
}

func (b *bed) visit(k key.Private) *visitor {
	b.t.Helper()
	o := b.options()
	o.Key = k
	v := &visitor{Client: b.dial(o)}
	go func() { // ends with the connection
		for {
			m, err := v.Recv()
			v.mu.Lock()
			if h, ok := m.(client.Health); ok && err == nil {
				v.told = h.Problem
			}
			v.ended = v.ended || err != nil
			v.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return v
}

func (v *visitor) state() (told string, ended bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.told, v.ended
}

// status is what the control API tells of one key.
func (b *bed) status(k key.Public) (name string, connected, waiting int) {
	for _, p := range (control{b.Daemon}).Status().Peers {
		switch {
		case p.Key != k:
		case p.Waiting:
			waiting++
		default:
			name, connected = p.Name, connected+1
		}
	}
	return name, connected, waiting
}

// TestSources takes each kind of source through its days: a member comes, a stranger
// waits and becomes a member, a member leaves, the server goes, and the relay starts
// anew while it is gone.
func TestSources(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "token")
	write(t, secret, "s3cret-token\n")
	const quick = ",allow_for=20ms,refuse_for=20ms"
	for name, entry := range map[string]string{
		"verify":    "headscale=%s" + quick,
		"url":       "url=%s/verify" + quick,
		"headscale": "headscale=%s,refresh=1s,token_file=" + secret,
		"tailscale": "tailscale=example.com,refresh=1s,base_url=%s,key_file=" + secret,
	} {
		t.Run(name, func(t *testing.T) {
			r := &registrar{}
			s := httptest.NewServer(r)
			defer s.Close()
			ann, bob := key.NewPrivate(), key.NewPrivate()
			just := func(keys ...key.Private) map[key.Public]string {
				all := map[key.Public]string{}
				for _, k := range keys {
					all[k.Public()] = "node"
				}
				return all
			}
			r.set(false, just(ann))
			c := settings(t, func(c *config.Config) { c.Admit = []string{fmt.Sprintf(entry, s.URL)} })
			b := mustBuild(t, c)
			stop := b.run()
			looks := func(ok func() bool) func() bool { // as the minute's look, which is too slow for a test
				return func() bool { b.gate.Changed(); return ok() }
			}
			a := b.visit(ann)
			await(t, "the member is in", func() bool { _, in, _ := b.status(ann.Public()); return in == 1 })
			if name, _, _ := b.status(ann.Public()); strings.HasPrefix(name, "node") != strings.Contains(entry, "refresh") {
				t.Errorf("it is called %q", name)
			}
			o := b.visit(bob)
			await(t, "the stranger is told why it waits", func() bool {
				told, _ := o.state()
				return strings.Contains(told, "ask its operator to allow "+bob.Public().String())
			})
			r.set(false, just(ann, bob))
			await(t, "the stranger is in, where it is", looks(func() bool {
				told, ended := o.state()
				_, in, waiting := b.status(bob.Public())
				return told == "" && !ended && in == 1 && waiting == 0
			}))
			r.set(false, just(ann))
			await(t, "who is no member any more is cut off", looks(func() bool { _, ended := o.state(); return ended }))
			r.set(true, nil)
			await(t, "the trouble shows", looks(func() bool { return len(b.gate.Stats().Tenants[0].Troubles) == 1 }))
			if _, ended := a.state(); ended {
				t.Error("a member was cut off because the server is down")
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}

			b = mustBuild(t, c) // the server is still down
			b.run()
			b.visit(ann)
			await(t, "the member is in, by what was kept", func() bool { _, in, _ := b.status(ann.Public()); return in == 1 })
			o = b.visit(bob)
			await(t, "others hear that nobody can tell", func() bool {
				told, _ := o.state()
				return strings.Contains(told, "cannot check your node right now")
			})
			text, err := json.Marshal(b.Stats())
			if err != nil || strings.Contains(string(text)+b.log.String(), "s3cret") {
				t.Errorf("the secret shows, or %v", err)
			}
		})
	}
}

// One relay asks another, with the token in the URL, and never in a circle.
func TestRelayAsksRelay(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	write(t, token, "0123456789abcdef0123\n")
	ann, bob := key.NewPrivate(), key.NewPrivate()
	knows := mustBuild(t, settings(t, func(c *config.Config) {
		c.AdminListen, c.AdminTokenFile = "127.0.0.1:0", token
		c.Admit, c.AdmitKey = []string{"none"}, []string{ann.Public().String() + "=ann"}
	}))
	knows.run()
	asks := mustBuild(t, settings(t, func(c *config.Config) {
		c.Admit = []string{fmt.Sprintf("url=http://relay:0123456789abcdef0123@%s/verify", knows.adminListener.Addr())}
	}))
	asks.run()
	asks.visit(ann)
	await(t, "the member of the other relay is in", func() bool { _, in, _ := asks.status(ann.Public()); return in == 1 })
	asks.visit(bob)
	await(t, "a stranger waits", func() bool { _, _, waiting := asks.status(bob.Public()); return waiting == 1 })
	if ok, err := asks.gate.Vouch(t.Context(), ann.Public(), asks.id.addrs.IPv4); ok || err != nil {
		t.Errorf("it vouches for what another has said: %v, %v", ok, err)
	}
	if strings.Contains(asks.log.String(), "0123456789abcdef") {
		t.Error("the token is in the log")
	}
}

// Members of tenants that are kept apart do not reach each other.
func TestTenantsApart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	red, same, blue := key.NewPrivate(), key.NewPrivate(), key.NewPrivate()
	write(t, file, red.Public().String()+" red\n"+same.Public().String()+" same\n")
	b := mustBuild(t, settings(t, func(c *config.Config) {
		c.Admit, c.AdmitKey = []string{"none"}, []string{blue.Public().String()}
		c.TenantList, c.Isolate = []string{"home:keys=" + file}, true
	}))
	b.run()
	r := b.visit(red)
	others := []*client.Client{}
	for _, k := range []key.Private{same, blue} {
		o := b.options()
		o.Key = k
		others = append(others, b.dial(o))
	}
	await(t, "all are in", func() bool { return b.Stats().Relay.Connections == 3 })
	for _, k := range []key.Private{same, blue} {
		if err := r.Send(k.Public(), []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	for {
		m, err := others[0].Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := m.(client.Packet); ok && string(p.Data) == "hello" {
			break
		}
	}
	await(t, "the other packet is dropped", func() bool { return b.Stats().Relay.Dropped["other_tenant"]["other"].Packets == 1 })
	// A member who is taken off the list is cut off within seconds.
	if err := os.WriteFile(file, []byte(same.Public().String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "who was taken off is cut off", func() bool { _, ended := r.state(); return ended })
}

// Keys may be shortened as far as they are unique among those that the relay knows.
func TestShortKeys(t *testing.T) {
	b := mustBuild(t, settings(t, nil))
	alike := func(last byte) (k key.Public) { k[0], k[1], k[2], k[31] = 0xab, 0xcd, 0xef, last; return k }
	for _, last := range []byte{1, 2} {
		b.gate.Admit(t.Context(), alike(last), b.id.addrs.IPv4)
	}
	other := key.NewPrivate().Public()
	b.gate.Admit(t.Context(), other, b.id.addrs.IPv4)
	c := control{b.Daemon}
	for text, want := range map[string]error{
		other.String(): nil, other.Hex()[:12]: nil, "nodekey:" + other.Hex()[:12] + "…": nil, strings.ToUpper(other.Hex()[:12]): nil,
		strings.ToUpper(other.String()): nil, other.Hex(): nil,
		alike(1).Hex()[:8]: admin.ErrAmbiguous, "0000": admin.ErrNotFound,
	} {
		k, err := c.find(text)
		if !errors.Is(err, want) || want == nil && k != other {
			t.Errorf("%s: %v, %v", text, k.Short(), err)
		}
		if want != nil && !strings.Contains(err.Error(), "; hint: ") {
			t.Errorf("%s: no hint: %v", text, err)
		}
	}
	if _, err := c.find(alike(1).Hex()[:8]); !strings.Contains(err.Error(), alike(1).String()) || !strings.Contains(err.Error(), alike(2).String()) {
		t.Errorf("does not say which: %v", err)
	}
	if r, err := c.Ban(admin.BanRequest{Target: "192.0.2.77"}); err != nil || r.Ban.Target != "192.0.2.77/32" {
		t.Errorf("an address: %+v, %v", r, err)
	}
	unseen := key.NewPrivate().Public()
	if k, err := c.find(unseen.Hex()); err != nil || k != unseen {
		t.Errorf("a whole key that was never here: %v, %v", k, err)
	}
	if _, err := c.Ban(admin.BanRequest{Target: "192.0.2.77", Seconds: 1 << 40}); err == nil {
		t.Error("a ban for longer than a clock can tell")
	}
}

// Of two commands about one key at once, each answers with what it has done.
func TestCommandsAtOnce(t *testing.T) {
	b := mustBuild(t, settings(t, nil))
	c, k := control{b.Daemon}, key.NewPrivate().Public()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 30 {
				if r, err := c.Allow(admin.RuleRequest{Key: k.String(), Name: "laptop"}); err != nil || r.Rule.Key != k || !r.Rule.Allow {
					t.Errorf("allow: %+v, %v", r, err)
				}
				r, err := c.Revoke(admin.RuleRequest{Key: k.String()})
				if err == nil && (r.Rule.Key != k || r.Rule.Name != "laptop") || err != nil && !errors.Is(err, admin.ErrNotFound) {
					t.Errorf("revoke: %+v, %v", r, err)
				}
			}
		})
	}
	all.Wait()
}

// The operator's word: under derper's command line there is no book.
func TestControlWithoutBook(t *testing.T) {
	c := settings(t, open)
	d, err := New(context.Background(), c, Options{Version: "test", Derper: true, Logger: slog.New(slog.DiscardHandler), InterfaceAddrs: addresses("203.0.113.7")})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.book != nil {
		t.Fatal("there is a book")
	}
	if _, err := (control{d}).Allow(admin.RuleRequest{Key: "ab12"}); err == nil || !strings.Contains(err.Error(), "; hint: ") {
		t.Errorf("allow: %v", err)
	}
	if _, err := (control{d}).Ban(admin.BanRequest{Target: "10.0.0.0/8"}); err == nil || !strings.Contains(err.Error(), "; hint: ") {
		t.Errorf("ban: %v", err)
	}
}
