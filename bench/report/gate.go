// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// Gate holds ratios that a later run must not fall behind. Ratios against a
// peer measured in the same run survive a change of machine far better than
// absolute numbers do.
type Gate struct {
	// Band is the part by which a ratio may be worse before the gate fails: 0.1
	// for 10 %. It has to be wider than the noise between runs.
	Band   float64     `json:"band"`
	Ratios []GateRatio `json:"ratios"`
}

// GateRatio is one stored ratio: ours divided by the peer's.
type GateRatio struct {
	Scenario string  `json:"scenario"`
	Load     string  `json:"load,omitempty"`
	Metric   Metric  `json:"metric"`
	Peer     string  `json:"peer"`
	Ratio    float64 `json:"ratio"`
	// Band, if set, replaces the gate's for this ratio.
	Band *float64 `json:"band,omitempty"`
}

// name tells a ratio in messages.
func (e GateRatio) name() string {
	return fmt.Sprintf("%s: %s, ours ÷ %s", Group{Scenario: e.Scenario, Load: e.Load}.Name(), e.Metric, e.Peer)
}

// ReadGate reads a gate file and checks that it makes sense.
func ReadGate(r io.Reader) (Gate, error) {
	var g Gate
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&g); err != nil {
		return Gate{}, err
	}
	if len(g.Ratios) == 0 {
		return Gate{}, errors.New("it holds no ratio")
	}
	bad := func(band float64) bool { return band < 0 || band >= 1 || math.IsNaN(band) }
	if bad(g.Band) {
		return Gate{}, fmt.Errorf("band is %v; it must be from 0 to below 1", g.Band)
	}
	for _, e := range g.Ratios {
		switch {
		case e.Scenario == "" || e.Metric == "" || e.Peer == "":
			return Gate{}, errors.New("each ratio needs scenario, metric and peer")
		case !(e.Ratio > 0):
			return Gate{}, fmt.Errorf("%s: the stored ratio is %v; it must be above 0", e.name(), e.Ratio)
		case e.Band != nil && bad(*e.Band):
			return Gate{}, fmt.Errorf("%s: band is %v; it must be from 0 to below 1", e.name(), *e.Band)
		}
	}
	return g, nil
}

// WriteTo writes the gate as a file for ReadGate.
func (g Gate) WriteTo(w io.Writer) (int64, error) {
	b, err := json.MarshalIndent(g, "", " ")
	if err != nil {
		return 0, err
	}
	n, err := w.Write(append(b, '\n'))
	return int64(n), err
}

// GateOf makes a gate of a run's own headline ratios.
func GateOf(r Result, band float64) Gate {
	g := Gate{Band: band, Ratios: []GateRatio{}}
	for _, grp := range r.Groups {
		for _, row := range grp.Rows(r.Ours) {
			if row.Ratio == nil {
				continue
			}
			g.Ratios = append(g.Ratios, GateRatio{
				Scenario: grp.Scenario, Load: grp.Load, Metric: grp.Headline, Peer: row.Peer,
				Ratio: math.Round(row.Ratio.Median*1000) / 1000,
			})
		}
	}
	return g
}

// Verdict is what a gate says about a run: a line for each of its ratios.
type Verdict struct {
	Failed, Passed []string
	// Unmeasured are ratios that the run has no pair for.
	Unmeasured []string
}

// Err is nil if the run passes. A gate of which nothing was measured fails: it
// would otherwise pass for ever once a scenario is renamed.
func (v Verdict) Err() error {
	switch {
	case len(v.Failed) > 0:
		return fmt.Errorf("gate: %d of %d ratios are worse than the stored ones allow", len(v.Failed), len(v.Failed)+len(v.Passed))
	case len(v.Passed) == 0:
		return errors.New("gate: none of its ratios was measured in this run; name their scenarios and peers")
	}
	return nil
}

// Check compares a run with the stored ratios.
func (g Gate) Check(r Result) Verdict {
	var v Verdict
	for _, e := range g.Ratios {
		band := g.Band
		if e.Band != nil {
			band = *e.Band
		}
		i := slices.IndexFunc(r.Groups, func(x Group) bool { return x.Scenario == e.Scenario && x.Load == e.Load })
		var ratios []float64
		if i >= 0 {
			ratios = Ratios(r.Groups[i].Samples, e.Metric, r.Ours, e.Peer)
		}
		if len(ratios) == 0 {
			v.Unmeasured = append(v.Unmeasured, e.name()+": not measured in this run")
			continue
		}
		got := Summarize(ratios)
		worse, limit := got.Median > e.Ratio*(1+band), e.Ratio*(1+band)
		if e.Metric.describe().higher {
			worse, limit = got.Median < e.Ratio*(1-band), e.Ratio*(1-band)
		}
		line := fmt.Sprintf("%s is %.3f (%.3f–%.3f); stored %.3f, limit %.3f with a band of %.0f %%",
			e.name(), got.Median, got.Min, got.Max, e.Ratio, limit, 100*band)
		if worse {
			v.Failed = append(v.Failed, line)
		} else {
			v.Passed = append(v.Passed, line)
		}
	}
	return v
}
