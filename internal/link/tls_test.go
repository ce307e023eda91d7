package link

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"testing"
	"time"
)

func TestTLSBothWays(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			c, peer := secure(t, version)
			if state, ok := c.TLS(); !ok || state.Version != version || !state.HandshakeComplete {
				t.Errorf("TLS: version %x, complete %v, %v", state.Version, state.HandshakeComplete, ok)
			}
			want := pattern(100 << 10)
			echoed := make(chan []byte, 1)
			go func() {
				peer.Write(want)
				back := make([]byte, len(want))
				io.ReadFull(peer, back)
				echoed <- back
				peer.Close()
			}()
			err := c.Fill(func(batch []byte) (int, bool, error) { return len(batch), false, send(c, batch) })
			if !errors.Is(err, io.EOF) {
				t.Errorf("Fill: %v", err)
			}
			if !bytes.Equal(<-echoed, want) {
				t.Error("the peer got back something else")
			}
		})
	}
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

// The end of the stream is told from one within a frame, said goodbye or not:
// many clients just hang up.
func TestTLSEnd(t *testing.T) {
	tests := []struct {
		name     string
		sent     string
		farewell bool
		want     error
	}{
		{"goodbye between turns", "whole", true, io.EOF},
		{"goodbye within a turn", "part", true, io.ErrUnexpectedEOF},
		{"hung up between turns", "whole", false, io.EOF},
		{"hung up within a turn", "part", false, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, peer := secure(t, tls.VersionTLS13)
			if _, err := io.WriteString(peer, tt.sent); err != nil {
				t.Fatal(err)
			}
			if tt.farewell {
				peer.Close()
			} else {
				peer.NetConn().Close()
			}
			err := c.Fill(func(b []byte) (int, bool, error) {
				if string(b) == "whole" {
					return len(b), false, nil
				}
				return 0, false, nil
			})
			if !errors.Is(err, tt.want) {
				t.Errorf("Fill: %v, want %v", err, tt.want)
			}
		})
	}
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
