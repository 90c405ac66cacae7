// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// WriteText writes the run as aligned tables: the headline metric and the
// ratio with their spread, the other columns as medians.
func (r Result) WriteText(w io.Writer) error {
	var b strings.Builder
	n := r.Notes
	fmt.Fprintf(&b, "%s, %d cores, %d MiB, %s, %s\n", orUnknown(n.Host.CPU), n.Host.Cores, n.Host.MemoryMB, orUnknown(n.Host.Kernel), n.Host.Go)
	pinned := ""
	if n.Pinned {
		pinned = ", each on its own CPUs"
	}
	fmt.Fprintf(&b, "commit %s, %s, loads of %s by %s, %d worker(s) each%s, load average before %.2f\n",
		n.Commit, n.Started.UTC().Format("2006-01-02 15:04 MST"), n.Duration, n.Loader, n.Workers, pinned, n.Host.Load1)
	for _, p := range n.Peers {
		switch {
		case p.Missing != "":
			fmt.Fprintf(&b, "%s took no part: %s\n", p.Name, p.Missing)
		default:
			fmt.Fprintf(&b, "%s is %s\n", p.Name, p.Version)
		}
	}
	for _, g := range r.Groups {
		b.WriteByte('\n')
		g.writeTable(&b, r.Ours)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// writeTable writes one group.
func (g Group) writeTable(b *strings.Builder, ours string) {
	rows := g.Rows(ours)
	hasRatio, hasErrors, turns := false, false, 0
	for _, r := range rows {
		turns = max(turns, r.Metrics[g.Headline].N)
		hasRatio = hasRatio || r.Ratio != nil
		hasErrors = hasErrors || r.Errors > 0
	}
	fmt.Fprintf(b, "%s: %s\n", g.Name(), g.Title)
	fmt.Fprintf(b, "turns: %d; medians, in parentheses the lowest and the highest turn\n", turns)
	head := []string{"peer", g.Headline.heading()}
	if hasRatio {
		head = append(head, ours+" ÷ peer")
	}
	for _, m := range g.Columns {
		if m != g.Headline {
			head = append(head, m.heading())
		}
	}
	if hasErrors {
		head = append(head, "errors")
	}
	cells := [][]string{head}
	for _, r := range rows {
		cells = append(cells, g.cells(r, hasRatio, hasErrors))
	}
	writeAligned(b, cells)
	g.writeMarks(b, rows)
}

// cells are the texts of a row.
func (g Group) cells(r Row, hasRatio, hasErrors bool) []string {
	out := []string{r.Peer + marks(r), spreadText(r.Metrics, g.Headline)}
	if hasRatio {
		text := ""
		if r.Ratio != nil {
			text = fmt.Sprintf("%.2f (%.2f–%.2f)", r.Ratio.Median, r.Ratio.Min, r.Ratio.Max)
		}
		out = append(out, text)
	}
	for _, m := range g.Columns {
		if m == g.Headline {
			continue
		}
		text := "–"
		if s, ok := r.Metrics[m]; ok {
			text = m.format(s.Median)
		}
		out = append(out, text)
	}
	if hasErrors {
		out = append(out, grouped(float64(r.Errors), 0))
	}
	return out
}

// spreadText is "27.1 (26.8–27.9)".
func spreadText(metrics map[Metric]Spread, m Metric) string {
	s, ok := metrics[m]
	if !ok {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", m.format(s.Median), m.format(s.Min), m.format(s.Max))
}

// marks follow a peer's name where its numbers need a word.
func marks(r Row) string {
	s := ""
	if r.Errors > 0 {
		s += " !"
	}
	if r.Elsewhere > disturbed {
		s += " ~"
	}
	return s
}

// writeMarks explains the marks of a table.
func (g Group) writeMarks(b *strings.Builder, rows []Row) {
	worst := 0.0
	for _, r := range rows {
		worst = max(worst, r.Elsewhere)
		if r.Errors == 0 {
			continue
		}
		kinds := ""
		for _, s := range g.Samples {
			if s.Peer == r.Peer && s.Errors > 0 {
				kinds = s.ErrorKinds // of the last turn that had any
			}
		}
		fmt.Fprintf(b, "  ! %s failed requests (%s in one turn): its numbers are those of a peer that fails\n", r.Peer, kinds)
	}
	for _, why := range g.Absent {
		fmt.Fprintf(b, "  left out: %s\n", why)
	}
	if worst > disturbed {
		fmt.Fprintf(b, "  ~ other programs used up to %.0f %% of a core in one turn: run it again on a quiet machine\n", 100*worst)
	}
}

// writeAligned writes cells in columns: the first to the left, the others to
// the right.
func writeAligned(b *strings.Builder, cells [][]string) {
	widths := make([]int, len(cells[0]))
	for _, row := range cells {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range cells {
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			switch {
			case i == 0 && len(row) == 1:
				b.WriteString(c)
			case i == 0:
				b.WriteString(c + pad)
			default:
				b.WriteString("  " + pad + c)
			}
		}
		b.WriteByte('\n')
	}
}
