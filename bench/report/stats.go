// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"slices"
)

// Spread is the median of some values with their extremes.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// Summarize returns the spread of values, which stay as they are. Of none it
// is not-a-number.
func Summarize(values []float64) Spread {
	if len(values) == 0 {
		return Spread{Median: math.NaN(), Min: math.NaN(), Max: math.NaN()}
	}
	s := slices.Clone(values)
	slices.Sort(s)
	mid := len(s) / 2
	median := s[mid]
	if len(s)%2 == 0 {
		median = (s[mid-1] + s[mid]) / 2
	}
	return Spread{Median: median, Min: s[0], Max: s[len(s)-1], N: len(s)}
}

// Ratios divides the metric of peer a by that of peer b, turn by turn: both
// values of a pair were measured within seconds of each other, so that what
// changes slowly on the machine cancels out. A turn that lacks one of them gives
// no ratio. If b's value isn't positive in every turn there is none at all: it
// is a difference lost in noise.
func Ratios(samples []Sample, m Metric, a, b string) []float64 {
	type key struct {
		peer string
		turn int
	}
	at := map[key]float64{}
	turns := 0
	for _, s := range samples {
		if v, ok := s.Values[m]; ok {
			at[key{s.Peer, s.Turn}] = v
			turns = max(turns, s.Turn+1)
		}
	}
	var out []float64
	for t := range turns {
		va, oka := at[key{a, t}]
		vb, okb := at[key{b, t}]
		switch {
		case !oka || !okb:
			continue
		case !(vb > 0):
			return nil
		}
		out = append(out, va/vb)
	}
	return out
}
