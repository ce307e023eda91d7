package link

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRearmsSince(t *testing.T) {
	for release, want := range map[string]bool{
		"3.10.0-1160.el7.x86_64": false, "4.4.0": false, "4.17.19": false, "4.18.0-553.el8": true,
		"5.10.0-8-amd64": true, "6.18": true, "10.0": true, "": false, "weird": false,
	} {
		if got := rearmsSince(release); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}

// TestRearm leaves bytes in a socket after its event was consumed: only rearm can
// bring another. The deadline is the failure.
func TestRearm(t *testing.T) {
	if !canRearm() {
		t.Skip("SKIPPED: this kernel cannot rearm, so the fast form does not try")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := client.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(20 * time.Second))
	raw, err := server.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	reads := 0
	err = raw.Read(func(fd uintptr) bool {
		var b [10]byte
		n, _ := unix.Read(int(fd), b[:])
		if n > 0 {
			reads++
		}
		return reads == 10 || !rearm(int(fd))
	})
	if err != nil || reads != 10 {
		t.Errorf("%d reads, %v", reads, err)
	}
}
