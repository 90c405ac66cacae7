// SPDX-License-Identifier: Apache-2.0

// Command fuzz runs every fuzz target of the module, one after another, for
// the same time each. `go test -fuzz` takes one target of one package at a
// time, so something has to find them.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

// minimize bounds the tries to shorten an input that is new: by default a minute goes into
// each, and of large resources hardly anything else is tried.
const minimize = "20x"

// target is one fuzz function of one package.
type target struct{ pkg, name string }

func main() {
	perTarget := flag.Duration("time", 10*time.Minute, "how long each target runs")
	only := flag.String("run", ".", "run the targets whose package.Name matches this expression")
	flag.Parse()
	if err := run(*perTarget, *only); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(perTarget time.Duration, only string) error {
	filter, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	targets, err := find()
	if err != nil {
		return err
	}
	ran := 0
	var failed []string
	for _, t := range targets {
		if !filter.MatchString(t.pkg + "." + t.name) {
			continue
		}
		ran++
		fmt.Printf("fuzz: %s %s for %v\n", t.pkg, t.name, perTarget)
		cmd := exec.Command("go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", perTarget.String(), "-fuzzminimizetime", minimize, t.pkg)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			failed = append(failed, t.pkg+"."+t.name)
		}
	}
	if ran == 0 {
		return fmt.Errorf("no target matches %q", only)
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d targets failed: %v", len(failed), ran, failed)
	}
	fmt.Printf("fuzz: %d targets clean\n", ran)
	return nil
}

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]*)\(`)

// find reads the test files of every package of the module.
func find() ([]target, error) {
	cmd := exec.Command("go", "list", "-json=Dir,ImportPath,TestGoFiles,XTestGoFiles", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var targets []target
	for dec := json.NewDecoder(out); ; {
		var pkg struct {
			Dir, ImportPath           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := dec.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		for _, file := range append(pkg.TestGoFiles, pkg.XTestGoFiles...) {
			text, err := os.ReadFile(filepath.Join(pkg.Dir, file))
			if err != nil {
				return nil, err
			}
			for _, m := range fuzzFunc.FindAllSubmatch(text, -1) {
				targets = append(targets, target{pkg.ImportPath, string(m[1])})
			}
		}
	}
	return targets, cmd.Wait()
}
