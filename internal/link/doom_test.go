package link

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestDoomEndsABlockedFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t)
		ended := make(chan error, 1)
		go func() { ended <- c.Fill(func(b []byte) (int, bool, error) { return len(b), false, nil }) }()
		if _, err := peer.Write([]byte("some")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("Fill ended by itself: %v", err)
		default:
		}
		c.Doom()
		c.Doom() // once more does nothing
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Fill: %v", err)
		}
	})
}

func TestDoomedFillDoesNotStart(t *testing.T) {
	c, _ := pipe(t)
	c.Unread([]byte("there is something to read"))
	c.Doom()
	err := c.Fill(func([]byte) (int, bool, error) { t.Error("a turn"); return 0, true, nil })
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("Fill: %v", err)
	}
}

func TestDoomEndsABlockedWait(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := pipe(t)
			if err := c.Seal([]byte("nobody reads")); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- c.WaitWritable(timeout) }()
			synctest.Wait()
			start := time.Now()
			c.Doom()
			if err := <-ended; err == nil {
				t.Error("WaitWritable says that it has written")
			}
			if waited := time.Since(start); waited != 0 {
				t.Errorf("it went on for %v", waited)
			}
		})
	}
}

// doomedMeanwhile is doomed at the worst moment: after the flusher has looked,
// and before its deadline replaces Doom's.
type doomedMeanwhile struct {
	net.Conn
	link *Conn
}

func (d *doomedMeanwhile) SetWriteDeadline(t time.Time) error {
	d.link.Doom()
	return d.Conn.SetWriteDeadline(t)
}

func TestDoomBeforeTheWaitsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer, ours := net.Pipe()
		defer peer.Close()
		defer ours.Close()
		conn := &doomedMeanwhile{Conn: ours}
		c := Over(conn)
		conn.link = c
		if err := c.Seal([]byte("nobody reads")); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := c.WaitWritable(time.Hour); err == nil {
			t.Error("no error")
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("the wait's deadline undid Doom's for %v", waited)
		}
	})
}

// The same by chance, for the race detector.
func TestDoomRacesWithWaitAndFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		for range 500 {
			c, peer := pipe(t)
			if err := c.Seal([]byte("nobody reads")); err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			all.Go(func() {
				for c.WaitWritable(time.Hour) == nil {
				}
			})
			all.Go(func() { c.Fill(func(b []byte) (int, bool, error) { return len(b), false, nil }) })
			all.Go(c.Doom)
			all.Go(c.Doom)
			all.Wait()
			c.Close()
			peer.Close()
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("somebody waited for a deadline: %v", waited)
		}
	})
}

// A peer that reads nothing fills both sockets. Doom frees whoever writes to it,
// and Close does not wait to say goodbye.
func TestDoomFreesAStuckTLSWriter(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			c, _ := secure(t, version)
			const enough = 64 << 20 // bytes; more than the sockets of both sides hold
			frames := make([]byte, enough)
			if err := c.Seal(frames); err != nil {
				t.Fatal(err)
			}
			ended, begun := make(chan error, 1), make(chan struct{})
			go func() {
				for first := true; ; first = false {
					if err := c.WaitWritable(0); err != nil {
						ended <- err
						return
					}
					if first {
						close(begun)
					}
				}
			}()
			<-begun
			c.Doom()
			if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
				t.Errorf("WaitWritable: %v", err)
			}
			start := time.Now()
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if took := time.Since(start); took > 3*time.Second { // crypto/tls gives its farewell 5 s
				t.Errorf("Close took %v", took)
			}
		})
	}
}

func TestDoomEndsABlockedTLSFill(t *testing.T) {
	c, peer := secure(t, tls.VersionTLS13)
	ended, begun := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- c.Fill(func(b []byte) (int, bool, error) {
			close(begun)
			return len(b), false, nil
		})
	}()
	if _, err := peer.Write([]byte("one")); err != nil {
		t.Fatal(err)
	}
	<-begun
	c.Doom()
	if err := <-ended; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Fill: %v", err)
	}
}
