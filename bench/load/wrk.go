// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pillion/bench/proc"
)

// Wrk is the closed-loop generator, the program wrk.
type Wrk struct {
	// Path is the executable.
	Path string
	// Dir is where scripts are written; the caller removes it.
	Dir string
	// Threads of wrk; never more than connections.
	Threads int
	// CPUs, if not empty, are the only processors for it.
	CPUs []int
}

// Run sends req over so many connections for duration d.
func (w Wrk) Run(ctx context.Context, g *proc.Group, req Request, connections int, d time.Duration) (Result, error) {
	// One name for all: runs don't overlap, and the directory stays tidy.
	script := filepath.Join(w.Dir, "wrk.lua")
	if err := os.WriteFile(script, []byte(wrkScript(req)), 0o600); err != nil {
		return Result{}, fmt.Errorf("write the script of wrk: %w", err)
	}
	var out bytes.Buffer
	p, err := g.Run(ctx, proc.Spec{
		Name: "wrk",
		Path: w.Path,
		Args: []string{
			"-t", strconv.Itoa(max(1, min(w.Threads, connections))),
			"-c", strconv.Itoa(connections),
			"-d", fmt.Sprintf("%ds", wholeSeconds(d)),
			"-s", script,
			"http://" + req.Addr + req.Path,
		},
		Stdout: &out,
		CPUs:   w.CPUs,
	})
	if err != nil {
		return Result{}, err
	}
	r, err := parseWrk(out.Bytes())
	if err != nil {
		return Result{}, fmt.Errorf("%w; wrk wrote:\n%s\n%s", err, out.String(), p.Tail())
	}
	r.DriverCPU = p.CPU()
	return r, nil
}

// wholeSeconds rounds up: wrk takes no fraction of a second.
func wholeSeconds(d time.Duration) int {
	return int(max(1, (d+time.Second-1)/time.Second))
}

// resultMark begins the line that our script makes wrk print.
const resultMark = "bench-result "

// wrkScript returns the Lua program that makes wrk send req and print its
// figures in a form made for parsing: wrk's own report rounds them and has no
// quantile above 99 %.
func wrkScript(r Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "wrk.method = %q\n", r.Method())
	fmt.Fprintf(&b, "wrk.headers[\"Host\"] = %q\n", r.Host)
	for _, f := range r.Fields {
		fmt.Fprintf(&b, "wrk.headers[%q] = %q\n", f[0], f[1])
	}
	if r.Close {
		b.WriteString("wrk.headers[\"Connection\"] = \"close\"\n")
	}
	if r.Body > 0 {
		fmt.Fprintf(&b, "wrk.body = string.rep(%q, %d)\n", bodyByte, r.Body)
	}
	fmt.Fprintf(&b, `
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    "%sduration_us=%%d requests=%%d connect=%%d read=%%d write=%%d status=%%d timeout=%%d " ..
    "p50_us=%%d p90_us=%%d p99_us=%%d p999_us=%%d max_us=%%d\n",
    summary.duration, summary.requests, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9), latency.max))
end
`, resultMark)
	return b.String()
}

// parseWrk finds the line of our script in wrk's output.
func parseWrk(out []byte) (Result, error) {
	_, after, ok := bytes.Cut(out, []byte(resultMark))
	if !ok {
		return Result{}, fmt.Errorf("wrk printed no line that begins with %q", strings.TrimSpace(resultMark))
	}
	line, _, _ := bytes.Cut(after, []byte("\n"))
	v := map[string]int64{}
	for _, f := range strings.Fields(string(line)) {
		key, val, ok := strings.Cut(f, "=")
		n, err := strconv.ParseInt(val, 10, 64)
		if !ok || err != nil {
			return Result{}, fmt.Errorf("wrk's result has the field %q", f)
		}
		v[key] = n
	}
	const fields = 12
	if len(v) != fields {
		return Result{}, fmt.Errorf("wrk's result has %d fields, want %d", len(v), fields)
	}
	us := func(key string) time.Duration { return time.Duration(v[key]) * time.Microsecond }
	return Result{
		Requests: v["requests"],
		Duration: us("duration_us"),
		Errors: Errors{
			Connect: v["connect"], Read: v["read"], Write: v["write"],
			Status: v["status"], Timeout: v["timeout"],
		},
		Latency: Latency{
			P50: us("p50_us"), P90: us("p90_us"), P99: us("p99_us"), P999: us("p999_us"), Max: us("max_us"),
		},
	}, nil
}
