// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"io"
	"math"
	"slices"
	"time"

	"pillion/bench/proc"
)

// Sample is what one peer did in one turn.
type Sample struct {
	Peer string `json:"peer"`
	// Turn counts from 0; samples of the same turn are a pair.
	Turn   int                `json:"turn"`
	Values map[Metric]float64 `json:"values"`
	// Errors is the number of requests that failed, ErrorKinds says how.
	Errors     int64  `json:"errors,omitempty"`
	ErrorKinds string `json:"error_kinds,omitempty"`
	// Elsewhere is the CPU time, as a share of one core, that neither the peer
	// nor the benchmark used meanwhile: other programs disturbed the sample.
	Elsewhere float64 `json:"cpu_elsewhere,omitempty"`
}

// disturbed is the share of a core above which Elsewhere is worth a mark. Below,
// it is the kernel's own work and the coarseness of its clock ticks.
const disturbed = 0.2

// Group is a set of samples that can be compared: one scenario under one load.
type Group struct {
	Scenario string `json:"scenario"`
	// Load tells groups of one scenario apart: "peak", "50% load"; may be "".
	Load string `json:"load,omitempty"`
	// Title says in a line what was done.
	Title string `json:"title"`
	// Headline is the metric of the ratios, Columns what the table shows.
	Headline Metric   `json:"headline"`
	Columns  []Metric `json:"columns"`
	// Absent says, a line for each, why a peer can't take part.
	Absent  []string `json:"absent,omitempty"`
	Samples []Sample `json:"samples"`
}

// Name is the scenario and the load.
func (g Group) Name() string {
	if g.Load == "" {
		return g.Scenario
	}
	return g.Scenario + " " + g.Load
}

// Row sums up a peer's samples of a group.
type Row struct {
	Peer    string            `json:"peer"`
	Metrics map[Metric]Spread `json:"metrics"`
	// Ratio is ours divided by this peer's, of the headline metric; nil for our
	// own row and where it can't be had.
	Ratio     *Spread `json:"ours_to_peer,omitempty"`
	Errors    int64   `json:"errors,omitempty"`
	Elsewhere float64 `json:"cpu_elsewhere,omitempty"` // the largest of the turns
}

// Rows sums up a group against the peer named ours, in the order in which the
// peers first appear.
func (g Group) Rows(ours string) []Row {
	var names []string
	for _, s := range g.Samples {
		if !slices.Contains(names, s.Peer) {
			names = append(names, s.Peer)
		}
	}
	rows := make([]Row, 0, len(names))
	for _, name := range names {
		r := Row{Peer: name, Metrics: map[Metric]Spread{}}
		values := map[Metric][]float64{}
		for _, s := range g.Samples {
			if s.Peer != name {
				continue
			}
			r.Errors += s.Errors
			r.Elsewhere = max(r.Elsewhere, s.Elsewhere)
			for m, v := range s.Values {
				values[m] = append(values[m], v)
			}
		}
		for m, v := range values {
			r.Metrics[m] = Summarize(v)
		}
		if ratios := Ratios(g.Samples, g.Headline, ours, name); name != ours && len(ratios) > 0 {
			spread := Summarize(ratios)
			r.Ratio = &spread
		}
		rows = append(rows, r)
	}
	return rows
}

// PeerNote tells which program stood behind a peer's name.
type PeerNote struct {
	Name    string `json:"name"`
	Summary string `json:"summary"`
	Version string `json:"version,omitempty"`
	// Missing says why it took no part.
	Missing string `json:"missing,omitempty"`
}

// Notes are what a reader has to know to judge the numbers.
type Notes struct {
	Host proc.Host `json:"host"`
	// Commit is this repository's, with "-dirty" if files were changed.
	Commit   string     `json:"commit"`
	Started  time.Time  `json:"started"`
	Turns    int        `json:"turns"`
	Duration string     `json:"duration"`
	Workers  int        `json:"workers"`
	Pinned   bool       `json:"pinned"`
	Loader   string     `json:"load_generator"`
	Peers    []PeerNote `json:"peers"`
}

// Result is a whole run.
type Result struct {
	Notes  Notes   `json:"notes"`
	Groups []Group `json:"groups"`
	// Ours is the peer that the others are compared with.
	Ours string `json:"ours"`
}

// Scenarios returns the names of the scenarios in order.
func (r Result) Scenarios() []string {
	var names []string
	for _, g := range r.Groups {
		if !slices.Contains(names, g.Scenario) {
			names = append(names, g.Scenario)
		}
	}
	return names
}

// Only returns the result with the groups of one scenario.
func (r Result) Only(scenario string) Result {
	only := r
	only.Groups = nil
	for _, g := range r.Groups {
		if g.Scenario == scenario {
			only.Groups = append(only.Groups, g)
		}
	}
	return only
}

// WriteJSON writes the run with its samples and summaries.
func (r Result) WriteJSON(w io.Writer) error {
	type group struct {
		Group
		Rows []Row `json:"rows"`
	}
	out := struct {
		Notes  Notes   `json:"notes"`
		Ours   string  `json:"ours"`
		Groups []group `json:"groups"`
	}{Notes: r.Notes, Ours: r.Ours, Groups: []group{}}
	for _, g := range r.Groups {
		out.Groups = append(out.Groups, group{Group: g.finite(), Rows: g.finite().Rows(r.Ours)})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(out)
}

// finite returns the group without values that JSON can't hold.
func (g Group) finite() Group {
	out := g
	out.Samples = make([]Sample, len(g.Samples))
	for i, s := range g.Samples {
		out.Samples[i] = s
		out.Samples[i].Values = map[Metric]float64{}
		for m, v := range s.Values {
			if !math.IsNaN(v) && !math.IsInf(v, 0) {
				out.Samples[i].Values[m] = v
			}
		}
	}
	return out
}
