package link

import "sync"

// chunk is a pooled buffer. Whoever holds the pointer owns it.
type chunk struct{ b []byte }

var (
	readPool    = newPool(readSize)
	scratchPool = newPool(scratchSize)
	outPool     = newPool(16 << 10)

	smallCarryPool = newPool(smallCarry)
	carryAllPool   = newPool(recordHeader + maxRecord)
)

// smallCarry holds the start of a record that carries one ordinary packet, in bytes.
const smallCarry = 2 << 10

// carryPool returns the pool for the n bytes of an incomplete record.
func carryPool(n int) *sync.Pool {
	if n <= smallCarry {
		return smallCarryPool
	}
	return carryAllPool
}

// maxPooled is the largest buffer that goes back to a pool, in bytes.
const maxPooled = 1 << 20

func newPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &chunk{make([]byte, 0, size)} }}
}

func getChunk(p *sync.Pool) *chunk { return p.Get().(*chunk) }

func putChunk(p *sync.Pool, c *chunk) {
	if cap(c.b) <= maxPooled {
		c.b = c.b[:0]
		p.Put(c)
	}
}

// putScratch gives a scratch buffer back, unless a frame has made it grow: the
// pool is not for the occasional large one, which a stranger can provoke.
func putScratch(c *chunk) {
	if cap(c.b) == scratchSize {
		putChunk(scratchPool, c)
	}
}
