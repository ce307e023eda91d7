package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// systemdWord is the address of a socket that systemd has opened, alone or with
// a colon and the socket's name behind it.
const systemdWord = "systemd"

// Inherited are the sockets that systemd has passed to this process. nil is none.
// It is used by one goroutine, while listeners are opened.
type Inherited struct {
	sockets []inheritedSocket
}

// inheritedSocket holds one of the two, or neither when the file is no socket
// that could be listened on.
type inheritedSocket struct {
	name   string
	stream net.Listener
	dgram  net.PacketConn
	taken  bool
}

// Inherit takes over the sockets that LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES
// describe, and removes these variables. Only the first call in a process gets
// any. The caller closes it once all listeners are open.
func Inherit() *Inherited { return newInherited(activation.Files(true)) }

// newInherited takes the files over: what becomes of them has descriptors of its own.
func newInherited(files []*os.File) *Inherited {
	in := &Inherited{}
	for _, f := range files {
		s := inheritedSocket{name: f.Name()}
		if l, err := net.FileListener(f); err == nil {
			s.stream = l
			if u, ok := l.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false) // the file is systemd's
			}
		} else if p, err := net.FilePacketConn(f); err == nil {
			s.dgram = p
		}
		_ = f.Close() // only the copies are used
		in.sockets = append(in.sockets, s)
	}
	return in
}

// Close closes the sockets that nobody took, and returns their names.
func (in *Inherited) Close() (left []string) {
	if in == nil {
		return nil
	}
	for i := range in.sockets {
		s := &in.sockets[i]
		if s.taken {
			continue
		}
		s.taken = true
		left = append(left, s.name)
		if s.stream != nil {
			_ = s.stream.Close() // nothing was served
		}
		if s.dgram != nil {
			_ = s.dgram.Close()
		}
	}
	return left
}

// IsInherited reports whether addr names a socket that systemd passes.
func IsInherited(addr string) bool {
	return addr == systemdWord || strings.HasPrefix(addr, systemdWord+":")
}

// Listener takes the stream socket that addr means. flag names the setting.
func (in *Inherited) Listener(addr, flag string) (net.Listener, error) {
	s, err := in.take(addr, "stream", func(s inheritedSocket) bool { return s.stream != nil })
	if err != nil {
		return nil, inheritError(addr, flag, "ListenStream=", err)
	}
	return s.stream, nil
}

// PacketConn takes the datagram socket that addr means. flag names the setting.
func (in *Inherited) PacketConn(addr, flag string) (net.PacketConn, error) {
	s, err := in.take(addr, "datagram", func(s inheritedSocket) bool { return s.dgram != nil })
	if err != nil {
		return nil, inheritError(addr, flag, "ListenDatagram=", err)
	}
	return s.dgram, nil
}

var (
	errNoneInherited = errors.New("systemd has passed no socket to this process")
	errNoSuchSocket  = errors.New("no such socket")
	errWrongKind     = errors.New("wrong kind of socket")
	errAmbiguous     = errors.New("not one socket alone")
)

// take finds the only free socket of one kind, among those of the name if addr
// has one.
func (in *Inherited) take(addr, kind string, fits func(inheritedSocket) bool) (*inheritedSocket, error) {
	_, name, named := strings.Cut(addr, ":")
	if in == nil || len(in.sockets) == 0 {
		return nil, errNoneInherited
	}
	var found *inheritedSocket
	var all, wrong, several []string
	for i := range in.sockets {
		s := &in.sockets[i]
		all = append(all, s.name)
		switch {
		case s.taken || named && s.name != name:
		case !fits(*s):
			wrong = append(wrong, s.name)
		default:
			found = s
			several = append(several, s.name)
		}
	}
	switch {
	case len(several) == 1:
		found.taken = true
		return found, nil
	case len(several) > 1:
		return nil, fmt.Errorf("%w: %d %s sockets fit: %s", errAmbiguous, len(several), kind, strings.Join(several, ", "))
	case len(wrong) > 0:
		return nil, fmt.Errorf("%w: %s is no %s socket", errWrongKind, strings.Join(wrong, ", "), kind)
	}
	return nil, fmt.Errorf("%w: passed are %s, and each can be used once", errNoSuchSocket, strings.Join(slices.Compact(all), ", "))
}

func inheritError(addr, flag, directive string, err error) error {
	hint := "check " + directive + " in the .socket unit, and FileDescriptorName= for its name"
	switch {
	case errors.Is(err, errNoneInherited):
		hint = "start it by a .socket unit, or write HOST:PORT"
	case errors.Is(err, errAmbiguous):
		hint = "give each a FileDescriptorName= of its own in its .socket unit, and write systemd:NAME"
	case errors.Is(err, errWrongKind):
		hint = "this setting needs " + directive + " in the .socket unit"
	}
	return fmt.Errorf("%s %s: %w; hint: %s", orAddress(flag), addr, err, hint)
}
