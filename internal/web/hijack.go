package web

import (
	"bufio"
	"errors"
	"net"
	"net/http"
)

// hijackOnce is a ResponseWriter that remembers the connection it gave up.
type hijackOnce struct {
	http.ResponseWriter
	conn *handed // set by Hijack
}

// Hijack takes the connection from net/http, which clears its deadlines.
func (w *hijackOnce) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h, ok := c.(*handed)
	if !ok {
		_ = c.Close() // there is nobody to tell
		return nil, nil, errors.New("the connection was not handed over by ServeConn")
	}
	w.conn = h
	return h, buffered, nil
}
