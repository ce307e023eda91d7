//go:build unix

package admin

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/detour-relay/detour/internal/unixsock"
)

func mustListen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}

// stale leaves a socket behind as a killed relay does.
func stale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	l := mustListen(t, "unix:"+path)
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Fatalf("socket %v, %v, want mode 0600", info.Mode(), err)
	}
	if got := l.Addr(); got.Network() != "unix" || got.String() != path {
		t.Errorf("address %s %s", got.Network(), got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("directory holds %v, %v, want the socket alone", left, err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("socket after close: %v", err)
	}
	if err := l.Close(); err == nil {
		t.Error("a second close succeeded")
	}
}

// The mode must not come from the umask: 0 would leave the socket open to all.
func TestSocketUmask(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "admin.sock")
	mustListen(t, "unix:"+path)
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v, want mode 0600", info.Mode(), err)
	}
}

func TestLiveSocketStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	mustListen(t, "unix:"+path)
	_, err := Listen("unix:" + path)
	wantError(t, err, "another relay is running with this state directory", path, "; hint: ")
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the running relay lost its socket: %v", err)
	}
	conn.Close()
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	stale(t, path)
	mustListen(t, "unix:"+path)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestOtherFilesStay(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	stale(t, filepath.Join(dir, "sock"))
	if err := os.Symlink("sock", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir} {
		_, err := Listen("unix:" + path)
		wantError(t, err, "is not a socket", "; hint: ")
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "precious" {
		t.Errorf("file now holds %q, %v", got, err)
	}
}

func TestCloseLeavesAnothersSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	first := mustListen(t, "unix:"+path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	mustListen(t, "unix:"+path)
	first.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("closing the first listener took the second one's socket: %v", err)
	}
	conn.Close()
}

func TestListenErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := Listen("unix:" + filepath.Join(dir, "missing", "admin.sock"))
	wantError(t, err, "missing", "; hint: make that directory")

	// Fits itself, but the name it is bound under at first does not.
	short := filepath.Join(dir, strings.Repeat("d", unixsock.MaxPath-len(dir)-3))
	if err := os.Mkdir(short, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Listen("unix:" + filepath.Join(short, "a"))
	wantError(t, err, "this system allows", "; hint: ")
	if left, err := os.ReadDir(short); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	tcp := mustListen(t, "127.0.0.1:0")
	_, err = Listen(tcp.Addr().String())
	wantError(t, err, "another program has this port", "; hint: ")
}

// TestProfiles: the owner can look into the process, a loopback port shows nothing.
func TestProfiles(t *testing.T) {
	s := onUnix(t, Options{})
	start(t, s)
	for path, part := range map[string]string{
		"allocs?debug=1": "# Mallocs = ", "goroutine?debug=1": "goroutine profile: total", "heap": "\x1f\x8b",
		"profile?seconds=1": "\x1f\x8b",
	} {
		if _, body := ask(t, s, "GET "+profilePath+path+" HTTP/1.1\nHost: detour\nConnection: close\n\n"); !strings.Contains(body, part) {
			t.Errorf("%s: got %.80q, want %q in it", path, body, part)
		}
	}
	open := onTCP(t, Options{})
	start(t, open)
	if resp, _ := ask(t, open, "GET "+profilePath+"heap HTTP/1.1\nHost: localhost\nConnection: close\n\n"); resp.StatusCode != 404 {
		t.Errorf("over TCP: status %d, want 404", resp.StatusCode)
	}
}
