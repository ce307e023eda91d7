package link

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// rearm makes a socket report again that it is readable, if it still is. So a
// reader that has had a full buffer's worth can wait its turn behind the others.
// Without that a relay at its limit would hardly ever ask the kernel who else has
// sent something: Go does so when no goroutine is left to run, or every 10 ms.
//
// Setting SO_RCVLOWAT, even to what it is, has this effect since Linux 4.18, where
// tcp_set_rcvlowat calls tcp_data_ready. It reports false on older kernels: there
// the reader has to go on by itself.
func rearm(fd int) bool {
	return canRearm() && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1) == nil
}

// canRearm asks the kernel's version once.
var canRearm = sync.OnceValue(func() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	return rearmsSince(unix.ByteSliceToString(u.Release[:]))
})

// rearmsSince reads a kernel release such as 5.10.0-8-amd64.
func rearmsSince(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 4 || major == 4 && minor >= 18
}
