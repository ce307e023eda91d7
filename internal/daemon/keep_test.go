package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/cert"
	"github.com/detour-relay/detour/internal/config"
	"github.com/detour-relay/detour/internal/derpmap"
	"github.com/detour-relay/detour/internal/stun"
)

// kept are the ports and pins of region 900 in a kept file.
func kept(path string) (list []string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	m, err := derpmap.ParseHeadscale(text)
	if err != nil || m.Regions[900] == nil {
		return nil
	}
	for _, n := range m.Regions[900].Nodes {
		list = append(list, fmt.Sprintf("%d %s", n.DERPPort, n.CertName))
	}
	return list
}

func wantKept(t *testing.T, path, step string, nodes ...string) {
	t.Helper()
	await(t, fmt.Sprintf("the file holds %q %s (now %q)", nodes, step, kept(path)), func() bool { return slices.Equal(kept(path), nodes) })
}

// TestKeptMapFollowsTheRotation holds the kept file to what the ports show, step by
// step. Between the command and the ports that follow it the file stays as it was.
func TestKeptMapFollowsTheRotation(t *testing.T) {
	file := filepath.Join(t.TempDir(), "derp.yaml")
	x := runTurned(t, func(c *config.Config) { c.MapWrite = file })
	main, old := x.cfg.Listen, x.id.cert.Pin()
	wantKept(t, file, "at first", node(main, old))
	x.follow(time.Now())

	second := freePort(t)
	r, err := BeginRotation(x.cfg, cert.Place{Listen: second})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.ownMap(); err == nil {
		t.Error("the map names a port that is not open yet")
	}
	x.follow(time.Now())
	wantKept(t, file, "with both ports open", node(second, r.NewPin), node(main, old))

	if r, err = r.Withdraw(x.cfg.Cert, time.Now()); err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	wantKept(t, file, "with the old port closed", node(second, r.NewPin))

	if r, err = r.Finish(x.cfg.Cert, x.cfg.Key, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := x.ownMap(); err == nil {
		t.Error("the map names the relay's own port before it shows the new certificate")
	}
	x.follow(time.Now())
	wantKept(t, file, "finished", node(main, r.NewPin))
	if err := r.End(x.cfg.Cert); err != nil {
		t.Fatal(err)
	}
	x.follow(time.Now())
	wantKept(t, file, "ended", node(main, r.NewPin))
}

// reloading is a bed whose settings can be changed for a reload.
func reloading(t *testing.T, change func(*config.Config)) (b *bed, next *config.Config, fail *error) {
	t.Helper()
	c := settings(t, change)
	next, fail = &c, new(error)
	b = &bed{t: t, log: &logText{}}
	d, err := New(t.Context(), c, Options{
		Version: "test", InterfaceAddrs: addresses("203.0.113.7"), Logger: textLogger(b.log),
		Load: func() (config.Config, error) { return *next, *fail },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	b.Daemon = d
	return b, next, fail
}

func TestReloadTakesTheMapSettings(t *testing.T) {
	dir := t.TempDir()
	b, next, fail := reloading(t, nil)
	b.run()
	if b.Stats().Map != nil {
		t.Error("a map that nobody asked for has figures")
	}
	sibling := filepath.Join(dir, "sibling.yaml")
	write(t, sibling, "regions:\n  901:\n    regionid: 901\n    nodes: [{name: a, regionid: 901, hostname: a.example}]\n")
	file := filepath.Join(dir, "derp.json")
	next.MapWrite, next.MapSources = file, []string{sibling}
	b.Reload()
	await(t, "both regions are written", func() bool {
		m, err := derpmap.ParseJSON([]byte(readOr(file)))
		s := b.Stats().Map
		return err == nil && m.Regions[900] != nil && m.Regions[901] != nil && s != nil && s.Written != nil
	})
	if s := b.Stats().Map; s == nil || s.File != file || len(s.Sources) != 1 || s.Regions != 2 {
		t.Errorf("stats %+v", s)
	}
	next.RegionName = "another"
	next.MapWrite = filepath.Join(dir, "none", "derp.yaml")
	b.Reload()
	if log := b.log.String(); !strings.Contains(log, "stay as they are") || !strings.Contains(log, "none") {
		t.Errorf("log %s", log)
	}
	next.MapWrite = file
	b.Reload()
	if log := b.log.String(); !strings.Contains(log, "read at the start only; hint: restart") {
		t.Errorf("log %s", log)
	}
	*fail = errors.New("settings: wrong; hint: mend them")
	b.Reload()
	if log := b.log.String(); !strings.Contains(log, "goes on with those it has") {
		t.Errorf("log %s", log)
	}
	if s := b.Stats().Map; s == nil || s.File != file {
		t.Errorf("stats %+v", s)
	}
}

func readOr(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(text)
}

// fetch gets a URL, trusting any certificate: what it shows is not what is tried.
func fetch(t *testing.T, url, bearer string) (status int, body string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestServedMaps(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	write(t, token, "a token of some length\n")
	b, next, _ := reloading(t, func(c *config.Config) {
		c.MapPublic, c.MapTokenFile, c.MapListen, c.AdminListen = true, token, "127.0.0.1:0", "127.0.0.1:0"
	})
	b.run()
	isMap := func(text string) bool {
		m, err := derpmap.ParseJSON([]byte(text))
		return err == nil && m.Regions[900] != nil
	}
	await(t, "there is a map", func() bool { s := b.Stats().Map; return s != nil && s.Regions == 1 })

	public := "https://" + b.Config().Listen + "/derpmap.json"
	for _, tt := range []struct {
		url, bearer string
		status      int
	}{
		{public, "", 401},
		{public, "a token of some other", 401},
		{public + "?token=wrong", "", 401},
		{public, "a token of some length", 200},
		{public + "?token=a+token+of+some+length", "", 200},
		{public + "?own=1", "a token of some length", 200},
		{"http://" + b.Config().MapListen + "/derpmap.json", "", 200}, // of this machine
		{"http://" + b.adminListener.Addr().String() + "/derpmap.json", "", 200},
	} {
		status, body := fetch(t, tt.url, tt.bearer)
		if status != tt.status || isMap(body) != (status == 200) {
			t.Errorf("%s with %q: %d %q", tt.url, tt.bearer, status, body)
		}
	}
	if s := b.Stats().Map; s.RefusedRequests != 3 {
		t.Errorf("refused %d", s.RefusedRequests)
	}
	_, front := fetch(t, "https://"+b.Config().Listen+"/", "")
	next.MapPublic = false
	b.Reload()
	if status, body := fetch(t, public, "a token of some length"); status != 200 || body != front {
		t.Errorf("turned off: %d %q", status, body)
	}
}

func TestMapSettingsThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	for name, change := range map[string]func(*config.Config){
		"no such directory": func(c *config.Config) { c.MapWrite = filepath.Join(dir, "none", "derp.yaml") },
		"no token":          func(c *config.Config) { c.MapPublic, c.MapTokenFile = true, filepath.Join(dir, "none") },
		"no ca file":        func(c *config.Config) { c.MapSources = []string{"https://a.example/m,ca_file=" + dir} },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := build(t, settings(t, change))
			wantError(t, err, "map_")
		})
	}
}

func TestWarningsOfTheKeptMap(t *testing.T) {
	c := settings(t, func(c *config.Config) {
		c.MapTokenFile, c.MapPublic, c.MapListen = "/token", true, "0.0.0.0:1"
		c.MapSources = []string{"http://a.example/m?token=secret", "https://b.example/m", "/etc/c.yaml"}
	})
	b := mustBuild(t, settings(t, nil))
	w := keepWarnings(c, b.id)
	if len(w) != 3 || !strings.Contains(w[0], "system's roots") || !strings.Contains(w[1], "0.0.0.0:1") || !strings.Contains(w[2], "http://a.example/m is") {
		t.Errorf("%q", w)
	}
	if strings.Contains(strings.Join(w, ""), "secret") {
		t.Error("a token is shown")
	}
	c.TLS = false
	if w := keepWarnings(c, identity{}); !strings.Contains(w[0], "over plain HTTP") {
		t.Errorf("%q", w)
	}
}

// stunServer answers with the address that is set.
func stunServer(t *testing.T) (server string, sees *atomic.Pointer[netip.Addr]) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sees = &atomic.Pointer[netip.Addr]{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if tx, err := stun.ParseRequest(buf[:n], stun.RFC); err == nil {
				_, _ = conn.WriteTo(stun.AppendResponse(nil, tx, netip.AddrPortFrom(*sees.Load(), 4000)), from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String(), sees
}

// A home line behind NAT, whose address another machine has to tell.
func TestKeptMapFollowsTheAddress(t *testing.T) {
	server, sees := stunServer(t)
	first, second := addrOf("198.51.100.1"), addrOf("198.51.100.2")
	sees.Store(&first)
	file := filepath.Join(t.TempDir(), "derp.yaml")
	c := settings(t, func(c *config.Config) {
		c.MapWrite, c.MapAddress = file, []string{"stun:" + server}
		c.Listen, c.STUNListen = freePort(t), config.Off
	})
	b := mustBuild(t, c, "192.168.1.2")
	if got := b.id.cert.Names(); !slices.Equal(got, []string{"198.51.100.1"}) {
		t.Errorf("the certificate names %q", got)
	}
	b.run()
	holds := func(ip string) func() bool {
		return func() bool { return strings.Contains(readOr(file), `hostname: `+ip) }
	}
	await(t, "the map names the first address", holds("198.51.100.1"))
	sees.Store(&second)
	b.follower.Look(t.Context())
	if m, _, err := b.Map(false); err != nil || m.Regions[900].Nodes[0].IPv4 != "198.51.100.1" {
		t.Errorf("seen once: %v", err)
	}
	b.follower.Look(t.Context())
	await(t, "the map names the second address", holds("198.51.100.2"))
	if !strings.Contains(b.log.String(), "the public address is another") {
		t.Error("the change is not logged")
	}
	if m, _, err := Map(c, false); err != nil || m.Regions[900].Nodes[0].IPv4 != "198.51.100.2" { // detour map
		t.Errorf("%+v, %v", m, err)
	}
	if s := b.Stats().Map.Address; s == nil || s.IPv4 != "198.51.100.2" {
		t.Errorf("stats %+v", s)
	}
	private := addrOf("10.0.0.1") // a server on the wrong side of the NAT
	sees.Store(&private)
	b.follower.Look(t.Context())
	b.follower.Look(t.Context())
	if m, _, err := b.Map(false); err != nil || m.Regions[900].Nodes[0].IPv4 != "198.51.100.2" {
		t.Errorf("%+v, %v", m, err)
	}
}
