package bench

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/detour-relay/detour/internal/client"
	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRelay forwards packets between clients over net.Pipe, and does to them
// what a relay must not.
type fakeRelay struct {
	t   *testing.T
	key key.Private
	// meddle is given each packet that was sent while measuring, and returns what
	// arrives in its place. nil: the packet itself.
	meddle func(s stamp, packet []byte) [][]byte
	// refuses hangs up at the login.
	refuses bool
	// until is how many frames each client may send; then deaf stops reading, and
	// otherwise the relay hangs up. 0: no bound.
	until int
	deaf  bool
	// cutsTo hangs up on whom a packet of that size is for, cutsFrom on who sends it.
	cutsTo, cutsFrom int

	mu    sync.Mutex
	peers map[key.Public]*fakePeer // Guarded by mu.
}

// fakePeer is who is logged in. turn has room for the one that writes to it: to
// wait for a mutex, as net.Pipe would, stops the clock of a bubble.
type fakePeer struct {
	net.Conn
	turn chan struct{}
}

// target is a Target that leads to r; its address is never used.
func (r *fakeRelay) target(t *testing.T) Target {
	r.t, r.key, r.peers = t, key.NewPrivate(), make(map[key.Public]*fakePeer)
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	return Target{Client: client.Options{
		Host: "127.0.0.1", Plain: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			serving.Go(func() {
				defer theirs.Close()
				r.serve(theirs)
			})
			return ours, nil
		},
	}}
}

func (r *fakeRelay) serve(c net.Conn) {
	in := bufio.NewReader(c)
	if _, err := http.ReadRequest(in); err != nil {
		return
	}
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
	c.Write(derp.AppendServerKey(nil, r.key.Public()))
	_, body, err := readFrame(in)
	if err != nil || r.refuses {
		return
	}
	who, _, err := derp.ParseClientInfo(body)
	if err != nil {
		r.t.Errorf("login: %v", err)
		return
	}
	shared, err := r.key.Shared(who)
	if err != nil {
		r.t.Errorf("login: %v", err)
		return
	}
	hello, err := derp.AppendServerInfo(nil, shared, derp.ServerParams{Version: derp.ProtocolVersion})
	if err != nil {
		r.t.Errorf("login: %v", err)
		return
	}
	r.mu.Lock()
	r.peers[who] = &fakePeer{c, make(chan struct{}, 1)}
	r.mu.Unlock()
	c.Write(hello)
	r.forward(who, in)
	if r.deaf {
		io.Copy(io.Discard, gone{c})
	}
}

// gone waits for the other end of a pipe to hang up without reading from it.
type gone struct{ net.Conn }

func (g gone) Read([]byte) (int, error) {
	for {
		if _, err := g.Write(derp.AppendKeepAlive(nil)); err != nil {
			return 0, io.EOF
		}
		time.Sleep(time.Second) // of the bubble
	}
}

func (r *fakeRelay) forward(from key.Public, in *bufio.Reader) {
	for n := 1; r.until == 0 || n <= r.until; n++ {
		kind, body, err := readFrame(in)
		if err != nil {
			return
		}
		if kind != derp.SendPacket {
			continue
		}
		to, packet := derp.ParsePacket(body)
		s, ok := parseStamp(packet)
		if !ok {
			r.t.Errorf("packet %d is not one of bench's", n)
		}
		packets := [][]byte{packet}
		if r.meddle != nil && s.measured {
			packets = r.meddle(s, packet)
		}
		r.mu.Lock()
		c := r.peers[to]
		r.mu.Unlock()
		switch len(packet) {
		case r.cutsTo:
			c.Close()
		case r.cutsFrom:
			return
		}
		c.turn <- struct{}{}
		for _, p := range packets {
			c.Write(derp.AppendRecvPacket(nil, from, p))
		}
		<-c.turn
	}
}

func readFrame(in io.Reader) (derp.FrameType, []byte, error) {
	var h [derp.HeaderSize]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return 0, nil, err
	}
	t, n, _ := derp.ParseHeader(h[:])
	body := make([]byte, n)
	_, err := io.ReadFull(in, body)
	return t, body, err
}
