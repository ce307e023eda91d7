package stun

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A client that asked one of the host's addresses must hear from it. The sockets here are connected, so an answer from
// 127.0.0.1, which the kernel would choose, does not reach them.
func TestAnswerLeavesFromTheAddressAsked(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:0", ":0"} {
		t.Run(listen, func(t *testing.T) {
			s := New(Options{})
			serve(t, s, listen)
			for _, host := range []string{"127.0.0.5", "127.1.2.3", "127.0.0.1", "127.0.0.5"} {
				ask(t, dial(t, netip.AddrPortFrom(netip.MustParseAddr(host), s.Addrs()[0].Port())))
			}
		})
	}
}

// controlMessage lays out one control message with its padding, as the kernel does.
func controlMessage(level, kind int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	header.Level, header.Type = level, kind
	header.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

func info4(index uint32, local, destination string) []byte {
	data := binary.NativeEndian.AppendUint32(nil, index)
	data = append(data, netip.MustParseAddr(local).AsSlice()...)
	data = append(data, netip.MustParseAddr(destination).AsSlice()...)
	return controlMessage(unix.IPPROTO_IP, unix.IP_PKTINFO, data)
}

func info6(index uint32, destination string) []byte {
	data := netip.MustParseAddr(destination).AsSlice()
	return controlMessage(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, binary.NativeEndian.AppendUint32(data, index))
}

func TestReplyControl(t *testing.T) {
	other := controlMessage(unix.SOL_SOCKET, unix.SCM_TIMESTAMP, make([]byte, 16))
	global4, global6 := info4(7, "192.0.2.1", "192.0.2.1"), info6(7, "2001:db8::1")
	tests := []struct {
		name     string
		received []byte
		want     []byte
	}{
		{"IPv4", global4, info4(0, "192.0.2.1", "192.0.2.1")},
		{"IPv4 broadcast keeps the local address", info4(7, "192.0.2.1", "192.0.2.255"), info4(0, "192.0.2.1", "192.0.2.255")},
		{"IPv4 link-local", info4(7, "169.254.0.1", "169.254.0.1"), info4(7, "169.254.0.1", "169.254.0.1")},
		{"IPv6", global6, info6(0, "2001:db8::1")},
		{"IPv6 link-local", info6(7, "fe80::1"), info6(7, "fe80::1")},
		{"after another", append(bytes.Clone(other), info6(7, "2001:db8::1")...), info6(0, "2001:db8::1")},
		{"before another", append(info4(7, "192.0.2.1", "192.0.2.1"), other...), info4(0, "192.0.2.1", "192.0.2.1")},
		{"none", nil, nil},
		{"another alone", other, nil},
		{"cut", global6[:len(global6)-8], nil},
		{"header cut", global4[:5], nil},
		{"short", controlMessage(unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, 8)), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := replyControl(bytes.Clone(test.received)); !bytes.Equal(got, test.want) {
				t.Errorf("got  %x\nwant %x", got, test.want)
			}
		})
	}
}
