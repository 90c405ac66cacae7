// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"pillion/bench/proc"
)

// sample is a shorthand.
func sample(peer string, turn int, m Metric, v float64) Sample {
	return Sample{Peer: peer, Turn: turn, Values: map[Metric]float64{m: v}}
}

// example is a run of three peers and the direct way.
func example() Result {
	g := Group{
		Scenario: "h1", Load: "peak", Title: "many <small> requests", Headline: CPU, Columns: []Metric{CPU, Rate, RSS},
	}
	for turn, v := range []float64{30, 31, 29} {
		g.Samples = append(g.Samples, sample("ours", turn, CPU, v), sample("envoy", turn, CPU, 3*v), sample("haproxy", turn, CPU, 25))
	}
	g.Samples = append(g.Samples, sample("direct", 0, Rate, 123456))
	g.Samples[0].Values[RSS] = 24.25
	g.Samples[4].Errors, g.Samples[4].ErrorKinds = 3, "3 read"
	g.Samples[5].Elsewhere = 0.5
	return Result{
		Ours: "ours",
		Notes: Notes{
			Host:   proc.Host{CPU: "Test CPU", Cores: 2, Kernel: "Linux 6", Go: "go1"},
			Commit: "abc", Started: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Turns: 3, Duration: "5s", Workers: 1, Loader: "wrk 4",
			Peers: []PeerNote{{Name: "envoy", Version: "Envoy 1"}, {Name: "nginx", Missing: "make tools installs it"}},
		},
		Groups: []Group{g, {Scenario: "idle", Title: "memory", Headline: RSS, Absent: []string{"nginx has no memory"}, Columns: []Metric{RSS}, Samples: []Sample{sample("ours", 0, RSS, 24)}}},
	}
}

func TestSummarize(t *testing.T) {
	cases := []struct {
		in   []float64
		want Spread
	}{
		{[]float64{3}, Spread{3, 3, 3, 1}},
		{[]float64{5, 1, 3}, Spread{3, 1, 5, 3}},
		{[]float64{4, 1, 3, 2}, Spread{2.5, 1, 4, 4}},
	}
	for _, c := range cases {
		before := append([]float64(nil), c.in...)
		if got := Summarize(c.in); got != c.want || !reflect.DeepEqual(before, c.in) {
			t.Errorf("Summarize(%v) = %+v, want %+v, input unchanged", before, got, c.want)
		}
	}
	if s := Summarize(nil); !math.IsNaN(s.Median) || s.N != 0 {
		t.Errorf("of nothing: %+v", s)
	}
}

func TestRatiosArePaired(t *testing.T) {
	// The machine becomes twice as slow in turn 1; a lacks turn 2, b turn 3.
	s := []Sample{
		sample("a", 0, CPU, 30), sample("b", 0, CPU, 100), sample("b", 1, CPU, 200), sample("a", 1, CPU, 60),
		sample("b", 2, CPU, 1), sample("a", 3, CPU, 1), sample("a", 4, Rate, 5), sample("b", 4, Rate, 5),
	}
	if got := Ratios(s, CPU, "a", "b"); !reflect.DeepEqual(got, []float64{0.3, 0.3}) {
		t.Errorf("ratios %v, want 0.3 twice", got)
	}
	if got := Ratios(s, CPU, "a", "c"); got != nil {
		t.Errorf("ratios with nobody: %v", got)
	}
	s = append(s, sample("a", 5, CPU, 1), sample("b", 5, CPU, -2))
	if got := Ratios(s, CPU, "a", "b"); got != nil {
		t.Errorf("ratios beside a negative value: %v", got)
	}
}

func TestRows(t *testing.T) {
	rows := example().Groups[0].Rows("ours")
	if len(rows) != 4 || rows[0].Peer != "ours" || rows[1].Peer != "envoy" || rows[3].Peer != "direct" {
		t.Fatalf("rows %+v", rows)
	}
	if rows[0].Ratio != nil || rows[3].Ratio != nil {
		t.Error("a ratio for ourselves, or without a value")
	}
	if r := rows[1].Ratio; r == nil || math.Abs(r.Median-1.0/3) > 1e-9 || r.N != 3 {
		t.Errorf("ratio to envoy %+v", r)
	}
	if rows[1].Errors != 3 || rows[2].Elsewhere != 0.5 || rows[0].Metrics[CPU] != (Spread{30, 29, 31, 3}) {
		t.Errorf("rows %+v", rows)
	}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := example().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	want := `Test CPU, 2 cores, 0 MiB, Linux 6, go1
commit abc, 2030-01-02 03:04 UTC, loads of 5s by wrk 4, 1 worker(s) each, load average before 0.00
envoy is Envoy 1
nginx took no part: make tools installs it

h1 peak: many <small> requests
turns: 3; medians, in parentheses the lowest and the highest turn
peer       CPU per request µs       ours ÷ peer  requests/s  RSS MiB  errors
ours         30.0 (29.0–31.0)                             –     24.2       0
envoy !      90.0 (87.0–93.0)  0.33 (0.33–0.33)           –        –       3
haproxy ~    25.0 (25.0–25.0)  1.20 (1.16–1.24)           –        –       0
direct                      –                       123,456        –       0
  ! envoy failed requests (3 read in one turn): its numbers are those of a peer that fails
  ~ other programs used up to 50 % of a core in one turn: run it again on a quiet machine

idle: memory
turns: 1; medians, in parentheses the lowest and the highest turn
peer           RSS MiB
ours  24.0 (24.0–24.0)
  left out: nginx has no memory
`
	if b.String() != want {
		t.Errorf("text is\n%s\nwant\n%s", b.String(), want)
	}
}

func TestGrouped(t *testing.T) {
	cases := []struct {
		v      float64
		digits int
		want   string
	}{
		{0, 0, "0"}, {999, 0, "999"}, {1000, 0, "1,000"}, {-1234567.891, 2, "-1,234,567.89"}, {0.05, 1, "0.1"}, {math.NaN(), 1, "–"}, {12345.6, 1, "12,345.6"},
	}
	for _, c := range cases {
		if got := grouped(c.v, c.digits); got != c.want {
			t.Errorf("grouped(%v, %d) = %q, want %q", c.v, c.digits, got, c.want)
		}
	}
}

// TestMetricsAreDescribed: a metric without a description would show its
// technical name as a heading.
func TestMetricsAreDescribed(t *testing.T) {
	for _, m := range []Metric{
		CPU, CPUSystem, CPUPerGiB, BytesRate, Rate, P50, P90, P99, P999, AddedP50, AddedP90, AddedP99, AddedP999, Switches, Syscalls,
		RSS, Anon, PerConnection, RSSBefore, RSSHeld, RSSAfter, Ready,
	} {
		if a := m.describe(); a.title == "" || a.title == string(m) || a.unit == "" {
			t.Errorf("%s: %+v", m, a)
		}
	}
	if got := Metric("strange").heading(); got != "strange" {
		t.Errorf("unknown metric is headed %q", got)
	}
}

func TestJSON(t *testing.T) {
	r := example()
	r.Groups[1].Samples[0].Values[Anon] = math.NaN() // can't be written; must not break the rest
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Notes  Notes
		Groups []struct {
			Scenario string
			Rows     []Row
			Samples  []Sample
		}
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Notes.Host.CPU != "Test CPU" || len(got.Groups) != 2 || len(got.Groups[0].Samples) != 10 || got.Groups[0].Rows[1].Ratio.N != 3 {
		t.Errorf("read back %+v", got)
	}
}

func TestSVG(t *testing.T) {
	r := example()
	r.Groups[0].Title = strings.Repeat("a long title & more ", 12)
	var b bytes.Buffer
	if err := r.WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	type shape struct{ class, width string }
	var bars []shape
	height, lowest := 0.0, 0.0
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, text)
		}
		e, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		attr := map[string]string{}
		for _, a := range e.Attr {
			attr[a.Name.Local] = a.Value
		}
		y, _ := strconv.ParseFloat(attr["y"], 64)
		lowest = max(lowest, y)
		switch {
		case e.Name.Local == "svg":
			height, _ = strconv.ParseFloat(attr["height"], 64)
		case e.Name.Local == "rect" && attr["class"] != "bg":
			bars = append(bars, shape{attr["class"], attr["width"]})
		}
	}
	// Best first, in proportion: 25, 30 and 90 of at most 93; then idle's one.
	w := func(v, top float64) string { return strconv.FormatFloat(v*svgBarMax/top, 'f', 1, 64) }
	want := []shape{{"bar", w(25, 93)}, {"ours", w(30, 93)}, {"bar", w(90, 93)}, {"ours", w(24, 24)}}
	if !reflect.DeepEqual(bars, want) {
		t.Errorf("bars %v, want %v", bars, want)
	}
	if lowest >= height {
		t.Errorf("something is at y %v of a picture of height %v", lowest, height)
	}
	for _, s := range []string{"3.00× ours", "failed requests", "a long title &amp; more", "commit abc", "prefers-color-scheme"} {
		if !strings.Contains(text, s) {
			t.Errorf("%q isn't in it", s)
		}
	}
}

func TestWrap(t *testing.T) {
	cases := []struct {
		in   string
		most int
		want []string
	}{
		{"", 5, []string{""}},
		{"one two", 7, []string{"one two"}},
		{"one two", 6, []string{"one", "two"}},
		{"µµµ µµµ x", 7, []string{"µµµ µµµ", "x"}},
		{"a verylongword b", 4, []string{"a", "verylongword", "b"}},
	}
	for _, c := range cases {
		if got := wrap(c.in, c.most); !reflect.DeepEqual(got, c.want) {
			t.Errorf("wrap(%q, %d) = %q, want %q", c.in, c.most, got, c.want)
		}
	}
}

func TestOnly(t *testing.T) {
	r := example()
	if got := r.Scenarios(); !reflect.DeepEqual(got, []string{"h1", "idle"}) {
		t.Errorf("scenarios %v", got)
	}
	if only := r.Only("idle"); len(only.Groups) != 1 || only.Groups[0].Scenario != "idle" || len(r.Groups) != 2 {
		t.Errorf("only idle: %+v", only.Groups)
	}
}
