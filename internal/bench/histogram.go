package bench

import (
	"math"
	"math/bits"
	"time"
)

// steps is how many buckets an octave has: a value is known to 1/32, 3 %.
const (
	steps    = 1 << stepBits
	stepBits = 5
)

// histogram counts durations in buckets whose width grows with the value. Below
// 32 ns each value has its own; from there on every octave has 32.
type histogram struct {
	count   uint64
	longest time.Duration
	buckets [(64 - stepBits) * steps]uint64
}

// add counts one duration; a negative one, from a clock that was set, as zero.
func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.count++
	h.longest = max(h.longest, d)
	h.buckets[bucket(uint64(d))]++
}

func bucket(v uint64) int {
	octave := max(bits.Len64(v)-stepBits-1, 0)
	return octave*steps + int(v>>octave)
}

// highest is the largest value in a bucket.
func highest(bucket int) uint64 {
	octave := max(bucket/steps-1, 0)
	return (uint64(bucket-octave*steps)+1)<<octave - 1
}

func (h *histogram) merge(o *histogram) {
	h.count += o.count
	h.longest = max(h.longest, o.longest)
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
}

// quantile returns a duration that a share q of all do not exceed: the upper
// end of its bucket, and never more than the longest. 0 when nothing was added.
func (h *histogram) quantile(q float64) time.Duration {
	want := max(uint64(math.Ceil(q*float64(h.count))), 1)
	var below uint64
	for i, n := range h.buckets {
		if below += n; below >= want && n > 0 {
			return min(time.Duration(highest(i)), h.longest)
		}
	}
	return h.longest
}
