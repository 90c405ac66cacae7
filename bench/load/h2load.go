// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"pillion/bench/hist"
	"pillion/bench/proc"
)

// H2Load is the closed-loop generator for HTTP/2, nghttp2's program h2load.
type H2Load struct {
	// Path is the executable.
	Path string
	// Dir is where its files are written; the caller removes it.
	Dir string
	// CPUs, if not empty, are the only processors for it.
	CPUs []int
}

// Run sends req over so many connections for duration d, with so many requests
// under way on each.
func (h H2Load) Run(ctx context.Context, g *proc.Group, req Request, connections, streams int, d time.Duration) (Result, error) {
	// One name for all: runs don't overlap, and the directory stays tidy.
	log := filepath.Join(h.Dir, "h2load.log")
	if err := os.Remove(log); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Result{}, err
	}
	args := []string{
		"--threads=1", "--clients=" + strconv.Itoa(connections), "--max-concurrent-streams=" + strconv.Itoa(streams),
		"--duration=" + strconv.Itoa(wholeSeconds(d)), "--log-file=" + log,
		"--header=:authority: " + req.Host,
	}
	for _, f := range req.Fields {
		args = append(args, "--header="+f[0]+": "+f[1])
	}
	if req.Body > 0 {
		file := filepath.Join(h.Dir, "h2load.body")
		if err := os.WriteFile(file, bytes.Repeat([]byte(bodyByte), req.Body), 0o600); err != nil {
			return Result{}, err
		}
		args = append(args, "--data="+file)
	}
	var out bytes.Buffer
	p, err := g.Run(ctx, proc.Spec{
		Name: "h2load", Path: h.Path, Args: append(args, "http://"+req.Addr+req.Path), Stdout: &out, CPUs: h.CPUs,
	})
	if err != nil {
		return Result{}, err
	}
	r, err := parseH2Load(out.String())
	if err != nil {
		return Result{}, fmt.Errorf("%w; h2load wrote:\n%s\n%s", err, out.String(), p.Tail())
	}
	r.DriverCPU = p.CPU()
	r.Latency, err = h2loadLatency(log)
	return r, err
}

// The lines of h2load's report that matter:
//
//	finished in 2.00s, 48214.50 req/s, 50.36MB/s
//	requests: 96429 total, 96493 started, 96429 done, 96429 succeeded, 0 failed, 0 errored, 0 timeout
//	status codes: 96429 2xx, 0 3xx, 0 4xx, 0 5xx
var (
	h2loadFinished = regexp.MustCompile(`(?m)^finished in ([0-9.]+(?:us|ms|s|m|h)),`)
	h2loadRequests = regexp.MustCompile(`(?m)^requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
)

// parseH2Load reads h2load's report. To it a request fails by its status, by an
// error of the stream or connection, or by a timeout.
func parseH2Load(out string) (Result, error) {
	f, n := h2loadFinished.FindStringSubmatch(out), h2loadRequests.FindStringSubmatch(out)
	if f == nil || n == nil {
		return Result{}, errors.New("h2load printed no result")
	}
	d, err := time.ParseDuration(f[1])
	if err != nil {
		return Result{}, fmt.Errorf("h2load's time is %q: %w", f[1], err)
	}
	var v [5]int64
	for i := range v {
		if v[i], err = strconv.ParseInt(n[i+1], 10, 64); err != nil {
			return Result{}, fmt.Errorf("h2load's result: %w", err)
		}
	}
	done, failed, errored, timeout := v[0], v[2], v[3], v[4]
	return Result{
		Requests: done, Duration: d,
		// "failed" includes those that errored.
		Errors: Errors{Status: failed - errored, Read: errored, Timeout: timeout},
	}, nil
}

// h2loadLatency sums up the log of h2load: for each request its start, the
// status and the microseconds to the end of its answer.
func h2loadLatency(file string) (Latency, error) {
	f, err := os.Open(file)
	if err != nil {
		return Latency{}, fmt.Errorf("h2load's log: %w", err)
	}
	defer f.Close()
	var h hist.Histogram
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		_, last, _ := strings.Cut(sc.Text(), "\t")
		_, last, ok := strings.Cut(last, "\t")
		us, err := strconv.ParseInt(last, 10, 64)
		if !ok || err != nil {
			return Latency{}, fmt.Errorf("h2load's log has the line %q", sc.Text())
		}
		h.Record(time.Duration(us) * time.Microsecond)
	}
	return latencyOf(&h), sc.Err()
}
