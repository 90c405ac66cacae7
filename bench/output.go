// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"pillion/bench/report"
)

// writeFiles writes the files that the options ask for.
func writeFiles(o options, res report.Result) error {
	type file struct {
		path  string
		write func(io.Writer) error
	}
	files := []file{{o.json, res.WriteJSON}, {o.svg, res.WriteSVG}}
	if o.out != "" {
		if err := os.MkdirAll(o.out, 0o755); err != nil {
			return err
		}
		for _, name := range res.Scenarios() {
			only := res.Only(name)
			base := filepath.Join(o.out, name)
			files = append(files, file{base + ".txt", only.WriteText}, file{base + ".json", only.WriteJSON}, file{base + ".svg", only.WriteSVG})
		}
	}
	if o.writeGate != "" {
		files = append(files, file{o.writeGate, func(w io.Writer) error {
			_, err := report.GateOf(res, o.band).WriteTo(w)
			return err
		}})
	}
	for _, f := range files {
		if f.path == "" {
			continue
		}
		if err := writeFile(f.path, f.write); err != nil {
			return err
		}
	}
	return nil
}

// writeFile creates or replaces a file.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		_ = f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close()
}

// readGate reads a gate file.
func readGate(path string) (report.Gate, error) {
	f, err := os.Open(path)
	if err != nil {
		return report.Gate{}, fmt.Errorf("-gate: %w; -write-gate makes one", err)
	}
	defer f.Close()
	g, err := report.ReadGate(f)
	if err != nil {
		return report.Gate{}, fmt.Errorf("-gate: %s: %w", path, err)
	}
	return g, nil
}

// printVerdict writes what the gate found, worst last, and returns its error.
func printVerdict(w io.Writer, v report.Verdict) error {
	fmt.Fprintln(w)
	for _, part := range []struct {
		word  string
		lines []string
	}{{"skip", v.Unmeasured}, {"ok  ", v.Passed}, {"FAIL", v.Failed}} {
		for _, l := range part.lines {
			fmt.Fprintf(w, "%s  %s\n", part.word, l)
		}
	}
	return v.Err()
}
