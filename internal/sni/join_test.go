package sni

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// ends is a connection in memory whose writing side can be closed by itself. Each
// direction is a pipe of its own.
type ends struct {
	net.Conn          // reads, and the deadlines of that
	out      net.Conn // writes
}

func (e ends) Write(p []byte) (int, error) { return e.out.Write(p) }
func (e ends) CloseWrite() error           { return e.out.Close() }
func (e ends) Close() error {
	_ = e.out.Close() // a pipe's never fails
	return e.Conn.Close()
}

func pair() (a, b ends) {
	r1, w1 := net.Pipe()
	r2, w2 := net.Pipe()
	return ends{r1, w2}, ends{r2, w1}
}

// joined is a router's two connections, seen from outside.
type joined struct {
	*Router
	client, site ends
	done         chan struct{}
}

func join(t *testing.T) *joined {
	client, in := pair()
	out, site := pair()
	j := &joined{Router: New(Options{}), client: client, site: site, done: make(chan struct{})}
	go func() {
		defer close(j.done)
		j.join(t.Context(), in, out)
	}()
	t.Cleanup(func() { client.Close(); site.Close(); <-j.done })
	synctest.Wait() // a pipe takes no deadline once its other end is closed, as TCP does
	return j
}

// say passes a byte from one to the other.
func say(t *testing.T, from, to ends) {
	t.Helper()
	go from.Write([]byte{1})
	if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// lasts checks that a connection on which nothing moves ends between least and two
// turns after that.
func (j *joined) lasts(t *testing.T, least time.Duration) {
	t.Helper()
	began := time.Now()
	<-j.done
	if got := time.Since(began); got < least || got > least+2*turnLimit {
		t.Errorf("it ended after %v, want %v and %v more at most", got, least, 2*turnLimit)
	}
	if got := j.Stats().Idle; got != 1 {
		t.Errorf("%d idle, want 1", got)
	}
	if _, err := j.client.Read(make([]byte, 1)); err == nil {
		t.Error("the client is not told")
	}
}

func TestIdleEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { join(t).lasts(t, idleLimit) })
}

// A byte in either direction, at the last moment, counts for both.
func TestABytePreventsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t)
		for range 5 {
			time.Sleep(idleLimit - time.Second)
			say(t, j.client, j.site)
			time.Sleep(idleLimit - time.Second)
			say(t, j.site, j.client)
		}
		j.lasts(t, idleLimit)
	})
}

func TestHalfClosed(t *testing.T) {
	for name, from := range map[string]func(*joined) (ended, other ends){
		"the client's end": func(j *joined) (ended, other ends) { return j.client, j.site },
		"the site's end":   func(j *joined) (ended, other ends) { return j.site, j.client },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := join(t)
				ended, other := from(j)
				_ = ended.CloseWrite()
				if _, err := other.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Fatalf("the other side reads %v, want the end", err)
				}
				for range 100 { // what goes on is not cut
					time.Sleep(halfLimit - time.Second)
					say(t, other, ended)
				}
				j.lasts(t, halfLimit)
			})
		})
	}
}

func TestBothEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t)
		_, _ = j.client.CloseWrite(), j.site.CloseWrite()
		<-j.done
		if st := j.Stats(); st.Idle != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

// Turns lose nothing, over real TCP too, where the kernel copies.
func TestTurnsLoseNothing(t *testing.T) {
	client, in := tcpPair(t)
	out, site := tcpPair(t)
	r := New(Options{})
	done := make(chan struct{})
	go func() { defer close(done); r.join(context.Background(), in, out) }()
	sent := bytes.Repeat([]byte("0123456789abcde"), 100_000) // no multiple of a turn
	go func() {
		_, _ = client.Write(sent)
		_ = client.CloseWrite()
	}()
	got, err := io.ReadAll(site)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes of %d: %v", len(got), len(sent), err)
	}
	go func() {
		_, _ = site.Write(sent)
		_ = site.CloseWrite()
	}()
	if got, err = io.ReadAll(client); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("back: %d bytes of %d: %v", len(got), len(sent), err)
	}
	<-done
	if st := r.Stats(); st.BytesClients != uint64(len(sent)) || st.BytesTargets != uint64(len(sent)) || st.Idle != 0 {
		t.Errorf("stats %+v", st)
	}
}

func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	taken, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{dialled, taken} {
		_ = c.SetDeadline(time.Now().Add(time.Minute)) // a failing test must end
		t.Cleanup(func() { c.Close() })
	}
	return dialled.(*net.TCPConn), taken.(*net.TCPConn)
}
