// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestGridNeedsOneComparison holds the property that bucket relies on.
func TestGridNeedsOneComparison(t *testing.T) {
	for name, g := range map[string]*grid{"plain": &plainGrid, "timing": &timingGrid} {
		seen := map[int]float64{}
		for i, b := range bounds {
			l := bits.Len64(g.limit[i])
			if other, ok := seen[l]; ok {
				t.Errorf("%s: bounds %v and %v have the same bit length", name, other, b)
			}
			seen[l] = b
		}
	}
}

func TestBucketMatchesDefinition(t *testing.T) {
	for name, g := range map[string]*grid{"plain": &plainGrid, "timing": &timingGrid} {
		check := func(v uint64) {
			t.Helper()
			want := numBounds
			for i, b := range bounds {
				if float64(v)/g.scale <= b {
					want = i
					break
				}
			}
			if got := g.bucket(v); got != want {
				t.Errorf("%s: bucket(%d) = %d, want %d", name, v, got, want)
			}
		}
		for _, b := range bounds {
			at := uint64(b * g.scale)
			for _, v := range []uint64{at, at + 1, at + 2} {
				check(v)
			}
			if at > 0 {
				check(at - 1)
			}
		}
		check(0)
		check(math.MaxInt64)
		rng := rand.New(rand.NewPCG(1, 2))
		for range 10000 {
			check(rng.Uint64() >> rng.UintN(64) >> 1)
		}
	}
}

func TestTimingSumIsExact(t *testing.T) {
	var h Timing
	for range 1_000_000 {
		h.Record(1)
	}
	h.Record(int64(1500 * time.Microsecond))
	h.Record(-5)
	s := h.Snapshot()
	if s.Sum != 2.5 {
		t.Errorf("sum = %v ms, want 2.5", s.Sum)
	}
	if s.Count() != 1_000_002 {
		t.Errorf("count = %d, want 1000002", s.Count())
	}
	if s.Counts[0] != 1_000_001 || s.Counts[2] != 1 {
		t.Errorf("buckets = %v", s.Counts)
	}
}

func TestHistogramConcurrent(t *testing.T) {
	var h Histogram
	var wg sync.WaitGroup
	const workers, each = 4, 5000
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				h.Record(int64(i % (w + 2)))
			}
		})
	}
	for range 100 {
		s := h.Snapshot()
		if s.Count() > workers*each {
			t.Fatalf("count %d is more than was recorded", s.Count())
		}
	}
	wg.Wait()
	s := h.Snapshot()
	if s.Count() != workers*each {
		t.Errorf("count = %d, want %d", s.Count(), workers*each)
	}
	want := 0
	for w := range workers {
		for i := range each {
			want += i % (w + 2)
		}
	}
	if s.Sum != float64(want) {
		t.Errorf("sum = %v, want %d", s.Sum, want)
	}
}

func TestQuantile(t *testing.T) {
	var h Histogram
	s := h.Snapshot()
	if q := s.Quantile(0.5); !math.IsNaN(q) {
		t.Errorf("quantile of nothing = %v, want NaN", q)
	}
	for range 100 {
		h.Record(75) // bucket 50..100
	}
	s = h.Snapshot()
	for _, c := range []struct{ q, want float64 }{{0, 50}, {0.5, 75}, {1, 100}} {
		if got := s.Quantile(c.q); got != c.want {
			t.Errorf("Quantile(%v) = %v, want %v", c.q, got, c.want)
		}
	}
	h = Histogram{}
	h.Record(math.MaxInt64)
	s = h.Snapshot()
	if got := s.Quantile(0.5); got != 3600000 {
		t.Errorf("quantile above all bounds = %v, want the highest bound", got)
	}
}

func TestSnapshotAdd(t *testing.T) {
	var a, b Histogram
	a.Record(3)
	b.Record(30)
	s, o := a.Snapshot(), b.Snapshot()
	s.Add(&o)
	if s.Count() != 2 || s.Sum != 33 || s.Counts[2] != 1 || s.Counts[5] != 1 {
		t.Errorf("merged = %+v", s)
	}
}

func TestRecordDoesNotAllocate(t *testing.T) {
	var h Histogram
	var d Timing
	if n := testing.AllocsPerRun(1000, func() { h.Record(812); d.Record(3_000_000) }); n != 0 {
		t.Errorf("%v allocations per record, want 0", n)
	}
}

func BenchmarkBucket(b *testing.B) {
	n := 0
	for i := range b.N {
		n += timingGrid.bucket(uint64(i) * 7919)
	}
	if n < 0 {
		b.Fatal(n)
	}
}

func BenchmarkTimingRecord(b *testing.B) {
	var h Timing
	b.ReportAllocs()
	for i := range b.N {
		h.Record(int64(i) * 7919)
	}
}
