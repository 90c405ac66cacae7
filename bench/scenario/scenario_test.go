// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pillion/bench/load"
	"pillion/bench/origin"
	"pillion/bench/peer"
	"pillion/bench/proc"
	"pillion/bench/proc/proctest"
	"pillion/bench/report"
	"pillion/test/need"
)

// TestMain lets this test's binary be the programs that are part of the
// benchmark's own.
func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	var err error
	switch role {
	case origin.Role:
		err = origin.ServeFiles(ctx)
	case origin.SealedRole:
		err = origin.ServeSealed(ctx, os.Args[2])
	case load.TLSRole:
		err = load.ServeTLS(ctx, os.Stdin, os.Stdout)
	case load.HTTP2Role:
		err = load.ServeHTTP2(ctx, os.Stdin, os.Stdout)
	case load.SocketRole:
		err = load.ServeSocket(ctx, os.Stdin, os.Stdout)
	case load.OpenRole:
		err = load.ServeOpen(ctx, os.Stdin, os.Stdout)
	case peer.GoNetHTTPRole:
		err = peer.ServeGoNetHTTP(ctx, os.Args[2])
	default:
		proctest.Run(m)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// crashing is a peer whose program ends at once.
type crashing struct{}

func (crashing) Name() string           { return "crashing" }
func (crashing) Summary() string        { return "fails" }
func (crashing) Unable(peer.Job) string { return "" }
func (crashing) Locate(context.Context, string) (peer.Tool, error) {
	return peer.Tool{}, nil
}
func (crashing) Prepare(peer.Tool, string, peer.Job) (peer.Launch, error) {
	return peer.Launch{Addr: "127.0.0.1:1", Spec: &proc.Spec{
		Name: "crashing", Path: "sh", Args: []string{"-c", "echo no such luck >&2; exit 7"},
	}}, nil
}

// bench returns a Bench with the baseline, the direct way and more peers.
func bench(t *testing.T, more ...peer.Peer) *Bench {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := proc.NewGroup()
	t.Cleanup(g.Close)
	b := &Bench{
		Settings: Settings{
			Turns: 2, MemoryTurns: 2, Duration: time.Second, Settle: 50 * time.Millisecond, Workers: 1, Open: true, OpenHalf: true,
		},
		Group: g, Self: self, Dir: t.TempDir(), Progress: t.Logf,
	}
	for _, p := range append(more, peer.All(self)...) {
		if n := p.Name(); n != "gonethttp" && n != peer.Direct && n != "crashing" {
			continue
		}
		tool, err := p.Locate(t.Context(), b.Dir)
		if err != nil {
			t.Fatal(err)
		}
		b.Peers = append(b.Peers, Located{Peer: p, Tool: tool})
	}
	return b
}

// named returns a scenario of the table.
func named(t *testing.T, name string) Scenario {
	t.Helper()
	for _, s := range All() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no scenario %q", name)
	return Scenario{}
}

func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range All() {
		switch {
		case seen[s.Name]:
			t.Errorf("%s is there twice", s.Name)
		case strings.ContainsAny(s.Name, " ,/"):
			t.Errorf("%q can't be a file's name or an element of a list", s.Name)
		case s.Summary == "" || s.Services < 1 || s.Connections < 1 || s.Measure == nil:
			t.Errorf("%+v lacks something", s)
		}
		seen[s.Name] = true
		if e := s.Measure.Estimate(Settings{Turns: 5, MemoryTurns: 5, Duration: time.Second, Settle: time.Second}, 3); e < time.Second {
			t.Errorf("%s is estimated to take %v", s.Name, e)
		}
	}
}

// sampled checks that each peer has a sample in each turn, with the metrics.
func sampled(t *testing.T, g report.Group, turns int, peers []string, metrics ...report.Metric) {
	t.Helper()
	if len(g.Samples) != turns*len(peers) {
		t.Fatalf("%s: %d samples, want %d of %v", g.Name(), len(g.Samples), turns, peers)
	}
	for i, s := range g.Samples {
		if s.Peer != peers[i%len(peers)] || s.Turn != i/len(peers) {
			t.Errorf("%s: sample %d is %s's of turn %d: not in turns", g.Name(), i, s.Peer, s.Turn)
		}
		if s.Errors > 0 {
			t.Errorf("%s: %s: errors %s", g.Name(), s.Peer, s.ErrorKinds)
		}
		for _, m := range metrics {
			v, ok := s.Values[m]
			if !ok && s.Peer == peer.Direct {
				continue
			}
			if !ok || math.IsNaN(v) || v <= 0 {
				t.Errorf("%s: %s: %s is %v", g.Name(), s.Peer, m, v)
			}
		}
	}
}

func TestThroughput(t *testing.T) {
	b := bench(t)
	b.Wrk, b.Turns = need.Program(t, "wrk"), 1
	groups, err := b.Run(t.Context(), named(t, "h1"))
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) != 2 || groups[0].Load != "peak" || groups[1].Load != "50% load" {
		t.Fatalf("groups %+v", groups)
	}
	both := []string{"gonethttp", peer.Direct}
	sampled(t, groups[0], 1, both, report.CPU, report.CPUSystem, report.Rate, report.P50, report.P999, report.RSS, report.Anon, report.Switches)
	sampled(t, groups[1], 1, both, report.CPU, report.P50, report.P99)
	if !strings.Contains(groups[1].Title, "50 % of the peak of gonethttp") || groups[1].Headline != report.AddedP99 {
		t.Errorf("%q, headline %s", groups[1].Title, groups[1].Headline)
	}
	// The peak is what one core gives; the fixed rate is half of it.
	cpu, rate := groups[0].Samples[0].Values[report.CPU], groups[0].Samples[0].Values[report.Rate]
	if cores := cpu * rate / 1e6; cores > 2.5 {
		t.Errorf("%.1f µs at %.0f/s are %.1f cores", cpu, rate, cores)
	}
	for _, s := range groups[1].Samples {
		if s.Values[report.Rate] > rate {
			t.Errorf("%s got %v requests/s at half load, the peak is %v", s.Peer, s.Values[report.Rate], rate)
		}
	}
}

func TestThroughputWithoutWrk(t *testing.T) {
	b := bench(t)
	for name, tool := range map[string]string{"churn": "package wrk", "h2": "package nghttp2-client"} {
		if _, err := b.Run(t.Context(), named(t, name)); err == nil || !strings.Contains(err.Error(), "make tools") || !strings.Contains(err.Error(), tool) {
			t.Errorf("%s: error %v, want one that says how to get %s", name, err, tool)
		}
	}
}

// TestProtocols runs each scenario of another protocol than HTTP/1.1, all
// groups of it.
func TestProtocols(t *testing.T) {
	b := bench(t)
	b.Wrk, b.H2Load, b.Turns = need.Program(t, "wrk"), need.Program(t, "h2load"), 1
	both := []string{"gonethttp", peer.Direct}
	requests := []report.Metric{report.CPU, report.Rate, report.P50, report.P999}
	bytes := []report.Metric{report.CPUPerGiB, report.BytesRate}
	for name, loads := range map[string][]string{
		"h2": {"peak", "50% load"}, "h1-to-h2": {"peak"}, "h2-to-h1": {"peak"}, "grpc-unary": {"peak", "50% load"},
		"grpc-stream": {"peak"}, "tcp": {"bulk", "peak", "50% load"}, "websocket": {"peak"},
	} {
		t.Run(name, func(t *testing.T) {
			groups, err := b.Run(t.Context(), named(t, name))
			if err != nil || len(groups) != len(loads) {
				t.Fatalf("%d groups, %v; want %v", len(groups), err, loads)
			}
			for i, g := range groups {
				metrics := requests
				if loads[i] == "bulk" {
					metrics = bytes
				}
				if g.Load != loads[i] {
					t.Errorf("group %d is %q, want %q", i, g.Load, loads[i])
				}
				sampled(t, g, 1, both, metrics...)
			}
		})
	}
}

// TestTLS runs each scenario of mutual TLS.
func TestTLS(t *testing.T) {
	b := bench(t)
	b.Wrk, b.Turns = need.Program(t, "wrk"), 1
	for _, sc := range ofTLS() {
		t.Run(sc.Name, func(t *testing.T) {
			metrics := []report.Metric{report.CPU, report.Rate, report.P50, report.RSS}
			if strings.HasPrefix(sc.Name, "handshakes") {
				metrics = append(metrics, report.Handshakes)
			}
			groups, err := b.Run(t.Context(), sc)
			loads := 1 + len(sc.Measure.(Throughput).openShares(b.Settings))
			if err != nil || len(groups) != loads {
				t.Fatalf("%d groups, want %d, %v", len(groups), loads, err)
			}
			if !strings.Contains(groups[0].Absent[len(groups[0].Absent)-1], "direct") {
				t.Errorf("absent: %q, want the direct way", groups[0].Absent)
			}
			sampled(t, groups[0], 1, []string{"gonethttp"}, metrics...)
			if v := groups[0].Samples[0].Values; v[report.Handshakes] != 0 && math.Abs(v[report.Handshakes]*v[report.CPU]-1e6) > 1 {
				t.Errorf("%v handshakes a second at %v µs", v[report.Handshakes], v[report.CPU])
			}
		})
	}
	sc := named(t, "idle-connections-mtls")
	sc.Connections = 100
	groups, err := b.Run(t.Context(), sc)
	if err != nil {
		t.Fatal(err)
	}
	sampled(t, groups[0], 2, []string{"gonethttp"}, report.PerConnection)
}

// unable is a peer that can't do any job.
type unable struct{ crashing }

func (unable) Unable(peer.Job) string { return "crashing is in no mood" }

// TestUnablePeerIsLeftOut: that isn't a failure, and the table says why.
func TestUnablePeerIsLeftOut(t *testing.T) {
	b := bench(t, unable{})
	for _, name := range []string{"idle", "idle-connections-h2"} {
		sc := named(t, name)
		sc.Connections = min(sc.Connections, 50)
		groups, err := b.Run(t.Context(), sc)
		if err != nil || len(groups[0].Absent) != 1 || groups[0].Absent[0] != "crashing is in no mood" {
			t.Fatalf("%s: %v, absent %v", name, err, groups[0].Absent)
		}
		sampled(t, groups[0], 2, []string{"gonethttp"})
	}
}

func TestStartup(t *testing.T) {
	b := bench(t)
	groups, err := b.Run(t.Context(), named(t, "services-1000"))
	if err != nil {
		t.Fatal(err)
	}
	sampled(t, groups[0], 2, []string{"gonethttp"}, report.Ready, report.RSS, report.Anon)
}

// driven adds ours to the peers: what a control plane can drive.
func driven(t *testing.T, b *Bench) {
	t.Helper()
	for _, p := range peer.All(b.Self) {
		if p.Name() != peer.Ours {
			continue
		}
		tool, err := p.Locate(t.Context(), b.Dir)
		if err != nil {
			t.Fatal(err)
		}
		b.Peers = append(b.Peers, Located{Peer: p, Tool: tool})
	}
}

// TestDriven: a peer takes what it is sent, and changes cost something.
func TestDriven(t *testing.T) {
	b := bench(t)
	driven(t, b)
	b.MemoryTurns = 1
	sc := named(t, "xds-100")
	sc.Services = 10
	groups, err := b.Run(t.Context(), sc)
	if err != nil {
		t.Fatal(err)
	}
	sampled(t, groups[0], 1, []string{peer.Ours}, report.Ready, report.RSS, report.EndpointCPU, report.RouteCPU)
}

// TestPushed: requests go on while routes change.
func TestPushed(t *testing.T) {
	b := bench(t)
	driven(t, b)
	sc := named(t, "xds-push")
	sc.Services, sc.Measure = 10, Pushed{Rate: 200, Every: 50 * time.Millisecond}
	groups, err := b.Run(t.Context(), sc)
	if err != nil {
		t.Fatal(err)
	}
	sampled(t, groups[0], 2, []string{peer.Ours}, report.CPU, report.CPUAlone, report.P99, report.P99Alone, report.RSS)
	sc.Measure = Pushed{Rate: 200, Every: time.Hour}
	if _, err := b.Run(t.Context(), sc); err == nil || !strings.Contains(err.Error(), "before the first change") {
		t.Errorf("a load without a change: %v", err)
	}
}

func TestIdleConnections(t *testing.T) {
	b := bench(t)
	sc := named(t, "idle-connections")
	sc.Connections = 500
	groups, err := b.Run(t.Context(), sc)
	if err != nil {
		t.Fatal(err)
	}
	sampled(t, groups[0], 2, []string{"gonethttp"}, report.PerConnection, report.RSSBefore, report.RSSHeld, report.RSSAfter)
	if v := groups[0].Samples[0].Values[report.PerConnection]; v < 1<<10 || v > 256<<10 {
		t.Errorf("%v bytes for a connection of net/http", v)
	}
}

// TestFailingPeerIsLeftOut: its failure is told, the others are measured.
func TestFailingPeerIsLeftOut(t *testing.T) {
	b := bench(t, crashing{})
	groups, err := b.Run(t.Context(), named(t, "idle"))
	if err == nil || !strings.Contains(err.Error(), "crashing") || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("error %v, want what the peer wrote", err)
	}
	sampled(t, groups[0], 2, []string{"gonethttp"}, report.RSS)
}

func TestCancelEndsARun(t *testing.T) {
	b := bench(t)
	b.Settle = time.Hour
	cause := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, cause)
	defer cancel()
	if _, err := b.Run(ctx, named(t, "idle")); !errors.Is(err, cause) {
		t.Errorf("error %v, want the cause", err)
	}
}

func TestTooManyConnections(t *testing.T) {
	b := bench(t)
	sc := named(t, "idle-connections")
	sc.Connections = 1 << 40
	if _, err := b.Run(t.Context(), sc); err == nil || !strings.Contains(err.Error(), "ulimit") {
		t.Errorf("error %v, want one about the limit of open files", err)
	}
}

func TestPinDividesTheMachine(t *testing.T) {
	b := &Bench{Settings: Settings{Workers: 2, Pin: []int{3, 5, 7}}}
	if got := fmt.Sprint(b.peerCPUs(), b.otherCPUs()); got != "[3 5] [7]" {
		t.Errorf("peer and others get %s", got)
	}
	b.Pin = nil
	if b.peerCPUs() != nil || b.otherCPUs() != nil {
		t.Error("CPUs are bound though that wasn't asked for")
	}
}

func TestSlowestPeak(t *testing.T) {
	g := report.Group{Headline: report.CPU}
	for _, s := range []struct {
		peer string
		rate float64
	}{{"fast", 20}, {"slow", 9}, {"slow", 11}, {"slow", 10}, {peer.Direct, 1}} {
		g.Samples = append(g.Samples, report.Sample{Peer: s.peer, Values: map[report.Metric]float64{report.Rate: s.rate}})
	}
	if name, rate := slowestPeak(g); name != "slow" || rate != 10 {
		t.Errorf("slowest is %s with %v", name, rate)
	}
	if name, _ := slowestPeak(report.Group{}); name != "" {
		t.Errorf("slowest of nobody is %q", name)
	}
}

func TestAddedLatencyIsOfTheSameTurn(t *testing.T) {
	at := func(p string, turn int, v float64) report.Sample {
		return report.Sample{Peer: p, Turn: turn, Values: map[report.Metric]float64{
			report.P50: v, report.P90: v, report.P99: v, report.P999: v,
		}}
	}
	g := report.Group{Samples: []report.Sample{
		at("a", 0, 100), at(peer.Direct, 0, 40), at("a", 1, 500), at(peer.Direct, 1, 400), at("a", 2, 70),
	}}
	addAdded(&g)
	if g.Samples[0].Values[report.AddedP99] != 60 || g.Samples[2].Values[report.AddedP50] != 100 {
		t.Errorf("added %v and %v, want 60 and 100", g.Samples[0].Values, g.Samples[2].Values)
	}
	if _, ok := g.Samples[4].Values[report.AddedP99]; ok {
		t.Error("an added latency in a turn without the direct way")
	}
	alone := report.Group{Samples: []report.Sample{at("a", 0, 100)}}
	addAdded(&alone)
	if alone.Headline != report.P99 {
		t.Errorf("headline without the direct way is %s", alone.Headline)
	}
}

func TestParseStrace(t *testing.T) {
	const table = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.12    0.110000           2     50000           read
 39.88    0.090000           2     45123       123 write
------ ----------- ----------- --------- --------- ----------------
100.00    0.200000           2     95123       123 total
`
	if n, err := parseStrace(table); err != nil || n != 95123 {
		t.Errorf("%d calls, %v", n, err)
	}
	if n, err := parseStrace(strings.Replace(table, "       123 total", "           total", 1)); err != nil || n != 95123 {
		t.Errorf("without errors: %d calls, %v", n, err)
	}
	for _, bad := range []string{"", "100.00 0.2 2 many 1 total"} {
		if n, err := parseStrace(bad); err == nil {
			t.Errorf("%q gives %d", bad, n)
		}
	}
}

// TestTrace has a script play strace: it writes its table when it is ended, as
// strace does.
func TestTrace(t *testing.T) {
	b := bench(t)
	b.Strace = filepath.Join(b.Dir, "strace.sh")
	script := `#!/bin/sh
[ "$1 $2 $3 $5" = "-f -c -o -p" ] && kill -0 "$6" || { echo "called with $*" >&2; exit 1; }
trap 'printf "100.00 0.2 2 8200 total\n" > "$4"; exit' TERM
while :; do sleep 0.05; done
`
	if err := os.WriteFile(b.Strace, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	sc := named(t, "idle")
	if _, err := b.Run(t.Context(), Scenario{Name: "none", Services: 1, Measure: nothing{}}); err != nil {
		t.Fatal(err)
	}
	r, err := b.start(t.Context(), programs(b.Peers)[0], sc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop(b.Group)
	drive := func() (load.Result, error) { return load.Result{Requests: 2000}, nil }
	if n, err := b.trace(t.Context(), r, drive); err != nil || n != 4.1 {
		t.Errorf("%v system calls for a request, %v, want 4.1", n, err)
	}
	if err := r.Alive(); err != nil {
		t.Errorf("the peer ended with its tracer: %v", err)
	}
}

// nothing measures nothing; Run then only starts the origin.
type nothing struct{}

func (nothing) Estimate(Settings, int) time.Duration { return 0 }
func (nothing) Run(context.Context, *Bench, Scenario) ([]report.Group, error) {
	return nil, nil
}
