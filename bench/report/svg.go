// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// The chart's measures, in pixels.
const (
	svgWidth   = 760
	svgMargin  = 24
	svgLabels  = 96  // column of the peers' names
	svgValues  = 170 // column of the numbers behind the bars
	svgBar     = 20
	svgPitch   = 30 // from bar to bar
	svgHead    = 24 // title of a panel
	svgLine    = 17 // line of a subtitle
	svgChars   = 106
	svgGap     = 16 // between subtitle and bars
	svgPanels  = 26 // between panels
	svgBarFrom = svgMargin + svgLabels
	svgBarMax  = svgWidth - svgBarFrom - svgValues - svgMargin
)

// svgStyle follows the reader's light or dark setting. The accent is ours, the
// others share one quiet colour: the chart compares one with the rest.
const svgStyle = `<style>
.bg{fill:#ffffff}.t{fill:#14213d;font-weight:600;font-size:16px}.s{fill:#5c677d;font-size:12.5px;font-weight:400}
.n{fill:#14213d;font-size:13.5px}.v{fill:#14213d;font-size:13px;font-variant-numeric:tabular-nums}.r{fill:#5c677d}
.bar{fill:#a9b4c4}.ours{fill:#0a7ea4}.nours{font-weight:600}.w{stroke:#33415c;stroke-width:1.4}.a{stroke:#d7dde6;stroke-width:1}
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
@media (prefers-color-scheme:dark){
.bg{fill:#0d1117}.t,.n,.v{fill:#e6edf3}.s,.r{fill:#9aa7b6}.bar{fill:#4b5768}.ours{fill:#2aa7d1}.w{stroke:#c9d4e0}.a{stroke:#2b3440}}
</style>
`

// bar is one bar of a panel.
type bar struct {
	peer   string
	spread Spread
	ours   bool
	failed bool
	// times is this peer's value as a multiple of ours; 0 if unknown.
	times float64
}

// WriteSVG draws the headline metric of each group as a panel of bars, best
// first, with a whisker from the lowest to the highest turn.
func (r Result) WriteSVG(w io.Writer) error {
	var body strings.Builder
	y := svgMargin
	for _, g := range r.Groups {
		bars := g.bars(r.Ours)
		if len(bars) == 0 {
			continue
		}
		if y > svgMargin {
			y += svgPanels
		}
		y = g.drawPanel(&body, y, bars)
	}
	n := r.Notes
	y = drawLines(&body, y+svgPanels, fmt.Sprintf("%s, %d cores, %s · commit %s · %s · medians, whiskers from the lowest turn to the highest",
		orUnknown(n.Host.CPU), n.Host.Cores, orUnknown(n.Host.Kernel), n.Commit, n.Started.UTC().Format("2006-01-02")))
	height := y + svgMargin/2
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		svgWidth, height, svgWidth, height, html.EscapeString("Benchmark: "+strings.Join(r.Scenarios(), ", ")))
	b.WriteString(svgStyle)
	fmt.Fprintf(&b, `<rect class="bg" width="%d" height="%d" rx="8"/>`+"\n", svgWidth, height)
	b.WriteString(body.String())
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// drawLines writes a text in the quiet style from y down and returns where it
// ends.
func drawLines(b *strings.Builder, y int, text string) int {
	for _, line := range wrap(text, svgChars) {
		fmt.Fprintf(b, `<text class="s" x="%d" y="%d">%s</text>`+"\n", svgMargin, y+12, html.EscapeString(line))
		y += svgLine
	}
	return y
}

// wrap breaks a text at spaces into lines of at most so many characters, but
// for longer words.
func wrap(text string, most int) []string {
	var lines []string
	line, length := "", 0
	for word := range strings.FieldsSeq(text) {
		n := utf8.RuneCountInString(word)
		if length > 0 && length+1+n > most {
			lines = append(lines, line)
			line, length = "", 0
		}
		if length > 0 {
			line += " "
			length++
		}
		line += word
		length += n
	}
	return append(lines, line)
}

// bars returns the rows that have the headline metric, best first.
func (g Group) bars(ours string) []bar {
	var bars []bar
	for _, row := range g.Rows(ours) {
		if s, ok := row.Metrics[g.Headline]; ok {
			x := bar{peer: row.Peer, spread: s, ours: row.Peer == ours, failed: row.Errors > 0}
			if row.Ratio != nil && row.Ratio.Median > 0 {
				x.times = 1 / row.Ratio.Median
			}
			bars = append(bars, x)
		}
	}
	slices.SortStableFunc(bars, func(a, b bar) int {
		if g.Headline.describe().higher {
			a, b = b, a
		}
		return cmp.Compare(a.spread.Median, b.spread.Median)
	})
	return bars
}

// drawPanel draws a group from y down and returns where it ends.
func (g Group) drawPanel(b *strings.Builder, y int, bars []bar) int {
	a := g.Headline.describe()
	better := "lower is better"
	if a.higher {
		better = "higher is better"
	}
	fmt.Fprintf(b, `<text class="t" x="%d" y="%d">%s<tspan class="s" dx="10">%s</tspan></text>`+"\n", svgMargin, y+16,
		html.EscapeString(g.Name()+": "+a.title+", "+a.unit), better)
	y = drawLines(b, y+svgHead, g.Title) + svgGap
	top := 0.0
	for _, x := range bars {
		top = max(top, x.spread.Max)
	}
	scale := 0.0
	if top > 0 {
		scale = svgBarMax / top
	}
	fmt.Fprintf(b, `<line class="a" x1="%d" x2="%d" y1="%d" y2="%d"/>`+"\n", svgBarFrom, svgBarFrom, y-6, y+svgPitch*len(bars)-4)
	for _, x := range bars {
		g.drawBar(b, y, x, scale)
		y += svgPitch
	}
	return y
}

// drawBar draws one bar with its name, whisker and number.
func (g Group) drawBar(b *strings.Builder, y int, x bar, scale float64) {
	class, name := "bar", "n"
	if x.ours {
		class, name = "ours", "n nours"
	}
	width := func(v float64) float64 { return max(0, v*scale) }
	mid := y + svgBar/2
	fmt.Fprintf(b, `<text class="%s" x="%d" y="%d" text-anchor="end">%s</text>`, name, svgBarFrom-10, mid+5, html.EscapeString(x.peer))
	fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="3"/>`, class, svgBarFrom, y, width(x.spread.Median), svgBar)
	if x.spread.N > 1 {
		from, to := svgBarFrom+width(x.spread.Min), svgBarFrom+width(x.spread.Max)
		fmt.Fprintf(b, `<line class="w" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, from, to, mid, mid)
		for _, end := range []float64{from, to} {
			fmt.Fprintf(b, `<line class="w" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, end, end, mid-4, mid+4)
		}
	}
	number := g.Headline.format(x.spread.Median)
	relation := ""
	if x.times > 0 {
		relation = fmt.Sprintf("%.2f× ours", x.times)
	}
	if x.failed {
		relation += " · failed requests"
	}
	fmt.Fprintf(b, `<text class="v" x="%.1f" y="%d">%s<tspan class="r" dx="8">%s</tspan></text>`+"\n",
		svgBarFrom+width(x.spread.Max)+10, mid+5, html.EscapeString(number), html.EscapeString(relation))
}
