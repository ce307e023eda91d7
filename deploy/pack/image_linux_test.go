package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startLimit is how long a relay may take to start, on a machine that does other
// things too.
const startLimit = 30 * time.Second

// Docker gives root in a container these capabilities, and the compose files
// fewer. sys_chroot is for this test.
const (
	dockerCaps  = "+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap"
	composeCaps = "+net_bind_service,+dac_override,+chown,+setuid,+setgid,+sys_chroot"
	noSetuid    = "+net_bind_service,+dac_override,+sys_chroot"
)

// mount is a file that the host mounts into the container: root's, and for
// nobody else to read, unless it is a directory (mode 0755).
type mount struct {
	path string // ends in / for a directory
	data string
}

// containerRun is one `docker run` line.
type containerRun struct {
	name   string
	tag    string // empty: latest
	caps   string // empty: Docker's
	env    []string
	args   []string
	mounts []mount

	says  []string // by the relay, on either stream
	tcp   []int
	udp   []int
	fails bool // it ends with an error instead of serving
	// unhealthy is what the health check says of a relay that cannot do all it should,
	// as without a network on which to reach the certificate authority.
	unhealthy string
}

// communityRuns are the lines of the community images, with another image name.
func communityRuns(t *testing.T) []containerRun {
	t.Helper()
	certPEM, keyPEM := certificateOf(t, "derp.example.com")
	mounted := []mount{{"app/certs/", ""}, {"app/certs/derp.example.com.crt", certPEM}, {"app/certs/derp.example.com.key", keyPEM}}
	const open = "Admitted: EVERYBODY"
	unread := "path=/app/certs/derp.example.com.key stopped_at=/app/certs/derp.example.com.key hint=\"chown 65532 "
	return []containerRun{
		{
			name: "derper with mounted certificates", env: []string{"DERP_DOMAIN=derp.example.com", "DERP_CERT_MODE=manual"},
			mounts: mounted, says: []string{open, "detour: warning: every Tailscale client", unread}, tcp: []int{80, 443}, udp: []int{3478},
		},
		{
			name: "derper with every variable", mounts: mounted, tcp: []int{8443}, udp: []int{3479}, says: []string{open},
			env: []string{
				"DERP_DOMAIN=derp.example.com", "DERP_CERT_MODE=manual", "DERP_CERT_DIR=/app/certs", "DERP_ADDR=:8443", "DERP_STUN=true",
				"DERP_STUN_PORT=3479", "DERP_HTTP_PORT=-1", "DERP_VERIFY_CLIENTS=false", "DERP_VERIFY_CLIENT_URL=",
			},
		},
		{
			name: "derper with a guide's address", mounts: mounted, tcp: []int{80, 12345}, udp: []int{3478}, says: []string{open},
			env: []string{"DERP_DOMAIN=derp.example.com", "DERP_CERT_MODE=manual", "DERP_ADDR=12345"},
		},
		{
			name: "derper behind a proxy", env: []string{"DERP_DOMAIN=derp.example.com", "DERP_ADDR=:8080", "DERP_STUN=false"},
			tcp: []int{8080}, says: []string{open, "PLAIN HTTP"},
		},
		{
			name: "derper as it comes", env: []string{"DERP_DOMAIN=derp.example.com"}, tcp: []int{80, 443}, udp: []int{3478},
			unhealthy: "there is no certificate for derp.example.com from the authority", says: []string{open},
		},
		{name: "derper that verifies", env: []string{"DERP_DOMAIN=derp.example.com", "DERP_CERT_MODE=manual", "DERP_VERIFY_CLIENTS=true"}, mounts: mounted, tcp: []int{80, 443}, udp: []int{3478}, says: []string{"nodes that the tailscaled of this machine sees"}},
		{
			name: "ip_derper", env: []string{"DERP_HOST=198.51.100.7"}, tcp: []int{80, 443}, udp: []int{3478},
			says: []string{open, "198.51.100.7", "sha256-raw:"},
		},
		{
			name: "ip_derper with every variable", tcp: []int{9003, 9004}, udp: []int{3478}, says: []string{open},
			env: []string{
				"DERP_HOST=198.51.100.7", "DERP_CERTS=/app/certs/", "DERP_ADDR=:9003", "DERP_HTTP_PORT=9004", "DERP_STUN=true", "DERP_VERIFY_CLIENTS=false",
			},
		},
		{
			name: "ip_derper of docker-image", env: []string{"DERP_HOST=127.0.0.1", "DERP_CERTS=/app/certs/", "DERP_STUN=true", "DERP_VERIFY_CLIENTS=false"},
			tcp: []int{80, 443}, udp: []int{3478}, says: []string{open, "looked for on the interfaces"},
		},
		{
			name: "less common images", mounts: append([]mount{{"data/", ""}}, mounted...), tcp: []int{80, 443}, says: []string{open},
			env: []string{"DERP_HOSTNAME=derp.example.com", "DERP_CERTMODE=manual", "DERP_CERTDIR=/app/certs", "DERP_RUN_STUN=false", "DERP_CONFIG_FILE=/data/derper.key", "DERP_HOME=blank"},
		},
		{
			name: "derper that is told who may connect", env: []string{"DERP_HOST=198.51.100.7", "DETOUR_ADMIT=none"},
			tcp: []int{80, 443}, udp: []int{3478}, says: []string{"Admitted: nobody."},
		},
		{
			name: "derper that never is root", tag: "nonroot", env: []string{"DERP_HOST=198.51.100.7", "DERP_ADDR=:8443", "DERP_HTTP_PORT=-1"},
			tcp: []int{8443}, udp: []int{3478}, says: []string{open},
		},
	}
}

// ownRuns are those without a DERP_* variable.
func ownRuns() []containerRun {
	const closed = "ask: those whom you let in with detour admit allow"
	bound := []mount{{"var/lib/detour/", ""}} // a directory of the host, and root's
	return []containerRun{
		{name: "nothing said", tcp: []int{80, 443}, udp: []int{3478}, says: []string{closed, "gave up root"}},
		{name: "state of the host", mounts: bound, tcp: []int{80, 443}, udp: []int{3478}, says: []string{closed}},
		{name: "the compose files' capabilities", caps: composeCaps, mounts: bound, tcp: []int{80, 443}, udp: []int{3478}, says: []string{closed}},
		{name: "a command", args: []string{"serve", "--listen", ":9443", "--admit", "any"}, tcp: []int{80, 9443}, udp: []int{3478}, says: []string{"Admitted: EVERYBODY"}},
		{name: "flags", args: []string{"--http-listen", "off"}, tcp: []int{443}, udp: []int{3478}, says: []string{closed}},
		{name: "never root", tag: "nonroot", tcp: []int{8443}, udp: []int{3478}, says: []string{closed}},
		{name: "no right to stop being root", caps: noSetuid, fails: true, says: []string{"run_as: ", "; hint: "}},
		{name: "a shell", args: []string{"sh"}, fails: true, says: []string{"unknown command \"sh\"; hint: "}},
	}
}

// The images of the archive that DETOUR_IMAGE names, run as Docker runs them as
// far as chroot goes.
func TestImage(t *testing.T) {
	path := os.Getenv("DETOUR_IMAGE")
	if path == "" || os.Geteuid() != 0 {
		t.Skip("SKIPPED: make image runs this, as root")
	}
	archive, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	images := load(t, archive)
	for _, r := range append(communityRuns(t), ownRuns()...) {
		t.Run(r.name, func(t *testing.T) {
			tag := r.tag
			if tag == "" {
				tag = "latest"
			}
			i, ok := images["detour:"+tag]
			if !ok {
				t.Fatalf("no image %s", tag)
			}
			c := &container{run: r, config: i.Config.Config, root: rootOf(t, i.Layer, r.mounts)}
			c.test(t)
		})
	}
}

// rootOf unpacks a layer, and what is mounted, as root does.
func rootOf(t *testing.T, layer []byte, mounts []mount) string {
	t.Helper()
	root, err := os.MkdirTemp("", "img") // a short name, as there are sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	tar := exec.Command("tar", "-xpf", "-", "--numeric-owner", "-C", root)
	tar.Stdin = bytes.NewReader(layer)
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		at := filepath.Join(root, m.path)
		if strings.HasSuffix(m.path, "/") {
			err = os.MkdirAll(at, 0o755)
		} else {
			err = os.WriteFile(at, []byte(m.data), 0o600)
		}
		if err == nil {
			err = os.Chown(at, 0, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// certificateOf makes a certificate that openssl's own authority issued, so that
// it is not taken for one to pin.
func certificateOf(t *testing.T, name string) (certPEM, keyPEM string) {
	t.Helper()
	dir := t.TempDir()
	for _, line := range []string{
		"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ca -keyout ca.key -out ca.crt -days 30",
		"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=" + name + " -addext subjectAltName=DNS:" + name + " -keyout leaf.key -out leaf.csr",
		"x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -copy_extensions copy -days 20 -out leaf.crt",
	} {
		cmd := exec.Command("openssl", strings.Fields(line)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v: %s", line, err, out)
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return read("leaf.crt"), read("leaf.key")
}

// container is one run of an image.
type container struct {
	run    containerRun
	config imageConfig
	root   string
}

// command is argv in the container, through the programs that give it its root
// and its rights; they replace each other, so the process is argv in the end.
func (c *container) command(ctx context.Context, argv []string) *exec.Cmd {
	caps := c.run.caps
	if caps == "" {
		caps = dockerCaps
	}
	chain := []string{"setpriv", "--bounding-set", "-all," + caps, "--inh-caps", "-all", "chroot"}
	if c.config.User != "" {
		chain = append(chain, "--userspec="+c.config.User, "--groups="+strings.Split(c.config.User, ":")[1])
	}
	chain = append(append(chain, c.root), argv...)
	cmd := exec.CommandContext(ctx, chain[0], chain[1:]...)
	cmd.Env = slices.Concat(c.config.Env, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, c.run.env)
	return cmd
}

func (c *container) test(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	cmd := c.command(ctx, slices.Concat(c.config.Entrypoint, c.run.args))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		w.Close()
		ended <- err
	}()
	text, serves := readUntil(r, regexp.MustCompile(`msg=serving `))
	if serves == c.run.fails {
		t.Errorf("serving: %v", serves)
	}
	if serves && !c.run.fails {
		c.checkRunning(t, cmd.Process.Pid)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	text += string(rest)
	if err := <-ended; (err == nil) != serves {
		t.Errorf("it ended with: %v", err)
	}
	for _, want := range c.run.says {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if t.Failed() {
		t.Logf("it says:\n%s", text)
	}
}

// readUntil reads lines up to one that matches.
func readUntil(r io.Reader, match *regexp.Regexp) (text string, found bool) {
	one := make([]byte, 1) // unbuffered, as the rest is read by another
	var b strings.Builder
	line := 0
	for {
		if _, err := io.ReadFull(r, one); err != nil {
			return b.String(), false
		}
		b.Write(one)
		if one[0] != '\n' {
			continue
		}
		if match.MatchString(b.String()[line:]) {
			return b.String(), true
		}
		line = b.Len()
	}
}

func (c *container) checkRunning(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`Uid:\t65532\t65532\t65532\t65532`, `Gid:\t65532\t65532\t65532\t65532`, `CapPrm:\t0+`, `CapEff:\t0+`} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).Match(status) {
			t.Errorf("it has not given up root: no %s in\n%s", want, status)
		}
	}
	for _, proto := range []struct {
		name string
		want []int
	}{{"tcp", c.run.tcp}, {"udp", c.run.udp}} {
		got := portsOf(t, pid, proto.name)
		if c.run.unhealthy != "" { // CertMagic keeps a port of its own on loopback
			const ephemeral = 32768
			got = slices.DeleteFunc(got, func(port int) bool { return port >= ephemeral })
		}
		if !slices.Equal(got, proto.want) {
			t.Errorf("%s ports %v, want %v", proto.name, got, proto.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	out, err := c.command(ctx, c.config.Healthcheck.Test[1:]).CombinedOutput()
	healthy := err == nil && string(out) == "ok\n"
	if c.run.unhealthy != "" {
		healthy = err != nil && strings.Contains(string(out), c.run.unhealthy)
	}
	if !healthy {
		t.Errorf("health check: %v: %s", err, out)
	}
}

// portsOf lists the ports on which a process's network namespace listens.
func portsOf(t *testing.T, pid int, proto string) []int {
	t.Helper()
	const tcpListen, udpOpen = "0A", "07"
	ports := []int(nil)
	for _, name := range []string{proto, proto + "6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, name))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			f := strings.Fields(lines.Text())
			if len(f) < 4 || f[3] != tcpListen && (proto != "udp" || f[3] != udpOpen) {
				continue
			}
			_, digits, _ := strings.Cut(f[1], ":")
			b, err := hex.DecodeString(digits)
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.ParseUint(hex.EncodeToString(b), 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			ports = append(ports, int(n))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
