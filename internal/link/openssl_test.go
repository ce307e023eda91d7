package link

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// openssl is an s_client that is connected to a Conn.
type openssl struct {
	*Conn
	in    io.WriteCloser // commands and text
	lines *bufio.Reader  // what it prints, some of which is what it received
}

// startOpenSSL connects OpenSSL's s_client. Unlike Go's client it can update
// keys, attempt to renegotiate, and choose ChaCha20 in TLS 1.3.
func startOpenSSL(t *testing.T, accept func(net.Conn) *Conn, args ...string) *openssl {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("NOT TESTED: KeyUpdate, renegotiation and ChaCha20 in TLS 1.3 need the openssl command")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.CommandContext(t.Context(), path, append([]string{"s_client", "-connect", l.Addr().String()}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout // where it confirms commands
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill() // it may have ended
		cmd.Wait()
	})
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	c := accept(raw)
	if err := c.Handshake(t.Context()); err != nil {
		t.Fatalf("handshake: %v", err)
	}
	return &openssl{c, in, bufio.NewReader(out)}
}

// say gives s_client one line. A line that is a command's letter is a command.
func (o *openssl) say(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(o.in, line+"\n"); err != nil {
		t.Fatalf("tell openssl: %v", err)
	}
}

// command gives s_client a command and waits until it is carried out: what comes
// to s_client's hand together with a command is lost. It reports false when
// s_client has ended.
func (o *openssl) command(t *testing.T, letter, confirmation string) bool {
	t.Helper()
	if _, err := io.WriteString(o.in, letter+"\n"); err != nil {
		return false
	}
	for {
		got, err := o.lines.ReadString('\n')
		if err != nil {
			return false
		}
		if strings.TrimSpace(got) == confirmation {
			return true
		}
	}
}

// wantEcho says a line and waits until it has come back from the Conn.
func (o *openssl) wantEcho(t *testing.T, line string) {
	t.Helper()
	o.say(t, line)
	for {
		got, err := o.lines.ReadString('\n')
		if err != nil {
			t.Fatalf("openssl ended while %q was expected: %v", line, err)
		}
		if strings.TrimSpace(got) == "echo "+line {
			return
		}
	}
}

// echo answers every line, and ends at the line "bye".
func (o *openssl) echo() <-chan error {
	ended := make(chan error, 1)
	go func() {
		ended <- fillChecked(o.Conn, func(b []byte) (used int, stop bool, err error) {
			for {
				line, _, found := strings.Cut(string(b[used:]), "\n")
				if !found {
					return used, false, nil
				}
				used += len(line) + 1
				if line == "bye" {
					return used, true, nil
				}
				if err := send(o.Conn, []byte("echo "+line+"\n")); err != nil {
					return used, false, err
				}
			}
		})
	}()
	return ended
}

func eachForm(t *testing.T, f func(t *testing.T, accept func(net.Conn) *Conn)) {
	config := serverConfig(t)
	t.Run("default", func(t *testing.T) { f(t, func(c net.Conn) *Conn { return Accept(c, config) }) })
	t.Run("portable", func(t *testing.T) { f(t, func(c net.Conn) *Conn { return AcceptPortable(c, config) }) })
}

// An honest peer may update keys, ask for it ("K") or not ("k"), while data goes
// both ways, in each suite of TLS 1.3.
func TestKeyUpdate(t *testing.T) {
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		t.Run(suite, func(t *testing.T) {
			eachForm(t, func(t *testing.T, accept func(net.Conn) *Conn) {
				o := startOpenSSL(t, accept, "-tls1_3", "-ciphersuites", suite)
				ended := o.echo()
				o.wantEcho(t, "before")
				for _, letter := range []string{"K", "k", "K", "K", "k"} {
					if !o.command(t, letter, "KEYUPDATE") {
						t.Fatal("openssl has ended")
					}
					o.wantEcho(t, "after "+letter)
				}
				o.say(t, "bye")
				if err := <-ended; err != nil {
					t.Errorf("Fill: %v", err)
				}
			})
		})
	}
}

// A peer that does nothing but update keys is cut off.
func TestKeyUpdateFlood(t *testing.T) {
	eachForm(t, func(t *testing.T, accept func(net.Conn) *Conn) {
		o := startOpenSSL(t, accept, "-tls1_3")
		ended := o.echo()
		o.wantEcho(t, "before")
		updates := 0
		for updates < 1000 && o.command(t, "K", "KEYUPDATE") {
			updates++
		}
		if updates == 1000 {
			t.Error("nothing ends the flood")
			o.Doom()
		}
		err := <-ended
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("Fill: %v", err)
		}
		o.Conn.Close()
	})
}

// TLS 1.2's renegotiation is refused, which ends that connection and nothing else.
func TestRenegotiationIsRefused(t *testing.T) {
	eachForm(t, func(t *testing.T, accept func(net.Conn) *Conn) {
		o := startOpenSSL(t, accept, "-tls1_2")
		ended := o.echo()
		o.wantEcho(t, "before")
		o.command(t, "R", "RENEGOTIATING")
		if err := <-ended; err == nil || errors.Is(err, io.EOF) {
			t.Errorf("Fill: %v", err)
		}
		o.Conn.Close()
	})
}

func TestChaCha20InTLS12(t *testing.T) {
	eachForm(t, func(t *testing.T, accept func(net.Conn) *Conn) {
		o := startOpenSSL(t, accept, "-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305")
		ended := o.echo()
		o.wantEcho(t, "hello")
		o.say(t, "bye")
		if err := <-ended; err != nil {
			t.Errorf("Fill: %v", err)
		}
	})
}
