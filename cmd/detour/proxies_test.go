//go:build proxies

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/client"
)

// These tests run the recipes of docs/proxies with the real programs: make proxies
// installs those and says, in withoutEnv, which it could not have. Only addresses,
// and the paths of certificates and sites, are other than in the files.

const (
	recipes    = "../../docs/proxies"
	withoutEnv = "DETOUR_PROXIES_WITHOUT"
	patience   = 20 * time.Second
	clientIP   = "127.0.0.9" // of DERP clients: nobody else comes from there
)

// street is one machine with a proxy, a relay and a site on it.
type street struct {
	t   *testing.T
	dir string
	ca  *x509.CertPool
	// where maps addresses and paths of the recipes to those of the test.
	where map[string]string
}

func newStreet(t *testing.T, programs ...string) *street {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if slices.Contains(strings.Fields(os.Getenv(withoutEnv)), p) {
			t.Skipf("SKIPPED, NOT TRIED: %s is not here and could not be installed", p)
		}
		t.Fatalf("%s is not here; hint: make proxies installs it", p)
	}
	dir, err := os.MkdirTemp("", "dt") // nginx's workers must get through, and t.TempDir's names are long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &street{t: t, dir: dir, ca: x509.NewCertPool()}
	site := filepath.Join(dir, "site")
	for _, d := range []string{dir, site} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.where = map[string]string{"/var/www/html": site, "/etc/ssl/": dir + "/"}
	for _, at := range []string{"@front", "127.0.0.1:3340", "127.0.0.1:8080", "127.0.0.1:8443"} {
		s.where[at] = freeAddr(t)
	}
	s.file("site/index.html", "the site\n")
	s.file("site/large", strings.Repeat("0123456789abcdef", 1<<16))
	s.issue("relay.example.com")
	s.issue("www.example.com")
	return s
}

// freeAddr returns an address that nobody has at this moment.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *street) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// issue makes a certificate for name that s.ca trusts.
func (s *street) issue(name string) {
	s.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		s.t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ca.AddCert(parsed)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		s.t.Fatal(err)
	}
	s.file(name+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	s.file(name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})))
}

// recipe writes a recipe with the test's addresses. front, if any, is how it
// writes the address that clients dial, and what stands there in the test.
func (s *street) recipe(name, front, frontHere string) string {
	s.t.Helper()
	text := read(s.t, filepath.Join(recipes, name))
	if front != "" {
		if strings.Count(text, front) != 1 {
			s.t.Fatalf("%s does not hold %q once", name, front)
		}
		text = strings.Replace(text, front, frontHere, 1)
	}
	for there, here := range s.where {
		text = strings.ReplaceAll(text, there, here)
	}
	if left := regexp.MustCompile(`(?m)^[^#]*(:(443|3340|8080|8443)\b|/etc/ssl/|/var/www)`).FindString(text); left != "" {
		s.t.Fatalf("%s: %q is not replaced", name, left)
	}
	return s.file(name, text)
}

// program runs a program until the test ends. It must listen at addr soon.
func (s *street) program(addr string, name string, args ...string) {
	s.t.Helper()
	var out output
	out.begun = make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // all of them stop at once, with their children
	cmd.WaitDelay = 5 * time.Second
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	s.t.Cleanup(func() {
		cancel()
		<-ended
		if s.t.Failed() {
			s.t.Logf("%s said:\n%s", name, &out)
		}
	})
	s.waitFor(addr, ended)
}

// waitFor returns once somebody listens at addr.
func (s *street) waitFor(addr string, ended <-chan struct{}) {
	s.t.Helper()
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	limit := time.After(patience)
	for {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
		select {
		case <-every.C:
		case <-ended:
			s.t.Fatal("it ended at once")
		case <-limit:
			s.t.Fatalf("nobody listens at %s", addr)
		}
	}
}

// nginx runs recipes for its http context and, in stream, one for its main one.
func (s *street) nginx(addr, stream string, inHTTP ...string) {
	s.t.Helper()
	var b strings.Builder
	if os.Geteuid() == 0 {
		b.WriteString("user root;\n") // the test's files are root's
	}
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err == nil && stream != "" {
		b.WriteString("load_module " + module + ";\n")
	}
	fmt.Fprintf(&b, "pid %[1]s/nginx.pid;\nerror_log stderr;\nworker_processes 1;\nevents {}\n", s.dir)
	if stream != "" {
		fmt.Fprintf(&b, "include %s;\n", stream)
	}
	fmt.Fprintf(&b, "http {\naccess_log %[1]s/access.log;\n", s.dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&b, "%s_temp_path %s/%s;\n", kind, s.dir, kind)
	}
	for _, file := range inHTTP {
		fmt.Fprintf(&b, "include %s;\n", file)
	}
	b.WriteString("}\n")
	s.program(addr, "nginx", "-p", s.dir, "-c", s.file("nginx.conf", b.String()), "-g", "daemon off;", "-e", "stderr")
}

// relay runs detour serve with a recipe, at the address of this test.
func (s *street) relay(recipe, listen string, more ...string) *server {
	s.t.Helper()
	state := filepath.Join(s.dir, "state")
	args := []string{
		"serve", "--config", recipe, "--state-dir", state, "--listen", listen, "--stun-listen", "127.0.0.1:0", "--http-listen", "off",
		"--public-ipv4", "203.0.113.7", "--admit", "any", "--log-level", "debug",
	}
	return start(s.t, append(args, more...)...)
}

// certificate are flags for a relay that shows the recipe's certificate.
func (s *street) certificate() []string {
	return []string{"--cert", s.dir + "/relay.example.com.crt", "--key", s.dir + "/relay.example.com.key"}
}

func (s *street) dial(addr, from string) func(ctx context.Context, _, _ string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
}

// derp logs two clients in at addr and passes packets each way. fast says
// whether they can see the relay's own certificate.
func (s *street) derp(addr string, webSocket, fast bool) {
	s.t.Helper()
	var clients []*client.Client
	for range 2 {
		c, err := client.Dial(s.t.Context(), client.Options{
			Host: "relay.example.com", Addr: addr, DialContext: s.dial(addr, clientIP), TLS: &tls.Config{RootCAs: s.ca}, WebSocket: webSocket,
		})
		if err != nil {
			s.t.Fatalf("log in at %s: %v", addr, err)
		}
		defer c.Close()
		if c.FastStarted() != fast {
			s.t.Errorf("fast start is %v, want %v", c.FastStarted(), fast)
		}
		clients = append(clients, c)
	}
	for i, from := range clients {
		for n := range 100 {
			s.pass(from, clients[1-i], bytes.Repeat([]byte{byte(n)}, 14*n))
		}
	}
}

// pass sends one packet and waits for it.
func (s *street) pass(from, to *client.Client, packet []byte) {
	s.t.Helper()
	if err := from.Send(to.PublicKey(), packet); err != nil {
		s.t.Fatal(err)
	}
	for {
		m, err := to.Recv()
		if err != nil {
			s.t.Fatalf("receive: %v", err)
		}
		if p, ok := m.(client.Packet); ok {
			if p.From != from.PublicKey() || !bytes.Equal(p.Data, packet) {
				s.t.Fatalf("another packet came: %d bytes from %v", len(p.Data), p.From)
			}
			return
		}
	}
}

// bench loads the relay through whatever is at addr.
func (s *street) bench(addr string) {
	s.t.Helper()
	r := detour(s.t, "bench", "--relay", "https://"+addr, "--insecure", "--pairs", "2", "--duration", "1s", "--warmup", "200ms")
	if r.status != 0 {
		s.t.Errorf("bench: status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
}

// sawClients stops the relay and checks whose connections it says it had.
func (s *street) sawClients(r *server, atLeast int) {
	s.t.Helper()
	if status := r.stop(); status != 0 {
		s.t.Errorf("exit status %d", status)
	}
	if n := strings.Count(r.stderr.String(), "addr="+clientIP+":"); n < atLeast {
		s.t.Errorf("the relay saw %d connections of %s, want %d:\n%s", n, clientIP, atLeast, r.stderr)
	}
}

// get asks for a path as a browser would, and returns the status and the body.
func (s *street) get(addr, url string) (int, string) {
	s.t.Helper()
	transport := &http.Transport{
		DialContext: s.dial(addr, clientIP), TLSClientConfig: &tls.Config{RootCAs: s.ca}, DisableKeepAlives: true,
	}
	r, err := (&http.Client{Transport: transport, Timeout: patience}).Get(url)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatalf("%s: %v", url, err)
	}
	return r.StatusCode, string(b)
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

func TestProxyNginxHTTP(t *testing.T) {
	s := newStreet(t, "nginx")
	front := s.where["@front"]
	r := s.relay(s.recipe("plain-backend.yaml", "", ""), s.where["127.0.0.1:3340"])
	s.nginx(front, "", s.recipe("nginx-http.conf", "listen 443 ssl", "listen "+front+" ssl"))
	s.derp(front, false, false)
	s.derp(front, true, false)
	s.bench(front)
	if status, _ := s.get(front, "https://relay.example.com/derp/probe"); status != http.StatusOK {
		t.Errorf("probe: %d", status)
	}
	s.sawClients(r, 4)
}

func TestProxyCaddy(t *testing.T) {
	s := newStreet(t, "caddy")
	front := s.where["@front"]
	r := s.relay(s.recipe("plain-backend.yaml", "", ""), s.where["127.0.0.1:3340"])
	file := s.recipe("Caddyfile", "relay.example.com:443", "relay.example.com:"+port(front))
	// Only what a test must not touch is added: Caddy's own admin port.
	text := strings.Replace(read(t, file), "{\n", "{\n\tadmin off\n", 1)
	s.program(front, "caddy", "run", "--adapter", "caddyfile", "--config", s.file("Caddyfile", text))
	s.derp(front, false, false)
	s.derp(front, true, false)
	// No bench: it dials an address, and without a name in TLS Caddy has no certificate to show.
	s.sawClients(r, 4)
}

func TestProxyNginxStream(t *testing.T) {
	s := newStreet(t, "nginx")
	front := s.where["@front"]
	r := s.relay(s.recipe("passthrough.yaml", "", ""), s.where["127.0.0.1:3340"], s.certificate()...)
	s.nginx(front, s.recipe("nginx-stream.conf", "listen 443", "listen "+front), s.recipe("nginx-sni.conf", "", ""))
	s.derp(front, false, true)
	s.derp(front, true, false)
	s.bench(front)
	s.checkSite(front, "https://www.example.com/")
	s.sawClients(r, 4)
}

func TestProxyHAProxy(t *testing.T) {
	s := newStreet(t, "haproxy")
	front := s.where["@front"]
	r := s.relay(s.recipe("passthrough.yaml", "", ""), s.where["127.0.0.1:3340"], s.certificate()...)
	s.program(front, "haproxy", "-db", "-f", s.recipe("haproxy.cfg", "bind :443", "bind "+front))
	s.derp(front, false, true)
	s.derp(front, true, false)
	s.bench(front)
	s.sawClients(r, 4)
}

// checkSite checks the site's pages and that its log has the client's address.
func (s *street) checkSite(addr, url string) {
	s.t.Helper()
	if status, body := s.get(addr, url); status != http.StatusOK || body != "the site\n" {
		s.t.Errorf("%s: %d %q", url, status, body)
	}
	if status, body := s.get(addr, url+"large"); status != http.StatusOK || len(body) != 1<<20 {
		s.t.Errorf("%slarge: %d, %d bytes", url, status, len(body))
	}
	// nginx has written its log before it ends a response's connection, or soon after.
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	limit := time.After(patience)
	for {
		log, _ := os.ReadFile(filepath.Join(s.dir, "access.log"))
		if strings.Count(string(log), clientIP+" ") >= 2 {
			return
		}
		select {
		case <-every.C:
		case <-limit:
			s.t.Errorf("the site's log does not hold %s:\n%s", clientIP, log)
			return
		}
	}
}

func TestFallbackToNginx(t *testing.T) {
	s := newStreet(t, "nginx")
	s.nginx(s.where["127.0.0.1:8080"], "", s.recipe("nginx-site.conf", "", ""))
	front := s.where["@front"]
	r := s.relay(s.recipe("fallback.yaml", ":443", front), front, s.certificate()...)
	s.checkSite(front, "https://relay.example.com/")
	if status, _ := s.get(front, "https://relay.example.com/derp/probe"); status != http.StatusOK {
		t.Errorf("probe: %d", status)
	}
	s.derp(front, false, true)
	s.derp(front, true, false)
	s.bench(front)
	s.sawClients(r, 4)
}

func TestSNIRouteToNginx(t *testing.T) {
	s := newStreet(t, "nginx")
	s.nginx(s.where["127.0.0.1:8443"], "", s.recipe("nginx-sni.conf", "", ""))
	front := s.where["@front"]
	r := s.relay(s.recipe("sni-route.yaml", "listen: :443", "listen: "+front), front, s.certificate()...)
	s.checkSite(front, "https://www.example.com/")
	s.derp(front, false, true)
	s.derp(front, true, false)
	s.bench(front)
	s.sawClients(r, 4)
}
