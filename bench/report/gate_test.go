// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"strings"
	"testing"
)

// gateFor is a gate with one ratio of the example's h1 peak.
func gateFor(peer string, ratio, band float64) Gate {
	return Gate{Band: band, Ratios: []GateRatio{{Scenario: "h1", Load: "peak", Metric: CPU, Peer: peer, Ratio: ratio}}}
}

func TestGate(t *testing.T) {
	own := 0.0
	strict := gateFor("haproxy", 1.19, 0.5)
	strict.Ratios[0].Band = &own
	cases := []struct {
		name string
		gate Gate
		err  string
	}{
		{"as stored", gateFor("haproxy", 1.2, 0), ""},
		{"better", gateFor("haproxy", 2, 0), ""},
		{"worse within the band", gateFor("haproxy", 1.1, 0.15), ""},
		{"worse beyond the band", gateFor("haproxy", 1.0, 0.15), "1 of 1 ratios"},
		{"a ratio's own band", strict, "1 of 1 ratios"},
		{"peer not measured", gateFor("nginx", 1, 0.1), "none of its ratios was measured"},
		{"one of two not measured", Gate{Ratios: append(gateFor("nginx", 1, 0).Ratios, gateFor("envoy", 0.4, 0).Ratios...)}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := c.gate.Check(example())
			err := v.Err()
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q; verdict %+v", err, c.err, v)
			}
		})
	}
}

// TestGateOfRates: where more is better, less fails.
func TestGateOfRates(t *testing.T) {
	r := Result{Ours: "ours", Groups: []Group{{Scenario: "s", Headline: Rate, Samples: []Sample{
		sample("ours", 0, Rate, 900), sample("envoy", 0, Rate, 1000),
	}}}}
	g := Gate{Band: 0.05, Ratios: []GateRatio{{Scenario: "s", Metric: Rate, Peer: "envoy", Ratio: 1}}}
	if err := g.Check(r).Err(); err == nil {
		t.Error("0.9 passes for a stored 1 and a band of 5 %")
	}
	g.Ratios[0].Ratio = 0.5
	if err := g.Check(r).Err(); err != nil {
		t.Errorf("0.9 fails for a stored 0.5: %v", err)
	}
}

func TestGateFileRoundTrip(t *testing.T) {
	g := GateOf(example(), 0.1)
	if len(g.Ratios) != 2 || g.Ratios[0].Peer != "envoy" || g.Ratios[0].Ratio != 0.333 || g.Ratios[1].Ratio != 1.2 {
		t.Fatalf("gate %+v", g)
	}
	var b bytes.Buffer
	if _, err := g.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	back, err := ReadGate(&b)
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Check(example()).Err(); err != nil {
		t.Errorf("a run fails its own gate: %v", err)
	}
}

func TestReadGateRefuses(t *testing.T) {
	cases := []struct{ file, want string }{
		{``, "EOF"},
		{`{"band":0.1}`, "no ratio"},
		{`{"bnad":0.1}`, "unknown field"},
		{`{"band":1,"ratios":[{"scenario":"a","metric":"b","peer":"c","ratio":1}]}`, "band is 1"},
		{`{"ratios":[{"scenario":"a","metric":"b","ratio":1}]}`, "needs scenario, metric and peer"},
		{`{"ratios":[{"scenario":"a","metric":"b","peer":"c"}]}`, "must be above 0"},
		{`{"ratios":[{"scenario":"a","load":"l","metric":"b","peer":"c","ratio":1,"band":-1}]}`, "a l: b, ours ÷ c: band is -1"},
	}
	for _, c := range cases {
		if g, err := ReadGate(strings.NewReader(c.file)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, error %v, want one with %q", c.file, g, err, c.want)
		}
	}
}
