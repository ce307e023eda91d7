//go:build !linux

package link

import (
	"crypto/tls"
	"net"
)

// acceptFast: there is no fast form here.
func acceptFast(net.Conn, *tls.Config) *Conn { return nil }
