package link

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

const (
	recordHeader = 5            // type (1), version (2), length (2); RFC 8446, 5.1
	maxRecord    = 16384 + 2048 // TLS 1.2's limit for what follows; 1.3 allows less
	aheadSize    = 2 << 10      // read ahead while shaking hands, in bytes
	// maxHello is how much a client may send until hands are shaken, in bytes. Real
	// ones send some 2 KiB, post-quantum keys included; TLS itself would keep 64 KiB.
	maxHello = 24 << 10
)

// errHello ends a handshake that is no client's.
var errHello = fmt.Errorf("link: more than %d bytes of TLS handshake", maxHello)

// feeder is what crypto/tls takes for its connection. It hands out no byte
// beyond the end of a record, so that TLS keeps no surplus that the codec could
// not see. While shaking hands it reads and writes the socket, and blocks. As
// codec it hands out whole records only and says errAgain when it has none, and
// what TLS writes waits for a flush.
type feeder struct {
	*net.TCPConn
	fast *fast

	// Owned by the reading goroutine.
	codec   bool
	ahead   []byte // read ahead while shaking hands
	hello   int    // bytes read while shaking hands
	greeted bool   // hands are shaken
	left    int    // bytes of the record at hand that TLS has not been given
}

func (f *feeder) Read(p []byte) (int, error) {
	in := &f.ahead
	if f.codec {
		in = &f.fast.cipher
	}
	if f.left == 0 {
		if err := f.nextRecord(in); err != nil {
			return 0, err
		}
	}
	if len(*in) == 0 {
		if err := f.more(in); err != nil {
			return 0, err
		}
	}
	n := copy(p, (*in)[:min(f.left, len(*in))])
	*in = (*in)[n:]
	f.left -= n
	return n, nil
}

// nextRecord looks at the next record's header. A length that TLS will refuse
// is for TLS to see.
func (f *feeder) nextRecord(in *[]byte) error {
	for len(*in) < recordHeader {
		if err := f.more(in); err != nil {
			return err
		}
	}
	n := int(binary.BigEndian.Uint16((*in)[3:]))
	if n > maxRecord {
		n = 0
	}
	f.left = recordHeader + n
	for f.codec && len(*in) < f.left {
		left := f.left
		f.left = 0
		if err := f.more(in); err != nil {
			return err
		}
		f.left = left
	}
	return nil
}

// more reads ahead. As codec there is nothing to read: the socket's reader does.
func (f *feeder) more(in *[]byte) error {
	if f.codec {
		switch {
		case !f.fast.eof:
			return errAgain
		case len(*in) > 0:
			return io.ErrUnexpectedEOF
		}
		return io.EOF
	}
	buf := make([]byte, aheadSize)
	n, err := f.TCPConn.Read(buf)
	if !f.greeted {
		if f.hello += n; f.hello > maxHello {
			return errHello
		}
	}
	if n > 0 {
		*in = append(*in, buf[:n]...)
		return nil
	}
	return err
}

// Write is TLS's: to the socket while shaking hands, later to what the next
// flush writes.
func (f *feeder) Write(p []byte) (int, error) {
	if !f.codec {
		return f.TCPConn.Write(p)
	}
	if err := f.fast.out.add(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}
