// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"math"
	"math/bits"
	"sync/atomic"
)

// numBounds is the number of finite buckets.
const numBounds = 19

// bounds are the upper bounds that Envoy uses when its bootstrap sets none, in
// the unit that is shown (Envoy: source/common/stats/histogram_impl.cc). They
// are the same for milliseconds, for bytes and for counts. Constant.
var bounds = [numBounds]float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000,
	600000, 1800000, 3600000}

// Bounds returns the upper bounds of the finite buckets, smallest first.
func Bounds() []float64 {
	b := bounds
	return b[:]
}

// grid finds the bucket of an integer without a search: no two bounds have the
// same bit length in either unit, so the bit length of a value leaves one
// bound to compare with. Constant.
type grid struct {
	limit [numBounds + 1]uint64 // largest value of each bucket; the last has no end
	first [65]uint8             // by bit length: the first bucket a value can be in
	scale float64               // recorded units in one unit that is shown
}

// The grids of the two types below.
var (
	plainGrid  = makeGrid(1)
	timingGrid = makeGrid(1e6)
)

func makeGrid(scale float64) grid {
	g := grid{scale: scale}
	for i, b := range bounds {
		g.limit[i] = uint64(b * scale)
	}
	g.limit[numBounds] = math.MaxUint64
	i := uint8(0)
	for l := range g.first {
		for i < numBounds && bits.Len64(g.limit[i]) < l {
			i++
		}
		g.first[l] = i
	}
	return g
}

func (g *grid) bucket(v uint64) int {
	i := int(g.first[bits.Len64(v)])
	if v > g.limit[i] {
		i++
	}
	return i
}

// cells are the atomics of a histogram. The number of values is the sum over
// the buckets, which saves an addition on each record and keeps count and
// buckets of a snapshot in agreement.
type cells struct {
	sum     atomic.Uint64 // in recorded units; wraps, which readers take for a restart
	buckets [numBounds + 1]atomic.Uint64
}

func (c *cells) record(g *grid, v int64) {
	u := uint64(max(v, 0))
	c.buckets[g.bucket(u)].Add(1)
	c.sum.Add(u)
}

func (c *cells) snapshot(g *grid) HistogramSnapshot {
	s := HistogramSnapshot{Sum: float64(c.sum.Load()) / g.scale}
	for i := range c.buckets {
		s.Counts[i] = c.buckets[i].Load()
	}
	return s
}

// Histogram counts integers (bytes, requests) into Envoy's default buckets.
// The zero value is ready; all methods are safe for concurrent use.
type Histogram struct{ c cells }

// Record adds one value. Negative ones count as 0.
func (h *Histogram) Record(v int64) { h.c.record(&plainGrid, v) }

// Snapshot returns the values of now.
func (h *Histogram) Snapshot() HistogramSnapshot { return h.c.snapshot(&plainGrid) }

// Timing is a histogram of durations, recorded in nanoseconds and shown in
// milliseconds as Envoy's are. The zero value is ready; all methods are safe
// for concurrent use.
type Timing struct{ c cells }

// Record adds one duration in nanoseconds, such as a difference between two
// times of http.Now. Negative ones count as 0.
func (t *Timing) Record(ns int64) { t.c.record(&timingGrid, ns) }

// Snapshot returns the values of now, in milliseconds.
func (t *Timing) Snapshot() HistogramSnapshot { return t.c.snapshot(&timingGrid) }

// Distribution is what an Emitter asks of a histogram. It is read once, when
// the metric is written.
type Distribution interface {
	Snapshot() HistogramSnapshot
}

// HistogramSnapshot is the state of a histogram at one time.
type HistogramSnapshot struct {
	// Counts holds the number of values in each bucket, not summed up, in the
	// order of Bounds; the last one counts those above the highest bound.
	Counts [numBounds + 1]uint64
	// Sum of all values, in the unit that is shown.
	Sum float64
}

// Snapshot returns s, which makes a HistogramSnapshot a Distribution.
func (s HistogramSnapshot) Snapshot() HistogramSnapshot { return s }

// Count returns the number of values.
func (s *HistogramSnapshot) Count() uint64 {
	var n uint64
	for _, c := range s.Counts {
		n += c
	}
	return n
}

// Add adds the values of o.
func (s *HistogramSnapshot) Add(o *HistogramSnapshot) {
	for i, c := range o.Counts {
		s.Counts[i] += c
	}
	s.Sum += o.Sum
}

// Quantile estimates the value below which the fraction q of all values lies,
// by linear interpolation within a bucket, as PromQL's histogram_quantile
// does; values above the highest bound count as that bound. NaN without values.
func (s *HistogramSnapshot) Quantile(q float64) float64 {
	total := s.Count()
	if total == 0 {
		return math.NaN()
	}
	rank := q * float64(total)
	var seen, lower float64
	for i, b := range bounds {
		n := float64(s.Counts[i])
		if n > 0 && seen+n >= rank {
			return lower + (b-lower)*(rank-seen)/n
		}
		seen += n
		lower = b
	}
	return lower
}
