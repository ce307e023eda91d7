package link

import "net"

// resumed is a connection of which the first bytes have been read already.
type resumed struct {
	net.Conn
	ahead []byte // Owned by the reading goroutine.
}

func (r *resumed) Read(p []byte) (int, error) {
	if len(r.ahead) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.ahead)
	if r.ahead = r.ahead[n:]; len(r.ahead) == 0 {
		r.ahead = nil
	}
	return n, nil
}
