// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pillion/bench/load"
	"pillion/bench/origin"
	"pillion/bench/peer"
	"pillion/bench/proc/proctest"
	"pillion/bench/report"
)

// TestMain lets this test's binary be the benchmark's own processes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{origin.Role, load.OpenRole, load.HTTP2Role, load.SocketRole, peer.GoNetHTTPRole}, os.Args[1]) {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		code := dispatch(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	proctest.Run(m)
}

// run calls the command.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = dispatch(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestUsageErrors(t *testing.T) {
	cases := []struct {
		args string
		want string
	}{
		{"-scenario h9", `no scenario is called "h9"; -list names them`},
		{"-peers envoy,envoy", `peer "envoy" is named twice`},
		{"-peers ,", `no peer is called ""`},
		{"-turns 0", "-turns is 0"},
		{"-duration 1500ms", "whole number of seconds"},
		{"-duration 0s", "whole number of seconds"},
		{"-settle -1s", "can't be negative"},
		{"-workers 0", "-workers is 0"},
		{"-band 1", "-band is 1"},
		{"-pin -workers 100000", "-pin needs a CPU beside"},
		{"-quick -turns 3", "-quick chooses -turns itself"},
		{"-nonsense", "not defined: -nonsense"},
		{"h1", `unexpected argument "h1"`},
		{"genmesh", "name one directory"},
		{"genmesh -n 0 x", "-n is 0"},
		{"genmesh -what x", "not defined: -what"},
	}
	for _, c := range cases {
		t.Run(c.args, func(t *testing.T) {
			code, stdout, stderr := run(t, strings.Fields(c.args)...)
			if code != exitUsage || stdout != "" || !strings.Contains(stderr, c.want) || !strings.Contains(stderr, "-help") {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d and %q", code, stdout, stderr, exitUsage, c.want)
			}
		})
	}
}

func TestHelpTeaches(t *testing.T) {
	for _, args := range [][]string{{"-help"}, {"--help"}, {"-h"}} {
		code, _, stderr := run(t, args...)
		for _, s := range []string{"go run ./bench", "-scenario", "-gate", "-quick", "-json", "-svg", "genmesh"} {
			if !strings.Contains(stderr, s) {
				t.Errorf("%v doesn't mention %s", args, s)
			}
		}
		if code != exitOK {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
	if code, _, stderr := run(t, "genmesh", "-help"); code != exitOK || !strings.Contains(stderr, "-subsets") {
		t.Errorf("genmesh -help: exit code %d, %q", code, stderr)
	}
}

func TestList(t *testing.T) {
	code, stdout, _ := run(t, "-list")
	for _, s := range []string{"h1 ", "h1-1000-connections", "idle-connections", "services-1000", "churn", "h2-64x1", "grpc-stream", "tcp", "websocket", "idle-connections-h2", "pillion", "envoy", "haproxy", "nginx", "nghttpx", "gonethttp", "direct"} {
		if !strings.Contains(stdout, s) {
			t.Errorf("%q isn't listed", s)
		}
	}
	if code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestDefaultsAndQuick(t *testing.T) {
	all := peer.All("self")
	o, err := parseOptions(nil, all, os.Stderr)
	if err != nil || len(o.scenarios) != 1 || o.scenarios[0].Name != "h1" || len(o.peers) != len(all) || o.settings.Turns != 5 || o.settings.MemoryTurns != 5 {
		t.Errorf("%+v, %v", o, err)
	}
	quiet := func(string, ...any) {}
	if limit, err := o.limit(6, quiet); err != nil || limit < 5*time.Minute || limit > time.Hour {
		t.Errorf("limit %v, %v", limit, err)
	}
	if o, err = parseOptions([]string{"-quick", "-scenario", "h1,idle"}, all, os.Stderr); err != nil {
		t.Fatal(err)
	}
	if limit, err := o.limit(6, quiet); err != nil || limit != quickLimit {
		t.Errorf("limit %v, %v", limit, err)
	}
	if o, err = parseOptions([]string{"-quick", "-scenario", "all"}, all, os.Stderr); err != nil {
		t.Fatal(err)
	}
	var usage *usageError
	if _, err := o.limit(6, quiet); !errors.As(err, &usage) || !strings.Contains(err.Error(), "name fewer") {
		t.Errorf("error %v for a quick run that can't be quick", err)
	}
	if _, err := parseOptions([]string{"-h"}, all, &bytes.Buffer{}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("error %v", err)
	}
}

func TestGenmesh(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	code, stdout, stderr := run(t, "genmesh", "-n", "3", "-subsets", dir)
	if code != exitOK || !strings.Contains(stdout, "svc-0002.bench.svc.cluster.local:9080") {
		t.Fatalf("exit code %d, %q, %q", code, stdout, stderr)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "*.yaml")); err != nil || len(files) != 3 {
		t.Errorf("files %v, %v", files, err)
	}
	if code, _, stderr := run(t, "genmesh", "-v1", "nowhere", dir); code != exitError || !strings.Contains(stderr, "nowhere") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

// TestRunWritesAllFiles is a whole run of the quickest scenario with the peer
// that needs no program.
func TestRunWritesAllFiles(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	t.Setenv("TMPDIR", in("tmp"))
	if err := os.Mkdir(in("tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NGINX_BIN", in("nothing"))
	code, stdout, stderr := run(t, "-scenario", "idle", "-quick", "-peers", "gonethttp,nginx",
		"-json", in("all.json"), "-svg", in("all.svg"), "-out", in("results"))
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, s := range []string{"idle: memory of a peer", "gonethttp", "nginx took no part: NGINX_BIN="} {
		if !strings.Contains(stdout, s) {
			t.Errorf("%q isn't in the text:\n%s", s, stdout)
		}
	}
	if !strings.Contains(stderr, "idle: turn 1/1: gonethttp ready after") {
		t.Errorf("no progress: %s", stderr)
	}
	for _, f := range []string{"all.json", "results/idle.json"} {
		b, err := os.ReadFile(in(f))
		if err != nil || !json.Valid(b) {
			t.Errorf("%s: %v, valid JSON: %v", f, err, json.Valid(b))
		}
	}
	for _, f := range []string{"all.svg", "results/idle.svg", "results/idle.txt"} {
		if st, err := os.Stat(in(f)); err != nil || st.Size() < 200 {
			t.Errorf("%s: %v", f, err)
		}
	}
	if left, err := os.ReadDir(in("tmp")); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

// TestInterruptedRun: what was measured is shown, and no file pretends to be a
// whole result.
func TestInterruptedRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file := filepath.Join(t.TempDir(), "x.json")
	var out, errs bytes.Buffer
	code := dispatch(ctx, []string{"-scenario", "idle", "-peers", "gonethttp", "-json", file}, nil, &out, &errs)
	if code != exitError || !strings.Contains(errs.String(), "incomplete") {
		t.Errorf("exit code %d, %s", code, errs.String())
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file was written: %v", err)
	}
}

func TestGateFiles(t *testing.T) {
	res := report.Result{Ours: "a", Groups: []report.Group{{Scenario: "s", Headline: report.CPU, Samples: []report.Sample{
		{Peer: "a", Values: map[report.Metric]float64{report.CPU: 1}}, {Peer: "b", Values: map[report.Metric]float64{report.CPU: 2}},
	}}}}
	file := filepath.Join(t.TempDir(), "gate.json")
	if err := writeFiles(options{writeGate: file, band: 0.1}, res); err != nil {
		t.Fatal(err)
	}
	g, err := readGate(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printVerdict(&out, g.Check(res)); err != nil || !strings.Contains(out.String(), "ok    s: cpu_us_per_request, ours ÷ b is 0.500") {
		t.Errorf("%v: %s", err, out.String())
	}
	res.Groups[0].Samples[0].Values[report.CPU] = 1.2
	out.Reset()
	if err := printVerdict(&out, g.Check(res)); err == nil || !strings.Contains(out.String(), "FAIL  s:") {
		t.Errorf("%v: %s", err, out.String())
	}
	if code, _, stderr := run(t, "-gate", file+".absent"); code != exitError || !strings.Contains(stderr, "-write-gate makes one") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
