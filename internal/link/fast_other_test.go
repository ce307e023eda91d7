//go:build !linux

package link

import (
	"crypto/tls"
	"net"
)

func moreForms() map[string]func(net.Conn, *tls.Config) *Conn { return nil }
