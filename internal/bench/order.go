package bench

// memory is how many of the latest packets of a flow are remembered, in bits.
const memory = 1 << 16

// order tells from the numbers of a flow's packets which came twice or late.
type order struct {
	next uint64 // one more than the highest number so far
	seen [memory / 64]uint64
}

// arrival is what order makes of one number.
type arrival int

const (
	inOrder arrival = iota
	late            // a packet sent after it came first; RFC 4737 calls it reordered
	again           // it has come before
)

// note takes the number of a packet that has come. One that is more than memory
// behind the highest is called late, though it may be here again.
func (o *order) note(n uint64) arrival {
	if n >= o.next {
		o.forget(n)
		o.next = n + 1
		o.set(n)
		return inOrder
	}
	if o.next-n > memory {
		return late
	}
	if o.seen[n%memory/64]&(1<<(n%64)) != 0 {
		return again
	}
	o.set(n)
	return late
}

func (o *order) set(n uint64) { o.seen[n%memory/64] |= 1 << (n % 64) }

// forget clears the bits of the numbers from next to n, which stood for others.
func (o *order) forget(n uint64) {
	if n-o.next >= memory {
		clear(o.seen[:])
		return
	}
	for i := o.next; i <= n; i++ {
		o.seen[i%memory/64] &^= 1 << (i % 64)
	}
}
