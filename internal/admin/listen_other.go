//go:build !unix

package admin

import (
	"fmt"
	"net"
)

// listenUnix refuses: a file mode would keep nobody out on this system.
func listenUnix(path string) (net.Listener, error) {
	return nil, fmt.Errorf("admin: socket %s: this system cannot restrict a unix socket to one user; "+
		"hint: use --admin-listen 127.0.0.1:PORT", path)
}
