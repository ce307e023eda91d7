package relay

import "sync"

// buffer is a pooled byte slice. Whoever holds the pointer owns it.
type buffer struct{ b []byte }

// tierSizes are the capacities that buffers have, in bytes. The largest holds a full
// queue of data twice, so that it need not be compacted at every packet.
var tierSizes = [...]int{16 << 10, 64 << 10, 2 * discoBytes, 2 * dataBytes}

// tiers hold the free buffers of each size.
var tiers [len(tierSizes)]sync.Pool

// getBuffer returns an empty buffer with room for n bytes. One that is larger than
// all tiers, as a watcher's news may need, is made for the occasion.
func getBuffer(n int) *buffer {
	for i, size := range tierSizes {
		if n > size {
			continue
		}
		if b, ok := tiers[i].Get().(*buffer); ok {
			return b
		}
		return &buffer{make([]byte, 0, size)}
	}
	return &buffer{make([]byte, 0, 2*n)}
}

// putBuffer gives a buffer back.
func putBuffer(b *buffer) {
	for i, size := range tierSizes {
		if cap(b.b) == size {
			b.b = b.b[:0]
			tiers[i].Put(b)
			return
		}
	}
}
