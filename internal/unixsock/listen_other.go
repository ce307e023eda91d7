//go:build !unix

package unixsock

import (
	"io/fs"
	"net"
)

// Listen refuses: a file mode would keep nobody out on this system.
func Listen(string, fs.FileMode) (net.Listener, error) { return nil, ErrNoMode }
