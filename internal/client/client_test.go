package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/detour-relay/detour/internal/derp"
	"github.com/detour-relay/detour/internal/key"
)

// TestTranscript replays the recorded session: every frame that has no secret
// must leave the client byte for byte, and every frame of the relay be understood.
func TestTranscript(t *testing.T) {
	server, client := serverPriv.Public(), clientPriv.Public()
	c := logged(t, Options{Key: clientPriv, CanAckPings: true}, func(f *fake) {
		f.want("070000000101" + "070000000100" + "1000000000" + "0400000025" + serverPubHex + "68656c6c6f" +
			"0a00000041" + clientPubHex + serverPubHex + "07" + "1100000020" + clientPubHex)
		f.put(string(unhex(f.t, "0500000025"+clientPubHex+"68656c6c6f"+"0600000000"+"0800000021"+clientPubHex+"01"+
			"0900000033"+clientPubHex+"00000000000000000000ffff7f000001aec601"+"13000000083132333435363738"+
			"14000000047369636b1500000008000009c400002710"+serverInfoHex+"12000000083132333435363738")))
		f.want("13000000083132333435363738")
		f.stay()
	})
	for _, err := range []error{
		c.NotePreferred(true), c.NotePreferred(false), c.WatchConns(), c.Send(server, []byte("hello")),
		c.Forward(client, server, []byte{7}), c.ClosePeer(client),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ping := derp.PingData([]byte("12345678"))
	for _, want := range []Message{
		Packet{client, []byte("hello")},
		KeepAlive{},
		PeerGone{client, derp.GoneNotHere},
		PeerPresent{derp.Presence{Key: client, Addr: netip.MustParseAddrPort("127.0.0.1:44742"), Flags: derp.PresentRegular}},
		Pong{ping},
		Health{"sick"},
		Restarting{2500 * time.Millisecond, 10 * time.Second},
		ServerInfo{derp.ServerParams{Version: 2}},
		Ping{ping},
	} {
		if got, err := c.Recv(); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %#v, %v; want %#v", got, err, want)
		}
	}
}

func TestLogin(t *testing.T) {
	mesh, err := key.ParseMesh(strings.Repeat("ab", 32))
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"ordinary": {CanAckPings: true},
		"mesh":     {MeshKey: mesh, IsProber: true, AppName: "test"},
	} {
		o.Plain, o.Key = true, clientPriv
		said := make(chan derp.ClientParams, 1)
		c, err := speak(context.Background(), t, o, func(f *fake) {
			_, params := f.login()
			said <- params
			f.stay()
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c.Close()
		want := derp.ClientParams{Version: 2, MeshKey: o.MeshKey, CanAckPings: o.CanAckPings, IsProber: o.IsProber, AppName: o.AppName}
		if got := <-said; got != want {
			t.Errorf("%s: client says %+v, want %+v", name, got, want)
		}
		if c.ServerKey() != serverPriv.Public() || c.ServerInfo().Version != 2 || c.PublicKey() != clientPriv.Public() || c.FastStarted() {
			t.Errorf("%s: relay %v, info %+v, fast start %v", name, c.ServerKey(), c.ServerInfo(), c.FastStarted())
		}
		if _, ok := c.TLS(); ok {
			t.Errorf("%s: TLS on a plain connection", name)
		}
	}
}

func TestLoginGreetingAndAnswer(t *testing.T) {
	upgrade := func(f *fake) {
		f.request()
		f.put("HTTP/1.1 101 Switching Protocols\r\n\r\n")
	}
	for name, c := range map[string]struct {
		script func(*fake)
		is     error
		says   string
	}{
		"refused": {func(f *fake) { upgrade(f); f.greet(serverPriv.Public()); f.frame() }, io.EOF, "hint: does it admit nodekey:"},
		"no relay": {func(f *fake) {
			f.request()
			f.put("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
		}, nil, "404 Not Found"},
		"no HTTP":      {func(f *fake) { f.request(); f.put("SSH-2.0-x\r\n\r\n") }, nil, "malformed HTTP"},
		"endless head": {func(f *fake) { f.request(); io.WriteString(f, strings.Repeat("x", maxHead+1)) }, nil, "of header"},
		"hangs up":     {func(f *fake) { f.request() }, io.EOF, "read the response"},
		"bad greeting": {func(f *fake) {
			upgrade(f)
			f.put(string(derp.AppendFrame(nil, derp.ServerKey, make([]byte, 40))))
		}, nil, "greeting is not DERP's"},
		"long greeting":  {func(f *fake) { upgrade(f); f.put("\x01\x00\x00\x04\x01") }, derp.ErrLength, ""},
		"wrong greeting": {func(f *fake) { upgrade(f); f.put(string(derp.AppendKeepAlive(nil))) }, nil, "KeepAlive, want ServerKey"},
		"low-order key":  {func(f *fake) { upgrade(f); f.greet(key.Public{}) }, nil, "peer key"},
		"early KeepAlive": {func(f *fake) {
			upgrade(f)
			f.greet(serverPriv.Public())
			f.frame()
			f.put(string(derp.AppendKeepAlive(nil)))
		}, nil, "KeepAlive, want ServerInfo"},
		"wrong answer": {func(f *fake) {
			upgrade(f)
			f.greet(serverPriv.Public())
			f.frame()
			f.put(string(unhex(f.t, serverInfoHex)))
		}, nil, "not sealed"},
	} {
		// Not the key of the transcripts, for which the last answer would be right.
		_, err := speak(context.Background(), t, Options{Plain: true}, c.script)
		if err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDialLimit lets a relay fall silent at each stage.
func TestDialLimit(t *testing.T) {
	for name, c := range map[string]struct {
		o      Options
		script func(*fake)
	}{
		"TLS":       {Options{}, (*fake).stay},
		"response":  {Options{Plain: true}, (*fake).stay},
		"websocket": {Options{Plain: true, WebSocket: true}, (*fake).stay},
		"greeting":  {Options{Plain: true}, func(f *fake) { f.request(); f.put("HTTP/1.1 101 x\r\n\r\n"); f.stay() }},
		"answer": {Options{Plain: true}, func(f *fake) {
			f.request()
			f.put("HTTP/1.1 101 x\r\n\r\n")
			f.greet(serverPriv.Public())
			f.stay()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				_, err := speak(context.Background(), t, c.o, c.script)
				if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != dialLimit {
					t.Errorf("after %v: %v", took, err)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				start := time.Now()
				_, err := speak(ctx, t, c.o, c.script)
				if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
					t.Errorf("with a shorter limit, after %v: %v", took, err)
				}
			})
		})
	}
}

func TestDialFails(t *testing.T) {
	broken := errors.New("broken")
	_, err := Dial(context.Background(), Options{Host: "relay.example", DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
		if network != "tcp" || addr != "relay.example:443" {
			t.Errorf("dials %s %s", network, addr)
		}
		return nil, broken
	}})
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

// TestSilence checks that any frame, and nothing else, buys a relay 120 seconds.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := logged(t, Options{}, func(f *fake) {
			time.Sleep(readLimit - 1)
			f.put(string(derp.AppendKeepAlive(nil)))
			f.stay()
		})
		start := time.Now()
		if m, err := c.Recv(); err != nil || m != (KeepAlive{}) {
			t.Fatal(m, err)
		}
		_, err := c.Recv()
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != 2*readLimit-1 {
			t.Errorf("after %v: %v", took, err)
		}
		if err := c.Send(key.Public{1}, nil); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("send on a broken connection: %v", err)
		}
	})
}

// TestStuckWrite lets the relay stop reading.
func TestStuckWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := logged(t, Options{}, func(*fake) { <-release })
		defer close(release)
		start := time.Now()
		err := c.Send(key.Public{1}, []byte("x"))
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != writeLimit {
			t.Errorf("after %v: %v", took, err)
		}
		if err := c.NotePreferred(true); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a second write, after half of the first: %v", err)
		}
	})
}

func TestSendTooLarge(t *testing.T) {
	c := logged(t, Options{}, func(f *fake) {
		if typ, body := f.frame(); typ != derp.SendPacket || len(body) != key.Size+derp.MaxPacket {
			f.fail("%v of %d bytes", typ, len(body))
		}
		f.stay()
	})
	if c.Send(key.Public{1}, make([]byte, derp.MaxPacket+1)) == nil || c.Forward(key.Public{1}, key.Public{2}, make([]byte, derp.MaxPacket+1)) == nil {
		t.Error("a packet above the limit was sent")
	}
	if err := c.Send(key.Public{1}, make([]byte, derp.MaxPacket)); err != nil {
		t.Error(err)
	}
}

// TestConcurrentSend checks that frames of several senders stay whole.
func TestConcurrentSend(t *testing.T) {
	const senders, each = 8, 50
	counted := make(chan map[key.Public]int, 1)
	c := logged(t, Options{}, func(f *fake) {
		count := make(map[key.Public]int)
		for range senders * each {
			typ, body := f.frame()
			if typ != derp.SendPacket {
				f.fail("got %v", typ)
				break
			}
			to, packet := derp.ParsePacket(body)
			if strings.Trim(string(packet), string(to[:1])) == "" {
				count[to]++
			}
		}
		counted <- count
		f.stay()
	})
	var all sync.WaitGroup
	for i := range senders {
		all.Go(func() {
			for n := range each {
				if err := c.Send(key.Public{'a' + byte(i)}, []byte(strings.Repeat(string(rune('a'+i)), n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for k, n := range <-counted {
		if n != each {
			t.Errorf("%d of %d packets to %v arrived whole", n, each, k)
		}
	}
}

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := logged(t, Options{}, func(f *fake) {
			_, body := f.frame()
			time.Sleep(30 * time.Millisecond)
			other := derp.PingData{1}
			f.put(string(derp.AppendPong(derp.AppendPong(nil, other), derp.ParsePing(body))))
			f.put(string(derp.AppendPong(nil, derp.ParsePing(body)))) // nobody waits for a second one
			f.frame()                                                 // never answered
			f.stay()
		})
		ended := make(chan error)
		go func() {
			for {
				if _, err := c.Recv(); err != nil {
					ended <- err
					return
				}
			}
		}()
		if d, err := c.Ping(t.Context()); err != nil || d != 30*time.Millisecond {
			t.Errorf("ping took %v, %v", d, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ping without a pong: %v", err)
		}
		time.AfterFunc(time.Second, func() { c.Close() })
		if _, err := c.Ping(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("ping on a client that is closed meanwhile: %v", err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("receive after close: %v", err)
		}
		if len(c.pings) != 0 {
			t.Errorf("%d pings are waited for still", len(c.pings))
		}
	})
}

func TestPingsAreAcked(t *testing.T) {
	for _, ack := range []bool{true, false} {
		answer := make(chan derp.FrameType, 1)
		c := logged(t, Options{CanAckPings: ack}, func(f *fake) {
			f.put(string(derp.AppendPing(nil, derp.PingData{9})))
			next, _ := f.frame()
			answer <- next
		})
		if m, err := c.Recv(); err != nil || m != (Ping{derp.PingData{9}}) {
			t.Errorf("got %v, %v", m, err)
		}
		if !ack {
			if err := c.NotePreferred(false); err != nil { // what the relay sees in place of a Pong
				t.Error(err)
			}
		}
		if got, want := <-answer, map[bool]derp.FrameType{true: derp.Pong, false: derp.NotePreferred}[ack]; got != want {
			t.Errorf("answer to a ping is %v, want %v", got, want)
		}
	}
}

func TestOddFrames(t *testing.T) {
	skipped := derp.AppendFrame(nil, 0x99, make([]byte, derp.MaxSkip))
	skipped = derp.AppendFrame(skipped, derp.SendPacket, nil) // of no business to a client, whatever its length
	skipped = derp.AppendServerKey(skipped, key.Public{})
	for name, c := range map[string]struct {
		frames string
		want   error
	}{
		"skipped":         {string(derp.AppendHeader(skipped, derp.RecvPacket, 1)), derp.ErrLength},
		"long packet":     {"\x05\x00\x10\x00\x01", derp.ErrLength},
		"long unknown":    {"\x99\x00\x10\x00\x01", derp.ErrLength},
		"short gone":      {"\x08\x00\x00\x00\x1f", derp.ErrLength},
		"cut header":      {"\x08\x00", io.ErrUnexpectedEOF},
		"cut body":        {"\x14\x00\x00\x00\x02x", io.ErrUnexpectedEOF},
		"no body":         {"\x14\x00\x00\x00\x02", io.ErrUnexpectedEOF},
		"cut unknown":     {"\x99\x00\x00\x00\x02x", io.ErrUnexpectedEOF},
		"unknown, no end": {"\x99\x00\x00\x00\x02", io.ErrUnexpectedEOF},
		"end":             {"", io.EOF},
	} {
		client := logged(t, Options{}, func(f *fake) { f.put(c.frames) })
		if m, err := client.Recv(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, m, err, c.want)
		}
		if _, err := client.Recv(); !errors.Is(err, c.want) {
			t.Errorf("%s: the reason has become %v", name, err)
		}
	}
}

func TestServerInfoLater(t *testing.T) {
	c := logged(t, Options{Key: clientPriv}, func(f *fake) {
		s, _ := serverPriv.Shared(clientPriv.Public())
		frame, _ := derp.AppendServerInfo(nil, s, derp.ServerParams{Version: 2, TokenBucketBytesPerSecond: 100})
		f.put(string(frame))
		f.put(string(derp.AppendFrame(nil, derp.ServerInfo, make([]byte, 60))))
	})
	if m, err := c.Recv(); err != nil || c.ServerInfo().TokenBucketBytesPerSecond != 100 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := c.Recv(); err == nil {
		t.Error("a ServerInfo from nobody was taken")
	}
}

func TestClose(t *testing.T) {
	c := logged(t, Options{}, (*fake).stay)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := c.WatchConns(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := c.Recv(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
