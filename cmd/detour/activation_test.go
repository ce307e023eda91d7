//go:build unix

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/stun"
)

// activatedArgs is the variable with which this test binary becomes the relay
// itself. systemd starts it so too, except that it knows the process's number.
const activatedArgs = "TEST_ACTIVATED_ARGS"

func playActivated() {
	args := os.Getenv(activatedArgs)
	if args == "" {
		return
	}
	os.Unsetenv(activatedArgs)
	os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	os.Args = append([]string{"detour"}, strings.Fields(args)...)
	main()
}

// passed are sockets for a child and their names.
type passed struct {
	files []*os.File
	names []string
}

type filer interface {
	io.Closer
	File() (*os.File, error)
}

func (p *passed) add(t *testing.T, name string, socket any, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	s := socket.(filer)
	defer s.Close()
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	p.files, p.names = append(p.files, f), append(p.names, name)
}

// activated is a child with passed sockets.
func activated(t *testing.T, p passed, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.ExtraFiles = p.files
	cmd.Env = append(os.Environ(), activatedArgs+"="+strings.Join(args, " "),
		fmt.Sprintf("LISTEN_FDS=%d", len(p.files)), "LISTEN_FDNAMES="+strings.Join(p.names, ":"))
	return cmd
}

// TestActivation starts a relay that opens nothing itself but takes all that it
// serves from its parent.
func TestActivation(t *testing.T) {
	var p passed
	main, err := net.Listen("tcp", "127.0.0.1:0")
	mainAt := main.Addr().String()
	p.add(t, "relay", main, err)
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	stunAt := udp.LocalAddr().String()
	p.add(t, "relay", udp, err) // one unit may give both one name
	spare, err := net.Listen("tcp", "127.0.0.1:0")
	spareAt := spare.Addr().String()
	p.add(t, "spare", spare, err)
	dir := stateDir(t)
	socket := filepath.Join(filepath.Dir(dir), "admin")
	admin, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err == nil {
		admin.SetUnlinkOnClose(false)
	}
	p.add(t, "admin", admin, err)

	cmd := activated(t, p, "serve", "--state-dir", dir, "--listen", "systemd:relay", "--also-listen", "systemd:spare",
		"--stun-listen", "systemd:relay", "--http-listen", "off", "--admin-listen", "systemd:admin",
		"--public-ipv4", "203.0.113.7", "--admit", "any")
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	banner := readUntil(t, out, "Next: paste it", &log)
	for _, want := range []string{mainAt, spareAt, stunAt, "unix:" + socket} {
		if !strings.Contains(banner, want) {
			t.Errorf("the start-up text does not name %s:\n%s", want, banner)
		}
	}
	for _, at := range []string{mainAt, spareAt} {
		c, err := client.Dial(t.Context(), client.Options{Host: "203.0.113.7", Addr: at, Insecure: true})
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		c.Close()
	}
	askSTUN(t, stunAt)
	detour(t, "healthcheck", "--admin-listen", "unix:"+socket).want(t, exitOK, "ok\n", "")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, &log)
	}
	if _, err := os.Lstat(socket); err != nil {
		t.Errorf("the relay removed a socket that is systemd's: %v", err)
	}
}

// readUntil reads lines up to the one that begins with a text, and leaves nothing
// to block the writer.
func readUntil(t *testing.T, r io.Reader, begin string, log *bytes.Buffer) string {
	t.Helper()
	var text strings.Builder
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		text.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), begin) {
			return text.String()
		}
	}
	t.Fatalf("the child ended:\n%s\n%s", &text, log)
	return ""
}

func askSTUN(t *testing.T, at string) {
	t.Helper()
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tx := stun.TxID{1, 2, 3}
	if _, err := c.Write(stun.AppendRequest(nil, tx)); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1500)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	got, from, err := stun.ParseResponse(b[:n])
	if err != nil || got != tx || from.String() != c.LocalAddr().String() {
		t.Errorf("%v, %v, %v", got, from, err)
	}
}

// TestActivationErrors: what does not fit is told with what to do.
func TestActivationErrors(t *testing.T) {
	var p passed
	l, err := net.Listen("tcp", "127.0.0.1:0")
	p.add(t, "relay", l, err)
	for _, tt := range []struct {
		p    passed
		args []string
		want string
	}{
		{p, []string{"--listen", "systemd:rely"}, "--listen systemd:rely: no such socket: passed are relay"},
		{p, []string{"--listen", "off", "--stun-listen", "systemd:relay"}, "relay is no datagram socket; hint: this setting needs ListenDatagram="},
		{passed{}, []string{"--listen", "systemd"}, "systemd has passed no socket to this process; hint: start it by a .socket unit"},
	} {
		args := append([]string{"serve", "--state-dir", stateDir(t), "--stun-listen", "127.0.0.1:0", "--http-listen", "off"}, tt.args...)
		out, err := activated(t, tt.p, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("%q: %v:\n%s\nwant %q", tt.args, err, out, tt.want)
		}
	}
}
