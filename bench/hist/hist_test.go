// SPDX-License-Identifier: Apache-2.0

package hist

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBucketsCoverEveryValueOnce(t *testing.T) {
	prev := -1
	for i := range buckets {
		u := upper(i)
		if got := index(u); got != i {
			t.Fatalf("index(upper(%d) = %d) = %d", i, u, got)
		}
		if got := index(u + 1); i+1 < buckets && got != i+1 {
			t.Fatalf("index(%d) = %d, want the bucket after %d", u+1, got, i)
		}
		if int(u) <= prev {
			t.Fatalf("bucket %d ends at %d, not above %d", i, u, prev)
		}
		prev = int(u)
	}
	if uint64(maxVal) != upper(buckets-1) {
		t.Fatalf("last bucket ends at %d, want %d", upper(buckets-1), uint64(maxVal))
	}
}

func TestQuantiles(t *testing.T) {
	var one, empty Histogram
	one.Record(1500 * time.Nanosecond)
	cases := []struct {
		name string
		h    *Histogram
		q    float64
		want time.Duration
	}{
		{"empty", &empty, 0.5, 0},
		{"single median", &one, 0.5, 1500},
		{"single maximum", &one, 1, 1500},
		{"single minimum", &one, 0, 1500},
	}
	for _, c := range cases {
		if got := c.h.Quantile(c.q); got != c.want {
			t.Errorf("%s: Quantile(%v) = %v, want %v", c.name, c.q, got, c.want)
		}
	}
}

// TestErrorBound compares with exact quantiles of a long-tailed sample.
func TestErrorBound(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var a, b Histogram
	all := make([]time.Duration, 0, 50000)
	for i := range cap(all) {
		d := time.Duration(20000 + r.ExpFloat64()*300000)
		if i%1000 == 0 {
			d *= 50
		}
		all = append(all, d)
		if i%2 == 0 {
			a.Record(d)
		} else {
			b.Record(d)
		}
	}
	a.Merge(&b)
	slices.Sort(all)
	if a.Count() != uint64(len(all)) || a.Max() != all[len(all)-1] {
		t.Fatalf("count %d max %v, want %d %v", a.Count(), a.Max(), len(all), all[len(all)-1])
	}
	var sum time.Duration
	for _, d := range all {
		sum += d
	}
	if got, want := a.Mean(), sum/time.Duration(len(all)); got < want-1 || got > want+1 {
		t.Errorf("Mean = %v, want %v", got, want)
	}
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[max(int(q*float64(len(all)))-1, 0)]
		got := a.Quantile(q)
		if got < want || float64(got-want) > float64(want)/sub {
			t.Errorf("Quantile(%v) = %v, want %v and at most 1/%d above", q, got, want, sub)
		}
	}
}

func TestExtremesAreKept(t *testing.T) {
	var h Histogram
	h.Record(-time.Second)
	h.Record(48 * time.Hour)
	if h.Count() != 2 || h.Max() != maxVal || h.Quantile(0) != 0 {
		t.Errorf("count %d max %v min %v", h.Count(), h.Max(), h.Quantile(0))
	}
}

func TestRecordDoesNotAllocate(t *testing.T) {
	h := new(Histogram)
	if n := testing.AllocsPerRun(100, func() { h.Record(123456) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
