package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/admin"
	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/key"
	"github.com/detour-relay/detour/internal/probe"
)

// member is a client of the relay under test.
type member struct {
	*client.Client
	t *testing.T
}

func join(t *testing.T, s *server, k key.Private) member {
	t.Helper()
	o := dialed(t, bound(t, s, "relay"), regexp.MustCompile(`sha256-raw:[0-9a-f]{64}`).FindString(s.stdout.String()))
	o.Key = k
	c, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return member{c, t}
}

// told reads the next Health frame.
func (m member) told() string {
	m.t.Helper()
	for {
		got, err := m.Recv()
		if err != nil {
			m.t.Fatal(err)
		}
		if h, ok := got.(client.Health); ok {
			return h.Problem
		}
	}
}

// ended waits for the relay to hang up.
func (m member) ended() {
	m.t.Helper()
	for {
		if _, err := m.Recv(); err != nil {
			return
		}
	}
}

func TestAdmitCommands(t *testing.T) {
	dir := stateDir(t)
	ask := func(args ...string) result { return detour(t, append(args, "--state-dir", dir)...) }
	ask("status").want(t, exitFailed, "", `is the relay running? start it with "detour serve"`)
	s := start(t, append([]string{"serve"}, freePorts(dir)...)...)
	ask("admit", "pending").want(t, exitOK, "Nobody has been refused lately.", "")
	ask("admit", "list").want(t, exitOK, "No node was allowed or denied", "")
	ask("ban", "--list").want(t, exitOK, "Nobody is banned.", "")

	a, b := key.NewPrivate(), key.NewPrivate()
	ann := join(t, s, a)
	if text := ann.told(); !strings.Contains(text, "ask its operator to allow "+a.Public().String()) {
		t.Errorf("told %q", text)
	}
	pending := ask("admit", "pending")
	pending.want(t, exitOK, a.Public().String(), "")
	pending.want(t, exitOK, "waits", "")
	pending.want(t, exitOK, "\n  detour admit allow "+a.Public().Hex()[:8]+" --state-dir "+dir+"\n", "")
	ask("status").want(t, exitOK, "0 connected, 1 waiting", "")
	ask("status").want(t, exitOK, "pending    1 keys wait for you: detour admit pending --state-dir "+dir+"\n", "")

	ask("admit", "allow", a.Public().Hex()[:8], "--name", "ann-laptop", "--note", "Ann's").want(t, exitOK, "Allowed: ann-laptop, "+a.Public().String()+"\nIt is connected", "")
	if text := ann.told(); text != "" {
		t.Errorf("promoted, and told %q", text)
	}
	ask("admit", "allow", b.Public().String(), "--name", "bob").want(t, exitOK, "will be let in when it comes", "")
	bob := join(t, s, b)
	if err := ann.Send(b.Public(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := bob.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := m.(client.Packet); ok && string(p.Data) == "hello" {
			break
		}
	}
	status := ask("status", "--long")
	for _, text := range []string{"2 connected, 0 waiting", "ann-laptop", "bob", a.Public().String(), "source     ask: 1 logins", "members alone", "health     well"} {
		status.want(t, exitOK, text, "")
	}
	ask("status").want(t, exitOK, a.Public().Hex()[:8]+"  ann-laptop", "") // as the other commands take it
	var got admin.Status
	if err := json.Unmarshal([]byte(ask("status", "--json").stdout), &got); err != nil || len(got.Peers) != 2 || got.Peers[0].Key != a.Public() {
		t.Errorf("%+v, %v", got, err)
	}
	ask("admit", "list").want(t, exitOK, "ann-laptop", "")

	ask("kick", "bob").want(t, exitFailed, "", "is no node key; hint: ")
	ask("kick", b.Public().Hex()[:6]).want(t, exitOK, "Ended 1 connection of "+b.Public().String(), "")
	bob.ended()
	ask("kick", b.Public().String()).want(t, exitFailed, "", "is not connected; hint: ")

	bob = join(t, s, b) // kicked is not banned
	ask("ban", b.Public().String(), "--for", "1h", "--note", "too loud").want(t, exitOK, "ended 1 connection", "")
	bob.ended()
	ask("ban", "--list").want(t, exitOK, "too loud", "")
	o := dialed(t, bound(t, s, "relay"), regexp.MustCompile(`sha256-raw:[0-9a-f]{64}`).FindString(s.stdout.String()))
	o.Key = b
	if c, err := client.Dial(t.Context(), o); err == nil {
		c.Close()
		t.Error("a banned key logs in")
	}
	ask("ban", "--remove", b.Public().Hex()[:8]).want(t, exitOK, "Banned no more: "+b.Public().String(), "")
	ask("ban", "--remove", b.Public().String()).want(t, exitFailed, "", "is not banned; hint: ")
	ask("ban", "127.0.0.0/8").want(t, exitOK, "Banned: 127.0.0.0/8, until it is removed; ended 1 connection.", "")
	ann.ended()
	ask("ban", "--remove", "127.0.0.0/8").want(t, exitOK, "Banned no more: 127.0.0.0/8", "")
	for target, want := range map[string]string{
		"0.0.0.0/0": "is everybody; hint: ", "ffffffff": "give it whole",
		"xyz": "neither a node key nor an address or network; hint: ", "1.2.3.999": "an address as 192.0.2.7", "example.com": "a network as 192.0.2.0/24",
	} {
		ask("ban", target).want(t, exitFailed, "", want)
	}
	ask("ban", "::ffff:192.0.2.9/120").want(t, exitOK, "Banned: 192.0.2.0/24, until it is removed", "")
	ask("ban", "--list").want(t, exitOK, "192.0.2.0/24  for ever", "")
	ask("ban", "--remove", "::ffff:192.0.2.1/120").want(t, exitOK, "Banned no more: 192.0.2.0/24", "")
	ask("ban", "192.0.2.7", "--for", "7d").want(t, exitOK, "until "+time.Now().Add(7*24*time.Hour).Format(time.DateOnly), "")
	ask("ban", "192.0.2.7", "--for", "a week").want(t, exitUsage, "", "write it as 30m, 24h or 7d")
	ask("ban").want(t, exitUsage, "", "whom?")
	ask("ban", b.Public().String(), "--for", "10ms").want(t, exitUsage, "", "less than a second")
	ask("ban", b.Public().String(), "--for", "0s").want(t, exitUsage, "", "less than a second")

	bob = join(t, s, b)
	ask("admit", "deny", b.Public().String()).want(t, exitOK, "Denied: bob, ", "")
	bob.ended()
	if text := join(t, s, b).told(); !strings.Contains(text, "has refused your node") {
		t.Errorf("told %q", text)
	}
	ask("admit", "pending").want(t, exitOK, "Nobody has been refused lately.", "") // the operator knows
	ask("admit", "revoke", b.Public().String()).want(t, exitOK, "Not denied any more: bob", "")
	ask("admit", "revoke", b.Public().String()).want(t, exitFailed, "", "hint: detour admit list")
	ask("admit", "allow", b.Public().Hex()[:3]).want(t, exitFailed, "", "is no node key; hint: ")
	ask("admit", "allow", a.Public().String(), "--tenant", "home").want(t, exitFailed, "", "; hint: leave --tenant out")
	unseen := key.NewPrivate().Public()
	ask("admit", "deny", unseen.Hex()).want(t, exitOK, "Denied: "+unseen.String(), "")
	ask("admit", "revoke", strings.ToUpper(unseen.String())).want(t, exitOK, "Not denied any more: "+unseen.String(), "")
	ask("admit", "allow", a.Public().String(), "--note", "left\u202eright").want(t, exitFailed, "", "do not print; hint: ")
	ask("admit", "allow", a.Public().String(), "--name", strings.Repeat("x", 300)).want(t, exitFailed, "", "hint: shorten it")

	// What was decided outlives the relay.
	s.stop()
	s = start(t, append([]string{"serve"}, freePorts(dir)...)...)
	join(t, s, a)
	ask("status").want(t, exitOK, "1 connected, 0 waiting", "")
}

// A token opens a closed relay to two keys, until it is taken back.
func TestProbeToken(t *testing.T) {
	dir := stateDir(t)
	s := start(t, append([]string{"serve"}, freePorts(dir, "--admit", "none")...)...)
	ask := func(args ...string) result { return detour(t, append(args, "--state-dir", dir)...) }
	made := ask("admit", "probe-token", "--for", "10m")
	token, err := probe.ParseToken(made.stdout)
	if err != nil || made.status != exitOK || time.Until(token.Until) > 10*time.Minute {
		t.Fatalf("%v, %+v", err, made)
	}
	member := join(t, s, token.Keys[0])
	ask("status").want(t, exitOK, "(probe)", "")
	ask("status").want(t, exitOK, "probes     2 keys let in for a time", "")
	ask("admit", "probe-token", "--for", "25h").want(t, exitFailed, "", "hint: give 1 to 86400")
	ask("admit", "probe-token", "--for", "10ms").want(t, exitUsage, "", "less than a second")
	ask("admit", "probe-token", "--end").want(t, exitOK, "Let in no more: 2 keys of probes.", "")
	member.ended()
}

// A relay whose sources are others says that nobody asks it.
func TestAdmitWithoutAsk(t *testing.T) {
	dir := stateDir(t)
	start(t, append([]string{"serve"}, freePorts(dir, "--admit", "any")...)...)
	k := key.NewPrivate().Public().String()
	detour(t, "admit", "allow", k, "--state-dir", dir).want(t, exitFailed, "", "ask is not among the sources of this relay")
	detour(t, "admit", "deny", k, "--state-dir", dir).want(t, exitOK, "Denied: "+k, "")
	detour(t, "status", "--state-dir", dir).want(t, exitOK, "admits     EVERYBODY", "")
}

func TestLasts(t *testing.T) {
	for text, want := range map[string]time.Duration{"7d": 7 * 24 * time.Hour, "90m": 90 * time.Minute, "-1d": -24 * time.Hour, "d": 0, "1.5d": 0, "99999999999d": 0, "7": 0, "": 0} {
		var l lasts
		if err := l.Set(text); time.Duration(l) != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %v, %v", text, time.Duration(l), err)
		}
	}
}

func TestShellWord(t *testing.T) {
	for text, want := range map[string]string{"/var/lib/detour": "/var/lib/detour", "": "''", "my dir": "'my dir'", "it's": `'it'\''s'`} {
		if got := shellWord(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Second: "just now", 90 * time.Second: "1m ago", 59 * time.Minute: "59m ago", 3*time.Hour + 5*time.Minute: "3h ago", 47 * time.Hour: "47h ago",
	} {
		if got := ago(time.Now().Add(-d)); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
