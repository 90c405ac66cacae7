// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"pillion/bench/peer"
	"pillion/bench/proc"
	"pillion/bench/scenario"
)

// quickLimit is the longest that a run with -quick may take.
const quickLimit = 2 * time.Minute

// options is a command line, checked.
type options struct {
	scenarios []scenario.Scenario
	peers     []peer.Peer
	settings  scenario.Settings

	json, svg, out  string
	gate, writeGate string
	band            float64
	quick, list     bool
	pin             bool
}

const usageHead = `Runs the same load through Pillion and its rivals, side by side on this machine,
and prints what each costs.

  go run ./bench                                    the scenario h1, all peers
  go run ./bench -quick -scenario h1,idle           a first impression, below two minutes
  go run ./bench -scenario all -out bench/results   everything, with files to keep
  go run ./bench -gate bench/gate.json -quick       fail if a stored ratio has become worse
  go run ./bench -list                              the scenarios and peers
  go run ./bench genmesh -n 1000 DIR                the YAML of 1,000 services

Every peer has one worker thread (-workers), the same job and its own best
configuration. They are measured in turns A B C A B C; the table has medians
with the lowest and highest turn, and the ratio of ours to each peer's, taken
turn by turn. Run it on a quiet machine: only ratios within one run mean much.

`

// parseOptions reads the command line. all are the peers that can be named.
func parseOptions(args []string, all []peer.Peer, stderr io.Writer) (options, error) {
	var o options
	var scenarios, peers string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&scenarios, "scenario", "h1", "comma-separated `scenarios`, or all")
	f.StringVar(&peers, "peers", "all", "comma-separated `peers`, or all")
	f.IntVar(&o.settings.Turns, "turns", 5, "how often each peer is measured")
	f.DurationVar(&o.settings.Duration, "duration", 5*time.Second, "length of one measurement under load, whole seconds")
	f.DurationVar(&o.settings.Settle, "settle", 3*time.Second, "wait before memory is read")
	f.IntVar(&o.settings.Workers, "workers", 1, "threads for traffic that each peer gets")
	f.BoolVar(&o.settings.Open, "open", true, "measure latency at fixed rates too, where a scenario says so")
	f.BoolVar(&o.pin, "pin", false, "give the peer CPUs of its own, load and origin the others")
	f.BoolVar(&o.settings.Syscalls, "syscalls", false, "count system calls with strace, in a load of its own")
	f.StringVar(&o.settings.Profiles, "profile", "", "write CPU profiles of ours under each load into `DIR`")
	f.BoolVar(&o.quick, "quick", false, "few short turns: at most two minutes, for a first impression")
	f.StringVar(&o.json, "json", "", "write samples and summaries to `FILE`")
	f.StringVar(&o.svg, "svg", "", "draw the chart into `FILE`")
	f.StringVar(&o.out, "out", "", "write SCENARIO.txt, .json and .svg into `DIR`")
	f.StringVar(&o.gate, "gate", "", "fail if a ratio is worse than the one stored in `FILE`")
	f.StringVar(&o.writeGate, "write-gate", "", "store this run's ratios in `FILE`")
	f.Float64Var(&o.band, "band", 0.15, "noise band that -write-gate stores: 0.15 lets a ratio be 15 % worse")
	f.BoolVar(&o.list, "list", false, "print the scenarios and peers")
	if err := f.Parse(args); err == flag.ErrHelp {
		fmt.Fprint(stderr, usageHead+"Flags:\n")
		f.SetOutput(stderr)
		f.PrintDefaults()
		return o, err
	} else if err != nil {
		return o, usagef("%v", err)
	}
	if f.NArg() > 0 {
		return o, usagef("unexpected argument %q", f.Arg(0))
	}
	set := map[string]bool{}
	f.Visit(func(x *flag.Flag) { set[x.Name] = true })
	if err := o.choose(scenarios, peers, all); err != nil {
		return o, err
	}
	return o, o.check(set)
}

// choose resolves the names of scenarios and peers.
func (o *options) choose(scenarios, peers string, all []peer.Peer) error {
	var err error
	o.scenarios, err = pick("scenario", scenarios, scenario.All(), func(s scenario.Scenario) string { return s.Name })
	if err != nil {
		return err
	}
	o.peers, err = pick("peer", peers, all, peer.Peer.Name)
	return err
}

// pick returns the things of a comma-separated list of names, or all.
func pick[T any](what, names string, from []T, name func(T) string) ([]T, error) {
	if names == "all" {
		return from, nil
	}
	var out []T
	var seen []string
	for n := range strings.SplitSeq(names, ",") {
		n = strings.TrimSpace(n)
		i := slices.IndexFunc(from, func(x T) bool { return name(x) == n })
		if i < 0 {
			return nil, usagef("no %s is called %q; -list names them", what, n)
		}
		if slices.Contains(seen, n) {
			return nil, usagef("%s %q is named twice", what, n)
		}
		seen = append(seen, n)
		out = append(out, from[i])
	}
	return out, nil
}

// check completes the settings and refuses what makes no sense; set tells
// which flags were given.
func (o *options) check(set map[string]bool) error {
	s := &o.settings
	s.MemoryTurns = s.Turns
	if o.quick {
		for _, name := range []string{"turns", "duration", "settle"} {
			if set[name] {
				return usagef("-quick chooses -%s itself", name)
			}
		}
		s.Turns, s.MemoryTurns, s.Duration, s.Settle, s.OpenHalf = 2, 1, time.Second, time.Second, true
	}
	switch {
	case s.Turns < 1:
		return usagef("-turns is %d; it must be at least 1", s.Turns)
	case s.Duration < time.Second || s.Duration%time.Second != 0:
		return usagef("-duration is %v; it must be a whole number of seconds", s.Duration)
	case s.Settle < 0:
		return usagef("-settle is %v; it can't be negative", s.Settle)
	case s.Workers < 1:
		return usagef("-workers is %d; it must be at least 1", s.Workers)
	case !(o.band >= 0 && o.band < 1):
		return usagef("-band is %v; it must be from 0 to below 1", o.band)
	}
	if !o.pin {
		return nil
	}
	cpus, err := proc.CPUs()
	if err != nil {
		return err
	}
	if len(cpus) <= s.Workers {
		return usagef("-pin needs a CPU beside those of the %d worker(s), and this machine gives %d", s.Workers, len(cpus))
	}
	s.Pin = cpus
	return nil
}

// limit tells how long the run will take and returns when it is broken off.
func (o *options) limit(peers int, progress func(string, ...any)) (time.Duration, error) {
	var estimate time.Duration
	for _, sc := range o.scenarios {
		measured := peers
		if sc.Features {
			measured = 1 + len(peer.Features(sc.Inbound))
		}
		estimate += sc.Measure.Estimate(o.settings, measured)
	}
	estimate = estimate.Round(time.Second)
	if !o.quick {
		progress("this will take about %v", estimate)
		return 2*estimate + time.Minute, nil
	}
	if estimate > quickLimit {
		return 0, usagef("-quick is for at most %v, and this would take about %v: name fewer scenarios or peers", quickLimit, estimate)
	}
	progress("this will take about %v, and at most %v", estimate, quickLimit)
	return quickLimit, nil
}

// printList writes the tables of scenarios and peers.
func printList(w io.Writer, peers []peer.Peer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "scenario\tmeasures")
	for _, s := range scenario.All() {
		fmt.Fprintf(t, "%s\t%s\n", s.Name, s.Summary)
	}
	fmt.Fprintln(t, "\npeer\tis")
	for _, p := range peers {
		fmt.Fprintf(t, "%s\t%s\n", p.Name(), p.Summary())
	}
	return t.Flush()
}
