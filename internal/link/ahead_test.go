package link

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// What was read before Accept reaches TLS in both forms, wherever it was cut: in
// a record's header, within one, or beyond the end of the first.
func TestAcceptAhead(t *testing.T) {
	forms := map[string]func(net.Conn) net.Conn{
		"default":  func(c net.Conn) net.Conn { return c },
		"portable": func(c net.Conn) net.Conn { return struct{ net.Conn }{c} },
	}
	for name, form := range forms {
		for _, first := range []int{0, 1, 4, 5, 6, 100, 4 << 10} {
			t.Run(name, func(t *testing.T) {
				ours, peer := tcp(t)
				client := tls.Client(peer, &tls.Config{InsecureSkipVerify: true})
				done := make(chan error, 1)
				go func() {
					_, err := client.Write([]byte("hello"))
					done <- err
				}()
				ahead := make([]byte, first)
				n, err := io.ReadAtLeast(ours, ahead, min(first, 100)) // the ClientHello is longer than 100
				if err != nil {
					t.Fatal(err)
				}
				c := AcceptAhead(form(ours), serverConfig(t), ahead[:n])
				t.Cleanup(func() { c.raw.Close() })
				checkAhead(t, c, client, done)
			})
		}
	}
}

func checkAhead(t *testing.T, c *Conn, client *tls.Conn, done chan error) {
	t.Helper()
	if err := c.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []byte
	err := c.Fill(func(b []byte) (int, bool, error) {
		got = append(got, b...)
		return len(b), len(got) >= len("hello"), nil
	})
	if err != nil || string(got) != "hello" {
		t.Fatalf("read %q, %v", got, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := c.Seal([]byte("back")); err != nil {
		t.Fatal(err)
	}
	for ready := false; !ready; {
		if ready, err = c.Flush(); err != nil {
			t.Fatal(err)
		}
		if !ready {
			if err := c.WaitWritable(time.Minute); err != nil {
				t.Fatal(err)
			}
		}
	}
	back := make([]byte, 4)
	if _, err := io.ReadFull(client, back); err != nil || string(back) != "back" {
		t.Errorf("the client read %q, %v", back, err)
	}
}

func TestAcceptAheadWithoutTLS(t *testing.T) {
	ours, peer := tcp(t)
	c := AcceptAhead(ours, nil, []byte("ab"))
	if _, err := peer.Write([]byte("cd")); err != nil {
		t.Fatal(err)
	}
	var got []byte
	err := c.Fill(func(b []byte) (int, bool, error) {
		got = append(got, b...)
		return len(b), slices.Contains(got, 'd'), nil
	})
	if err != nil || string(got) != "abcd" {
		t.Errorf("read %q, %v", got, err)
	}
}
