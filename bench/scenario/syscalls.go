// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pillion/bench/load"
	"pillion/bench/peer"
	"pillion/bench/proc"
	"pillion/bench/report"
)

const (
	// traceTime is the length of the traced load; attachTime is how long strace
	// gets to attach to all threads before it.
	traceTime  = 2 * time.Second
	attachTime = 500 * time.Millisecond
)

// countSyscalls drives each peer once more under strace and adds the number of
// system calls for one request to its first sample. It is a load of its own,
// because tracing slows a peer down several times over.
func (s *session) countSyscalls(ctx context.Context, g *report.Group) error {
	if s.Strace == "" {
		return errors.New("strace isn't here, and system calls are counted by it: install Debian's package strace")
	}
	return s.turns(ctx, g.Name(), 1, s.serving, func(l Located, _ int) error {
		r := s.running[l.Peer.Name()]
		if r.Process == nil {
			return nil
		}
		n, err := s.trace(ctx, r, func() (load.Result, error) { return s.closedLoop(ctx, r, traceTime) })
		if err != nil {
			return err
		}
		s.Progress("%s: %s: %.1f system calls per request", g.Name(), l.Peer.Name(), n)
		for i := range g.Samples {
			if x := &g.Samples[i]; x.Peer == l.Peer.Name() && x.Turn == 0 {
				x.Values[report.Syscalls] = n
			}
		}
		return nil
	})
}

// trace returns a peer's system calls for one request of a load.
func (b *Bench) trace(ctx context.Context, r *peer.Running, drive func() (load.Result, error)) (float64, error) {
	out := filepath.Join(b.Dir, "strace."+r.Peer.Name())
	defer os.Remove(out)
	var pids []int
	for _, p := range r.Processes() {
		members, err := proc.Members(p.PID())
		if err != nil {
			return 0, err
		}
		pids = append(pids, members...)
	}
	args := []string{"-f", "-c", "-o", out}
	for _, pid := range pids {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	p, err := b.Group.Start(proc.Spec{Name: "strace", Path: b.Strace, Args: args})
	if err != nil {
		return 0, err
	}
	defer b.Group.Stop(p)
	if err := pause(ctx, attachTime); err != nil {
		return 0, err
	}
	select {
	case <-p.Exited():
		return 0, p.Failure()
	default:
	}
	res, err := drive()
	if err != nil {
		return 0, err
	}
	b.Group.Stop(p) // detaches and writes the table
	table, err := os.ReadFile(out)
	if err != nil {
		return 0, fmt.Errorf("strace left no table: %w; it wrote: %s", err, p.Tail())
	}
	calls, err := parseStrace(string(table))
	if err != nil {
		return 0, err
	}
	if res.Requests == 0 {
		return 0, errors.New("no request was answered under strace")
	}
	return float64(calls) / float64(res.Requests), nil
}

// parseStrace returns the number of calls in the total line of strace -c:
//
//	100.00    1.234567           5    246913         3 total
func parseStrace(table string) (int64, error) {
	sc := bufio.NewScanner(strings.NewReader(table))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 5 || f[len(f)-1] != "total" {
			continue
		}
		n, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("strace's total line is %q", sc.Text())
		}
		return n, nil
	}
	return 0, fmt.Errorf("strace's table has no total line:\n%s", table)
}
