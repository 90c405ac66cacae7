// SPDX-License-Identifier: Apache-2.0

// Command bench runs the same load through Pillion and its rivals, side by
// side on one machine, and reports what each costs: CPU time for a request,
// latency, memory. See docs/benchmarks.md, or run it with -help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"pillion/bench/load"
	"pillion/bench/origin"
	"pillion/bench/peer"
	"pillion/bench/proc"
	"pillion/bench/report"
	"pillion/bench/scenario"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := dispatch(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// dispatch runs what the first argument names: a role of the benchmark's own
// processes, genmesh, or a benchmark.
func dispatch(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	word, rest := "", args
	if len(args) > 0 {
		word, rest = args[0], args[1:]
	}
	var err error
	switch {
	case word == origin.Role:
		err = origin.ServeFiles(ctx)
	case word == load.OpenRole:
		err = load.ServeOpen(ctx, stdin, stdout)
	case word == load.SocketRole:
		err = load.ServeSocket(ctx, stdin, stdout)
	case word == load.TLSRole:
		err = load.ServeTLS(ctx, stdin, stdout)
	case word == origin.SealedRole && len(rest) == 1:
		err = origin.ServeSealed(ctx, rest[0])
	case word == load.HTTP2Role:
		err = load.ServeHTTP2(ctx, stdin, stdout)
	case word == peer.GoNetHTTPRole && len(rest) == 1:
		err = peer.ServeGoNetHTTP(ctx, rest[0])
	case word == "genmesh":
		err = genmesh(rest, stdout, stderr)
	default:
		err = bench(ctx, args, stdout, stderr)
	}
	var usage *usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "bench: %v\n", err)
	return exitError
}

// usageError is a mistake on the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text + "; -help explains" }

func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// bench is the command itself.
func bench(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the benchmark's own program: %w", err)
	}
	o, err := parseOptions(args, peer.All(self), stderr)
	if err != nil {
		return err
	}
	if o.list {
		return printList(stdout, peer.All(self))
	}
	var gate report.Gate
	if o.gate != "" {
		// Read first: a typing error shouldn't show after minutes.
		if gate, err = readGate(o.gate); err != nil {
			return err
		}
	}
	started := time.Now()
	progress := func(format string, args ...any) {
		fmt.Fprintf(stderr, "%6.1fs  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
	}
	res, runErr := measure(ctx, o, self, progress)
	if len(res.Groups) > 0 {
		if err := res.WriteText(stdout); err != nil {
			return err
		}
	}
	if runErr != nil {
		return fmt.Errorf("the run is incomplete, so no file was written and no gate checked: %w", runErr)
	}
	if err := writeFiles(o, res); err != nil {
		return err
	}
	if o.gate != "" {
		return printVerdict(stdout, gate.Check(res))
	}
	return nil
}

// measure finds the peers, runs the scenarios and ends all that it started.
func measure(ctx context.Context, o options, self string, progress func(string, ...any)) (report.Result, error) {
	dir, err := os.MkdirTemp("", "pillion-bench-")
	if err != nil {
		return report.Result{}, err
	}
	defer os.RemoveAll(dir)
	if o.settings.Profiles != "" {
		if err := os.MkdirAll(o.settings.Profiles, 0o755); err != nil {
			return report.Result{}, err
		}
	}
	group := proc.NewGroup()
	defer group.Close()

	res := report.Result{Ours: peer.Ours, Notes: report.Notes{
		Host: proc.ReadHost(), Commit: commit(ctx), Started: time.Now(),
		Turns: o.settings.Turns, Duration: o.settings.Duration.String(), Workers: o.settings.Workers, Pinned: o.pin,
	}}
	b := &scenario.Bench{
		Settings: o.settings, Group: group, Self: self, Dir: dir, Progress: progress,
		Wrk: program("wrk"), H2Load: program("h2load"), Strace: program("strace"),
	}
	res.Notes.Loader = strings.Join([]string{wrkVersion(ctx, b.Wrk), h2loadVersion(ctx, b.H2Load)}, " and ")
	progress("finding the peers; ours is built")
	for _, p := range o.peers {
		note := report.PeerNote{Name: p.Name(), Summary: p.Summary()}
		tool, err := p.Locate(ctx, dir)
		if missing := (*peer.MissingError)(nil); errors.As(err, &missing) {
			note.Missing = missing.Remedy
			progress("%s takes no part: %s", p.Name(), missing.Remedy)
		} else if err != nil {
			return res, err
		} else {
			note.Version = tool.Version
			b.Peers = append(b.Peers, scenario.Located{Peer: p, Tool: tool})
		}
		res.Notes.Peers = append(res.Notes.Peers, note)
	}
	if len(b.Peers) == 0 {
		return res, errors.New("none of the peers is on this machine")
	}
	limit, err := o.limit(len(b.Peers), progress)
	if err != nil {
		return res, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the run took longer than its limit of %v", limit))
	defer cancel()
	var errs []error
	for _, sc := range o.scenarios {
		groups, err := b.Run(ctx, sc)
		for _, g := range groups {
			if len(g.Samples) > 0 {
				res.Groups = append(res.Groups, g)
			}
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return res, errors.Join(errs...)
}

// program returns the path of a program in PATH, or "".
func program(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// wrkVersion returns "wrk 4.1.0" or the like. wrk -v prints its usage too and
// exits with 1.
func wrkVersion(ctx context.Context, path string) string {
	if path == "" {
		return "wrk (missing)"
	}
	out, _ := exec.CommandContext(ctx, path, "-v").CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	if v, _, ok := strings.Cut(line, " ["); ok {
		return v
	}
	return "wrk"
}

// h2loadVersion returns "h2load nghttp2/1.52.0" or the like.
func h2loadVersion(ctx context.Context, path string) string {
	if path == "" {
		return "h2load (missing)"
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "h2load"
	}
	return strings.TrimSpace(string(out))
}

// commit describes the repository that the working directory is in.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
