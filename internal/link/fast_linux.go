package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readSize    = 48 << 10 // bytes asked of the socket at once; more than a record
	scratchSize = 96 << 10 // plaintext of one turn: the largest frame, and a record more
	keepPartial = 2 << 10  // bytes that a connection may hold for good, to keep the start of a frame
	// maxEcho bounds, in bytes, what TLS itself may write while it reads (answers
	// to KeyUpdate, alerts) until the peer has taken all that waits for it.
	maxEcho = 64 << 10
)

// fast is the codec over a TCP socket. Reading lives inside one RawConn.Read
// call: each time the socket is readable it reads all there is into a borrowed
// buffer, has TLS decrypt it record by record, and hands the plaintext on. A
// connection that waits holds no buffer, unless a record or frame is incomplete.
//
// Nothing inside that call closes a connection: Close would wait for the call
// itself. Doom makes the call return.
type fast struct {
	conn *Conn
	sock syscall.RawConn
	tls  *tls.Conn // nil: plain
	feed *feeder   // nil: plain

	// Owned by the reading goroutine.
	turn    Turn
	readFn  func(fd uintptr) bool
	rearm   func(fd int) bool // rearm, or in a test what an older kernel would do
	cipher  []byte            // read from the socket, not used yet; in a borrowed buffer, or in carry
	carry   *chunk            // where cipher waits for the rest of its record; nil when it is empty or borrowed
	eof     bool
	partial []byte // plaintext that turn has not used, while the socket is empty, if it is short
	held    *chunk // the same if it is long: the scratch buffer itself, to go on with
	result  error  // why fill ends
	stopped bool   // turn said stop

	unsure atomic.Bool // the socket was empty, and may have ended unnoticed
	hungUp atomic.Bool // check has seen the peer hang up: the end is there to be read

	out outgoing
}

// outgoing is what waits to be written to the socket.
type outgoing struct {
	mu sync.Mutex

	// Guarded by mu.
	buf     *chunk // nil when empty
	off     int    // written of it
	echo    int    // bytes that TLS wrote by itself since buf was empty
	sealing bool   // the flusher is in TLS's Write; otherwise a reader is
	err     error  // of the socket; final

	echoed atomic.Bool // a reader's TLS has written, and nobody else may flush

	writeFn func(fd uintptr) // made once, so that a flush allocates nothing
	waitFn  func(fd uintptr) bool
}

func acceptFast(raw net.Conn, cfg *tls.Config) *Conn {
	tcp := tcpOf(raw)
	if tcp == nil {
		return nil
	}
	sock, err := tcp.SyscallConn()
	if err != nil {
		return nil // it is closed: the portable form will say so
	}
	f := &fast{sock: sock, rearm: rearm}
	c := &Conn{Conn: raw, raw: raw, codec: f}
	f.conn = c
	if cfg != nil {
		f.feed = &feeder{TCPConn: tcp, fast: f}
		f.tls = tls.Server(f.feed, cfg)
		c.Conn = f.tls
	}
	f.readFn = f.readable
	f.out.writeFn = func(fd uintptr) { f.out.write(int(fd)) }
	f.out.waitFn = func(fd uintptr) bool { return f.out.writeSome(int(fd)) }
	return c
}

// readAhead makes b what TLS reads first. It is for before the handshake.
func (f *fast) readAhead(b []byte) { f.feed.ahead = b }

// shaken notes that the handshake is over.
func (f *fast) shaken() { f.feed.greeted = true }

// overTCP is a connection whose address is not that of its socket, as one that
// came through a proxy.
type overTCP interface {
	// TCP returns the socket. Nothing stands between it and the connection's bytes.
	TCP() *net.TCPConn
}

// tcpOf returns the socket under a connection; nil when it is no TCP socket alone.
func tcpOf(raw net.Conn) *net.TCPConn {
	switch c := raw.(type) {
	case *net.TCPConn:
		return c
	case overTCP:
		return c.TCP()
	}
	return nil
}

// begin turns the connection into a codec, once.
func (f *fast) begin() {
	if f.feed != nil && !f.feed.codec {
		f.feed.codec = true
		f.cipher = append([]byte(nil), f.feed.ahead...)
		f.feed.ahead = nil
	}
}

// errAgain is what the feeder tells TLS when it has no whole record. TLS takes
// it for a read deadline, after which it can be read again.
var errAgain = os.ErrDeadlineExceeded

func (f *fast) fill(turn Turn) error {
	f.begin()
	f.turn, f.result, f.stopped = turn, nil, false
	if f.conn.doomed.Load() {
		return net.ErrClosed
	}
	// What came with the upgrade is there without the socket saying so.
	if f.digest(); f.result != nil || f.stopped {
		return f.result
	}
	for {
		err := f.sock.Read(f.readFn)
		switch {
		case err == nil:
			return f.result
		case f.conn.doomed.Load():
			return net.ErrClosed
		case !errors.Is(err, os.ErrDeadlineExceeded) || !f.hungUp.Load():
			return fmt.Errorf("read: %w", err)
		}
		// It was check. Without its deadline the end can be read.
		if err := f.conn.raw.SetReadDeadline(time.Time{}); err != nil {
			return fmt.Errorf("link: clear read deadline: %w", err)
		}
		if f.conn.doomed.Load() { // or this has undone Doom's deadline
			return net.ErrClosed
		}
	}
}

// readable reads the socket until it is empty. It reports false to wait for more.
func (f *fast) readable(fd uintptr) bool {
	in := getChunk(readPool)
	defer putChunk(readPool, in)
	defer f.carryOver()
	for {
		in.b = in.b[:copy(in.b[:cap(in.b)], f.cipher)]
		f.cipher = in.b
		f.dropCarry()
		space := in.b[len(in.b):cap(in.b)]
		n, err := ignoringEINTR(func() (int, error) { return unix.Read(int(fd), space) })
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			f.result = os.NewSyscallError("read", err)
			return true
		}
		f.eof = n == 0
		f.cipher = in.b[:len(in.b)+n]
		f.digest()
		if f.result != nil || f.stopped {
			return true
		}
		if f.conn.doomed.Load() { // a peer that sends without a pause is never waited for
			f.result = net.ErrClosed
			return true
		}
		if n > 0 && !f.hungUp.Load() {
			// An end of the stream that came together with the data gives no second
			// event, nor does a reset after a full read; check looks for it later.
			f.unsure.Store(true)
			// After a short read the socket is empty: another would only say so. After
			// a full one it is the others' turn.
			if n < len(space) || f.rearm(int(fd)) {
				return false
			}
		}
	}
}

// carryOver gives what is left of a borrowed read buffer a place of its own. At a
// busy connection that happens at every read, so it must not make garbage.
func (f *fast) carryOver() {
	if len(f.cipher) == 0 {
		f.cipher = nil
		return
	}
	f.carry = getChunk(carryPool(len(f.cipher)))
	f.carry.b = append(f.carry.b, f.cipher...)
	f.cipher = f.carry.b
}

// dropCarry gives the buffer back whose bytes have been copied out.
func (f *fast) dropCarry() {
	if f.carry != nil {
		putChunk(carryPool(cap(f.carry.b)), f.carry)
		f.carry = nil
	}
}

// check looks whether the peer has gone since the last read, and if so wakes the
// reader by a deadline, to read up to the end. It costs a system call, but only
// once after reads. An end or a reset shows whatever data is still before it.
func (f *fast) check() {
	if !f.unsure.Swap(false) || f.hungUp.Load() {
		return
	}
	var gone bool
	_ = f.sock.Control(func(fd uintptr) { // fails only when it is closed already
		polled := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := ignoringEINTR(func() (int, error) { return unix.Poll(polled[:], 0) })
		gone = n > 0 && err == nil
	})
	if gone {
		f.hungUp.Store(true)
		f.conn.raw.SetReadDeadline(longAgo) // fails only when it is closed already
	}
}

// digest decrypts what was read and hands it to turn, until too little is left.
// The answers that TLS itself has written leave with it.
func (f *fast) digest() {
	scratch := f.scratch()
	plain, err := f.turns(scratch)
	if f.out.echoed.Load() {
		f.out.echoed.Store(false)
		f.flush() // its error shows at the next flush or read
	}
	left := len(plain)
	if waits := f.stopped || errors.Is(err, errAgain); waits {
		f.hold(scratch, plain)
		return
	}
	putScratch(scratch)
	if err != nil {
		// TLS takes an end within a record, of which it was given nothing, for one between two.
		f.result = ended(err, left+len(f.cipher))
	}
}

// scratch borrows a buffer that begins with what the last turn left.
func (f *fast) scratch() *chunk {
	scratch := f.held
	if f.held = nil; scratch == nil {
		scratch = getChunk(scratchPool)
		scratch.b = append(scratch.b, f.partial...)
		f.partial = f.partial[:0]
	}
	return scratch
}

// hold keeps plain, which is in scratch, until there is more. What is long stays
// where it is: a peer that sends a large frame a byte at a time must not have it
// copied each time.
func (f *fast) hold(scratch *chunk, plain []byte) {
	if len(plain) > keepPartial {
		scratch.b = plain
		f.held = scratch
		return
	}
	f.partial = append(f.partial, plain...)
	putScratch(scratch)
}

// turns decrypts into scratch and calls turn. It returns what turn has not used,
// and errAgain when the socket must be read first.
func (f *fast) turns(scratch *chunk) (plain []byte, err error) {
	plain = scratch.b
	plain = plain[:len(plain):min(cap(plain), MaxHeld)]
	for err == nil && !f.stopped {
		if len(plain) == cap(plain) {
			if plain, err = f.roomier(scratch, plain); err != nil {
				break
			}
		}
		fresh := len(plain)
		plain, err = f.decrypt(plain)
		if len(plain) == fresh {
			break
		}
		used, stop, turnErr := f.turn(plain)
		plain = plain[:copy(plain, plain[used:])]
		if stop && turnErr == nil {
			f.stopped = true
			f.conn.Unread(plain)
			plain = plain[:0]
		}
		if turnErr != nil {
			err = turnErr
		}
	}
	return plain, err
}

// roomier makes room for more plaintext when a turn could use none of a full
// scratch buffer.
func (f *fast) roomier(scratch *chunk, plain []byte) ([]byte, error) {
	if len(plain) >= MaxHeld {
		return plain, ErrHeld
	}
	bigger := make([]byte, len(plain), min(2*cap(plain), MaxHeld))
	copy(bigger, plain)
	scratch.b = bigger
	return bigger, nil // the garbage collector has the smaller one
}

// decrypt appends plaintext until there is no more, or no room. It returns
// errAgain when the socket must be read first.
func (f *fast) decrypt(plain []byte) ([]byte, error) {
	for len(plain) < cap(plain) {
		space := plain[len(plain):cap(plain)]
		n, err := f.readPlain(space)
		plain = plain[:len(plain)+n]
		if err != nil {
			return plain, err
		}
	}
	return plain, nil
}

func (f *fast) readPlain(p []byte) (int, error) {
	switch {
	case len(f.conn.unread) > 0:
		return f.conn.reread(p), nil
	case f.tls != nil:
		return f.tls.Read(p)
	case len(f.cipher) > 0:
		n := copy(p, f.cipher)
		f.cipher = f.cipher[n:]
		return n, nil
	case f.eof:
		return 0, io.EOF
	}
	return 0, errAgain
}

func (f *fast) seal(frames []byte) error {
	f.begin()
	if f.tls == nil {
		return f.out.add(frames, true)
	}
	f.out.seal(true)
	_, err := f.tls.Write(frames)
	f.out.seal(false)
	return err
}

func (f *fast) flush() (done bool, err error) {
	o := &f.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf != nil && o.err == nil {
		if err := f.sock.Control(o.writeFn); err != nil {
			return false, err
		}
	}
	return o.buf == nil, o.err
}

func (f *fast) waitWritable(timeout time.Duration) error {
	for {
		before := f.unacknowledged()
		if err := f.conn.writeBefore(timeout); err != nil {
			return err
		}
		err := f.sock.Write(f.out.waitFn)
		if err == nil {
			f.out.mu.Lock()
			defer f.out.mu.Unlock()
			return f.out.err
		}
		// The kernel calls a socket writable only once a good part of what it holds
		// has left. On a slow line that takes longer than a dead peer is given.
		slow := errors.Is(err, os.ErrDeadlineExceeded) && !f.conn.doomed.Load() && f.unacknowledged() < before
		if !slow {
			return fmt.Errorf("write: %w", err)
		}
	}
}

// unacknowledged returns how many bytes the kernel holds for the peer, sent or not.
func (f *fast) unacknowledged() (n int) {
	_ = f.sock.Control(func(fd uintptr) { // without an answer there is no progress to be seen
		n, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
	})
	return n
}

func (o *outgoing) seal(on bool) {
	o.mu.Lock()
	o.sealing = on
	o.mu.Unlock()
}

// errEcho ends a peer that makes TLS answer and does not read the answers.
var errEcho = errors.New("link: the peer provokes more TLS messages than it reads")

// add queues sealed bytes.
func (o *outgoing) add(b []byte, ours bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf == nil {
		o.buf, o.off, o.echo = getChunk(outPool), 0, 0
	}
	if !ours && !o.sealing {
		if o.echo += len(b); o.echo > maxEcho {
			return errEcho
		}
		o.echoed.Store(true)
	}
	o.buf.b = append(o.buf.b, b...)
	return nil
}

// write writes what the socket takes now. Called with mu held.
func (o *outgoing) write(fd int) {
	for o.buf != nil {
		n, err := ignoringEINTR(func() (int, error) { return unix.Write(fd, o.buf.b[o.off:]) })
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			o.err = os.NewSyscallError("write", err)
			return
		}
		if o.off += n; o.off == len(o.buf.b) {
			putChunk(outPool, o.buf)
			o.buf = nil
		}
	}
}

// writeSome is write for the poller: it reports false to be called again once
// the socket takes more.
func (o *outgoing) writeSome(fd int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf == nil || o.err != nil {
		return true
	}
	buf, before := o.buf, o.off
	o.write(fd)
	return o.buf != buf || o.off > before || o.err != nil
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
