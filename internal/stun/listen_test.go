package stun

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestListenAddr(t *testing.T) {
	for addr, want := range map[string]string{
		":3478":                  "[::]:3478 both",
		"[::]:3478":              "[::]:3478",
		":0":                     "[::]:0 both",
		"0.0.0.0:3478":           "0.0.0.0:3478",
		"192.0.2.1:65535":        "192.0.2.1:65535",
		"[::ffff:192.0.2.1]:1":   "192.0.2.1:1",
		"[2001:db8::1]:3478":     "[2001:db8::1]:3478",
		"[fe80::1%eth0]:3478":    "[fe80::1%eth0]:3478",
		"":                       "hint: write :3478",
		"3478":                   "hint: write :3478",
		"::1":                    "hint: write :3478",
		":":                      "hint: use a number",
		":65536":                 "hint: use a number",
		":stun":                  "hint: use a number",
		"relay.example.com:3478": "hint: use an address of this host, or :3478",
	} {
		at, both, err := parseListenAddr(addr)
		got := at.String()
		if both {
			got += " both"
		}
		if err != nil {
			got = err.Error()
			if !strings.HasPrefix(got, fmt.Sprintf("stun: listen address %q: ", addr)) {
				t.Errorf("%q: the error does not say what is wrong: %s", addr, got)
			}
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%q: got %s, want %s", addr, got, want)
		}
	}
}

// fakeBinder plays the kernel: it gives port 5000, 5001, ... for port 0, and the errors of a script for udp6.
type fakeBinder struct {
	errs6  []error
	asked  []string
	opened []*fakeBound
}

type fakeBound struct {
	*scriptSocket
	at netip.AddrPort
}

func (f *fakeBound) addr() netip.AddrPort { return f.at }

func (f *fakeBinder) bind(network string, at netip.AddrPort) (socket, error) {
	f.asked = append(f.asked, network+" "+at.String())
	if network == "udp6" && len(f.errs6) > 0 {
		err := f.errs6[0]
		f.errs6 = f.errs6[1:]
		if err != nil {
			return nil, &net.OpError{Op: "listen", Net: network, Err: os.NewSyscallError("bind", err)}
		}
	}
	if at.Port() == 0 {
		at = netip.AddrPortFrom(at.Addr(), uint16(5000+len(f.opened)))
	}
	sock := &fakeBound{newScript(), at}
	f.opened = append(f.opened, sock)
	return sock, nil
}

// leftOpen lists the sockets that were not closed.
func (f *fakeBinder) leftOpen() []string {
	var open []string
	for _, sock := range f.opened {
		select {
		case <-sock.closed:
		default:
			open = append(open, sock.at.String())
		}
	}
	return open
}

func TestListenBothFamilies(t *testing.T) {
	inUse := func(n int) []error { return slices.Repeat([]error{errAddrInUse}, n) }
	tests := []struct {
		name    string
		listen  string
		errs6   []error
		want    string // the sockets left open
		tries   int    // binds
		wantErr string
		wantLog string
	}{
		{"fixed port", ":3478", nil, "[0.0.0.0:3478 [::]:3478]", 2, "", ""},
		{"free port", ":0", nil, "[0.0.0.0:5000 [::]:5000]", 2, "", ""},
		{"no IPv6 in the kernel", ":3478", []error{errNoFamily}, "[0.0.0.0:3478]", 2, "", "no IPv6"},
		{"IPv6 switched off", ":3478", []error{errAddrNotAvail}, "[0.0.0.0:3478]", 2, "", "no IPv6"},
		{"no IPv6, free port", ":0", []error{errNoProtocol}, "[0.0.0.0:5000]", 2, "", "no IPv6"},
		{"port taken for IPv6", ":3478", inUse(1), "[]", 2, "another program has this UDP port", ""},
		{"not allowed", ":80", []error{errAccess}, "[]", 2, "CAP_NET_BIND_SERVICE", ""},
		{"free port taken for IPv6 twice", ":0", inUse(2), "[0.0.0.0:5002 [::]:5002]", 6, "", ""},
		{"free port taken for IPv6 always", ":0", inUse(100), "[]", 2 * samePortTries, "another program", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			s := New(Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			binder := &fakeBinder{errs6: test.errs6}
			s.bind = binder.bind
			err := s.Listen(test.listen)
			if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("got error %v, want %q", err, test.wantErr)
			}
			open := fmt.Sprint(binder.leftOpen())
			if open != test.want || err == nil && open != fmt.Sprint(s.Addrs()) || err != nil && len(s.Addrs()) > 0 {
				t.Errorf("open sockets %s, Addrs %v, want %s", open, s.Addrs(), test.want)
			}
			if len(binder.asked) != test.tries {
				t.Errorf("binds %v, want %d", binder.asked, test.tries)
			}
			if (log.Len() > 0) != (test.wantLog != "") || !strings.Contains(log.String(), test.wantLog) {
				t.Errorf("logged %q, want %q", log.String(), test.wantLog)
			}
		})
	}
}

func TestListenErrorsNameTheNextStep(t *testing.T) {
	first := New(Options{})
	if err := first.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	taken := first.Addrs()[0]
	defer func() {
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	}()
	for addr, want := range map[string]string{
		taken.String():                     "another program has this UDP port",
		fmt.Sprintf(":%d", taken.Port()):   "another program has this UDP port",
		"192.0.2.1:3478":                   "choose one it has, or :3478",
		"[fe80::1%no-such-interface]:3478": "--stun-listen off",
	} {
		s := New(Options{})
		err := s.Listen(addr)
		if err == nil {
			t.Errorf("%s: no error", addr)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		if text := err.Error(); !strings.HasPrefix(text, "stun: listen udp") || !strings.Contains(text, "; hint: ") || !strings.Contains(text, want) {
			t.Errorf("%s: got %s, want a hint with %q", addr, text, want)
		}
	}
	denied := &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", errAccess)}
	if err := listenError(netip.MustParseAddrPort("0.0.0.0:80"), denied); !strings.Contains(err.Error(), "below 1024") {
		t.Errorf("privileged port: %v", err)
	}
	if err := listenError(netip.MustParseAddrPort("0.0.0.0:3478"), denied); strings.Contains(err.Error(), "1024") {
		t.Errorf("denied on a high port: %v", err)
	}
}
