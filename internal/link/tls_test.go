package link

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"testing"
	"time"
)

func TestBothWays(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		c, peer := k.open(t)
		if state, ok := c.TLS(); ok != (k.version != 0) || state.Version != k.version || state.HandshakeComplete != ok {
			t.Errorf("TLS: version %x, complete %v, %v", state.Version, state.HandshakeComplete, ok)
		} else if k.suites != nil && state.CipherSuite != k.suites[0] {
			t.Errorf("TLS: suite %s", tls.CipherSuiteName(state.CipherSuite))
		}
		want := pattern(100 << 10)
		echoed := make(chan []byte, 1)
		go func() {
			back := make([]byte, len(want))
			all := make(chan struct{})
			go func() { defer close(all); io.ReadFull(peer, back) }()
			peer.Write(want)
			<-all
			echoed <- back
			peer.Close()
		}()
		err := fillChecked(c, func(batch []byte) (int, bool, error) { return len(batch), false, send(c, batch) })
		if !errors.Is(err, io.EOF) {
			t.Errorf("Fill: %v", err)
		}
		if !bytes.Equal(<-echoed, want) {
			t.Error("the peer got back something else")
		}
	})
}

func send(c *Conn, frames []byte) error {
	if err := c.Seal(frames); err != nil {
		return err
	}
	for done, _ := c.Flush(); !done; done, _ = c.Flush() {
		if err := c.WaitWritable(time.Minute); err != nil {
			return err
		}
	}
	return nil
}

func TestCloseSaysGoodbyeUnlessDoomed(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, doomed := range []bool{false, true} {
			c, peer := secure(t, version)
			if doomed {
				c.Doom()
			}
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			// Under TLS, where the farewell is a record of its own.
			farewell, err := io.ReadAll(peer.NetConn())
			if err != nil || (len(farewell) == 0) != doomed {
				t.Errorf("%s, doomed %v: %d bytes came, %v", tls.VersionName(version), doomed, len(farewell), err)
			}
		}
	}
}

func TestPlainHasNoTLS(t *testing.T) {
	ours, peer := tcp(t)
	c := Accept(ours, nil)
	if err := c.Handshake(t.Context()); err != nil {
		t.Errorf("Handshake: %v", err)
	}
	if _, ok := c.TLS(); ok {
		t.Error("it says that it speaks TLS")
	}
	if err := send(c, []byte("as it is")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(peer); err != nil || string(got) != "as it is" {
		t.Errorf("the peer read %q, %v", got, err)
	}
}
