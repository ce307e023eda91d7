//go:build unix

package listen

import (
	"context"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dt") // t.TempDir makes names too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(socketDir(t), "relay.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close() // as a killed relay leaves it

	d, err := Listen(t.Context(), "unix:"+path, Options{Limits: NewLimits(LimitOptions{Pending: 1, Rate: 1})})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("%v, %v, want a socket of mode 0660", info.Mode(), err)
	}
	if d.Addr().IsValid() || d.Where() != "unix:"+path {
		t.Errorf("address %v, %s", d.Addr(), d.Where())
	}
	release := make(chan struct{})
	entered := make(chan struct{}, 10)
	serveEach(t, d, func(_ context.Context, c net.Conn, _ func(bool)) {
		defer c.Close()
		entered <- struct{}{}
		<-release
	})
	for range 3 { // one source may have one: but these have none
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		<-entered
	}
	if _, err := Listen(t.Context(), "unix:"+path, Options{Flag: "--listen"}); err == nil || !strings.Contains(err.Error(), "hint: stop the program") {
		t.Errorf("a second relay: %v", err)
	}
	close(release)
}

func TestUnixSocketOfAProxy(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	d, err := Listen(t.Context(), "unix:"+path, Options{ProxyUnix: true, Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	serveEach(t, d, func(_ context.Context, c net.Conn, _ func(bool)) {
		defer c.Close()
		io.WriteString(c, c.RemoteAddr().String())
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	for text, want := range map[string]string{headers[0].raw: client4, strings.Repeat("x", 20): ""} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, text)
		if got, _ := io.ReadAll(c); string(got) != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		c.Close()
	}
}

func TestUnixErrors(t *testing.T) {
	dir := socketDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                                 "is there and is not a socket; hint: move it away",
		filepath.Join(dir, "no", "s"):        "hint: make the directory",
		"@abstract":                          "abstract socket",
		"/" + strings.Repeat("x", 200):       "is too long",
		filepath.Join(dir, "file", "deeper"): "hint: name another path with --listen",
	} {
		_, err := Listen(t.Context(), "unix:"+path, Options{Flag: "--listen"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// passed makes the files that systemd would pass, with their names.
func passed(t *testing.T) []*os.File {
	t.Helper()
	var files []*os.File
	add := func(name string, f *os.File, err error) {
		if err != nil {
			t.Fatal(err)
		}
		fd, err := syscall.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	f, err := tcp.(*net.TCPListener).File()
	add("relay", f, err)
	f, err = udp.(*net.UDPConn).File()
	add("relay", f, err)
	f, err = second.(*net.TCPListener).File()
	add("spare", f, err)
	f, err = os.Open(os.DevNull)
	add("null", f, err)
	return files
}

func TestInherited(t *testing.T) {
	in := newInherited(passed(t))
	for _, tt := range []struct {
		addr   string
		packet bool
		want   string // a part of the error
	}{
		{"systemd", false, "2 stream sockets fit: relay, spare; hint: give each a FileDescriptorName="},
		{"systemd:other", false, "passed are relay, spare, null, and each can be used once; hint: check ListenStream="},
		{"systemd:spare", true, "spare is no datagram socket; hint: this setting needs ListenDatagram="},
		{"systemd:null", false, "null is no stream socket"},
		{"systemd:relay", false, ""},
		{"systemd:relay", false, "relay is no stream socket"}, // what is left of that name
		{"systemd", true, ""},
		{"systemd", false, ""}, // the only one left
		{"systemd", false, "is no stream socket"},
	} {
		var c io.Closer
		var err error
		if tt.packet {
			c, err = in.PacketConn(tt.addr, "--stun-listen")
		} else {
			c, err = in.Listener(tt.addr, "--listen")
		}
		if err == nil {
			c.Close()
		}
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s, datagrams %v: %v, want %q", tt.addr, tt.packet, err, tt.want)
		}
	}
	if left := in.Close(); len(left) != 1 || left[0] != "null" {
		t.Errorf("left over: %q", left)
	}
	var no *Inherited
	if _, err := no.Listener("systemd", "--listen"); err == nil || !strings.Contains(err.Error(), "hint: start it by a .socket unit") {
		t.Errorf("without systemd: %v", err)
	}
	if left := no.Close(); left != nil {
		t.Errorf("left over without systemd: %q", left)
	}
}

func TestInheritedDoor(t *testing.T) {
	in := newInherited(passed(t))
	defer in.Close()
	d, err := Listen(t.Context(), "systemd:spare", Options{Inherited: in})
	if err != nil {
		t.Fatal(err)
	}
	serveEach(t, d, tellAddress(t))
	if got, local := ask(t, d, "hello"); got != local+" hello" {
		t.Errorf("%q", got)
	}
}
