// SPDX-License-Identifier: Apache-2.0

package match

import (
	"math"
	"math/rand/v2"
	"testing"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

func TestShare(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 200_000
	for _, c := range []struct {
		numerator uint32
		of        typev3.FractionalPercent_DenominatorType
		want      float64
	}{
		{0, typev3.FractionalPercent_HUNDRED, 0}, {1, typev3.FractionalPercent_HUNDRED, .01}, {50, typev3.FractionalPercent_HUNDRED, .5},
		{100, typev3.FractionalPercent_HUNDRED, 1}, {500, typev3.FractionalPercent_HUNDRED, 1},
		{2500, typev3.FractionalPercent_TEN_THOUSAND, .25}, {333_333, typev3.FractionalPercent_MILLION, .333333}, {1_000_000, typev3.FractionalPercent_MILLION, 1},
	} {
		s, taken := NewShare(c.numerator, int32(c.of)), 0
		for range n {
			if s.Takes(rng.Uint64()) {
				taken++
			}
		}
		got := float64(taken) / n
		if math.Abs(got-c.want) > .005 || (c.want == 0 || c.want == 1) && got != c.want || s.Empty() != (c.want == 0) {
			t.Errorf("%d of %v takes %v", c.numerator, c.of, got)
		}
	}
	// Two decisions about one request don't depend on each other.
	half, both := NewShare(50, 0), 0
	for range n {
		r := rng.Uint64()
		if half.Takes(Mix(r, 1)) && half.Takes(Mix(r, 2)) {
			both++
		}
	}
	if got := float64(both) / n; math.Abs(got-.25) > .005 {
		t.Errorf("two halves together take %v", got)
	}
}

func TestFraction(t *testing.T) {
	for _, c := range []struct {
		f       Fraction
		yes, no uint64
	}{
		{Fraction{1, 100}, 100, 1}, {Fraction{25, 10_000}, 24, 25}, {Fraction{999_999, 1_000_000}, 999_998, 999_999},
	} {
		if !c.f.Takes(c.yes) || c.f.Takes(c.no) {
			t.Errorf("%v takes the wrong ones", c.f)
		}
	}
	if !(Fraction{}).Takes(7) || (Fraction{0, 100}).Takes(0) || !(Fraction{100, 100}).Takes(99) {
		t.Error("all or nothing is something else")
	}
}
