package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// checkEvery stands for the relay's sweeper, which calls Check once a second.
const checkEvery = time.Millisecond

// fillChecked is Fill beside a sweeper. It gives up after what is for ever here.
func fillChecked(c *Conn, turn Turn) error {
	ended := make(chan error, 1)
	go func() { ended <- c.Fill(turn) }()
	sweep := time.NewTicker(checkEvery)
	defer sweep.Stop()
	forever := time.After(20 * time.Second)
	for {
		select {
		case err := <-ended:
			return err
		case <-sweep.C:
			c.Check()
		case <-forever:
			c.Doom()
			return fmt.Errorf("the connection lingers; doomed, it ends with: %w", <-ended)
		}
	}
}

// ending is one way for a peer to leave.
type ending struct {
	name string
	end  func(peer net.Conn) error
	cut  bool // not said by the peer but done to the socket
	rst  bool // the kernel may throw away what came before
}

func endings() []ending {
	return []ending{
		{name: "goodbye", end: net.Conn.Close},
		{name: "FIN", end: func(peer net.Conn) error { return socket(peer).Close() }, cut: true},
		{name: "half-close", end: func(peer net.Conn) error { return socket(peer).CloseWrite() }, cut: true},
		{name: "reset", end: func(peer net.Conn) error {
			if err := socket(peer).SetLinger(0); err != nil {
				return err
			}
			return socket(peer).Close()
		}, cut: true, rst: true},
	}
}

// wholeUsed is a turn that uses frames of the form "whole" and no others.
func wholeUsed(b []byte) (int, bool, error) {
	n := 0
	for len(b)-n >= 5 && string(b[n:n+5]) == "whole" {
		n += 5
	}
	return n, false, nil
}

// The end of the stream is told from one within a frame, said goodbye or not:
// many clients just hang up. What is sent is all there, together with the end,
// before Fill looks: no event tells of the end alone, and only Check finds it.
func TestEndWithData(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		for _, e := range endings() {
			for sent, want := range map[string]error{"whole": io.EOF, "wholepart": io.ErrUnexpectedEOF} {
				t.Run(e.name+" after "+sent, func(t *testing.T) {
					c, peer := k.open(t)
					if _, err := io.WriteString(peer, sent); err != nil {
						t.Fatal(err)
					}
					if err := e.end(peer); err != nil {
						t.Fatal(err)
					}
					err := fillChecked(c, wholeUsed)
					if !errors.Is(err, want) && !(e.rst && errors.Is(err, syscall.ECONNRESET)) {
						t.Errorf("Fill: %v, want %v", err, want)
					}
				})
			}
		}
	})
}

// The same while Fill waits: the end then is an event of its own.
func TestEndWhileWaiting(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		for _, e := range endings() {
			t.Run(e.name, func(t *testing.T) {
				c, peer := k.open(t)
				got, ended := make(chan struct{}, 1), make(chan error, 1)
				go func() {
					ended <- c.Fill(func(b []byte) (int, bool, error) {
						got <- struct{}{}
						return len(b), false, nil
					})
				}()
				if _, err := io.WriteString(peer, "whole"); err != nil {
					t.Fatal(err)
				}
				<-got
				c.Check() // one that finds nothing must not hide what comes next
				if err := e.end(peer); err != nil {
					t.Fatal(err)
				}
				// The event may still have come together with the data, so one more look.
				sweep := time.NewTicker(time.Second)
				defer sweep.Stop()
				for checks := 0; ; checks++ {
					select {
					case err := <-ended:
						if !errors.Is(err, io.EOF) && !(e.rst && errors.Is(err, syscall.ECONNRESET)) {
							t.Errorf("Fill: %v", err)
						}
						return
					case <-sweep.C:
						if checks == 2 {
							t.Fatal("the connection lingers")
						}
						c.Check()
					}
				}
			})
		}
	})
}

// recordedOf returns the bytes that a client's TLS makes of b.
func recordedOf(t *testing.T, k kind, prepare func(peer *tls.Conn, write func([]byte))) (c *Conn, peer *net.TCPConn) {
	t.Helper()
	ours, raw := tcp(t)
	tap := &tapped{Conn: raw}
	c, client := shake(t, k.accept(ours, serverConfig(t)), tls.Client(tap, &tls.Config{
		InsecureSkipVerify: true, MinVersion: k.version, MaxVersion: k.version,
	}))
	tap.hold = true
	prepare(client, func(b []byte) {
		if _, err := raw.Write(b); err != nil {
			t.Fatal(err)
		}
	})
	return c, raw.(*net.TCPConn)
}

// tapped is a connection that keeps what is written, when hold is set.
type tapped struct {
	net.Conn
	hold bool
	held []byte
}

func (p *tapped) Write(b []byte) (int, error) {
	if p.hold {
		p.held = append(p.held, b...)
		return len(b), nil
	}
	return p.Conn.Write(b)
}

// An end in the middle of a record, wherever that is, ends Fill with an error,
// after what was whole has been used.
func TestEndWithinARecord(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		if k.version == 0 || k.suites != nil {
			t.Skip("has no records of its own")
		}
		for _, e := range endings() {
			if !e.cut {
				continue
			}
			for _, part := range []int{1, 4, 5, 6, 40} {
				t.Run(fmt.Sprint(e.name, " after ", part), func(t *testing.T) {
					c, peer := recordedOf(t, k, func(client *tls.Conn, write func([]byte)) {
						tap := client.NetConn().(*tapped)
						io.WriteString(client, "whole")
						first := len(tap.held)
						client.Write(pattern(100))
						write(tap.held[:first+part])
					})
					if err := e.end(peer); err != nil {
						t.Fatal(err)
					}
					used := 0
					err := fillChecked(c, func(b []byte) (int, bool, error) {
						used += len(b)
						return len(b), false, nil
					})
					if !errors.Is(err, io.ErrUnexpectedEOF) && !(e.rst && errors.Is(err, syscall.ECONNRESET)) {
						t.Errorf("Fill: %v", err)
					}
					if used != len("whole") && !e.rst {
						t.Errorf("%d bytes were used", used)
					}
				})
			}
		}
	})
}

// What is no record ends the connection, at once and with an error.
func TestMalformedRecord(t *testing.T) {
	for name, bad := range map[string]string{
		"too long":       "\x17\x03\x03\xff\xff",
		"over the bound": "\x17\x03\x03\x48\x01",
		"no TLS":         "GET / HTTP/1.1\r\n\r\n" + string(make([]byte, 32<<10)),
		"not encrypted":  "\x17\x03\x03\x00\x20" + string(make([]byte, 0x20)),
		"empty":          "\x17\x03\x03\x00\x00",
		"other version":  "\x17\x02\x02\x00\x01x",
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, k kind) {
				if k.version == 0 {
					t.Skip("no TLS")
				}
				c, peer := k.open(t)
				io.WriteString(peer, "whole")
				if _, err := io.WriteString(socket(peer), bad); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- c.Fill(wholeUsed) }()
				select {
				case err := <-ended:
					if err == nil || errors.Is(err, io.EOF) {
						t.Errorf("Fill: %v", err)
					}
				case <-time.After(10 * time.Second):
					t.Error("Fill goes on")
					c.Doom()
					<-ended
				}
			})
		})
	}
}
