// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"math"
	"testing"
)

// TestLinesAgree compares the lines with what client_golang's encoders write.
func TestLinesAgree(t *testing.T) {
	sets := []labels{
		{},
		{[]string{"a"}, []string{"b"}},
		{[]string{"a", "b_c"}, []string{"", "outbound|80||x.y"}},
		{[]string{"a"}, []string{"\"\\\n\té\xff"}},
	}
	f := &family{name: "envoy_x", help: "Help."}
	for i, v := range []float64{0, 1, -1, math.Copysign(0, -1), 0.5, 7, 999_999, 1e6, 1_234_567, 1e21, 1e-7, -12.25,
		math.MaxUint64, math.Inf(1), math.Inf(-1), math.NaN()} {
		for s := range sets {
			f.values = append(f.values, numbered[float64]{int32((i + s) % len(sets)), v})
		}
	}
	for _, openMetrics := range []bool{false, true} {
		for _, name := range []string{"envoy_x", "envoy_x_total"} {
			for _, f.kind = range []Kind{KindCounter, KindGauge} {
				f.name = name
				var got, want bytes.Buffer
				if err := newEncoder(&got, openMetrics).encode(f, sets); err != nil {
					t.Fatal(err)
				}
				if err := newEncoder(nil, openMetrics).one(&want, f.proto(sets)); err != nil {
					t.Fatal(err)
				}
				if got.String() != want.String() {
					t.Errorf("OpenMetrics %v, %v %s:\n%s\nwant:\n%s", openMetrics, f.kind, name, &got, &want)
				}
			}
		}
	}
}
