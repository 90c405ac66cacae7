// SPDX-License-Identifier: Apache-2.0

// Package hist records latencies in a histogram of fixed size with a bounded
// relative error, the idea of the HDR histogram: each power of two is split
// into the same number of equal parts.
package hist

import (
	"math/bits"
	"time"
)

const (
	// subBits sets the parts of a power of two: 2^7, so that a value is known
	// to 1/128, less than 0.8 %.
	subBits = 7
	sub     = 1 << subBits
	// maxBits bounds values to 2^40 ns, 18 minutes; longer ones are counted as
	// that.
	maxBits = 40
	maxVal  = 1<<maxBits - 1
	buckets = (maxBits - subBits + 1) * sub
)

// Histogram counts durations. The zero value is empty and ready. It isn't safe
// for concurrent use: each recorder has its own and they are merged.
type Histogram struct {
	counts [buckets]uint64
	n      uint64
	sum    float64
	max    time.Duration
}

// index returns the bucket of v. Values below 2^subBits have a bucket each;
// above, the leading subBits+1 bits choose it.
func index(v uint64) int {
	if v < sub {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return (shift+1)*sub + int(v>>shift) - sub
}

// upper returns the highest value of a bucket.
func upper(i int) uint64 {
	if i < sub {
		return uint64(i)
	}
	shift := i/sub - 1
	return (uint64(i%sub)+sub+1)<<shift - 1
}

// Record counts one duration. Negative ones count as 0.
func (h *Histogram) Record(d time.Duration) {
	d = min(max(d, 0), maxVal)
	h.counts[index(uint64(d))]++
	h.n++
	h.sum += float64(d)
	h.max = max(h.max, d)
}

// Merge adds what o has recorded.
func (h *Histogram) Merge(o *Histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.sum += o.sum
	h.max = max(h.max, o.max)
}

// Count is the number of recorded durations.
func (h *Histogram) Count() uint64 { return h.n }

// Max is the longest recorded duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean is the average, exactly; 0 if nothing was recorded.
func (h *Histogram) Mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	return time.Duration(h.sum / float64(h.n))
}

// Quantile returns a duration that the share q (0 to 1) of the recorded ones
// doesn't exceed: the upper end of the bucket that holds it, never more than
// Max. It is 0 if nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	// The rank is rounded up, so that the quantile of 1 is the maximum and the
	// one of 0 the minimum.
	rank := uint64(q * float64(h.n))
	if float64(rank) < q*float64(h.n) || rank == 0 {
		rank++
	}
	var seen uint64
	for i, c := range h.counts {
		if seen += c; seen >= rank {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}
