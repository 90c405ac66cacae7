// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"pillion/bench/load"
	"pillion/bench/peer"
	"pillion/bench/report"
)

const (
	// wrkThreads bounds wrk's threads; one drives more than any peer's worker
	// serves.
	wrkThreads = 1
	// openWarmup precedes each open-loop measurement.
	openWarmup = 300 * time.Millisecond
	// startEstimate is what starting and checking a peer takes, on average.
	startEstimate = 500 * time.Millisecond
)

// Throughput measures the cost of a request at the peak, by a closed loop over
// the scenario's connections, and then the latency that a peer adds at shares
// of the slowest peer's peak, by an open loop. All peers run during all turns.
type Throughput struct {
	// Body makes each request a POST of so many bytes.
	Body int
	// Close has each request use a connection of its own.
	Close bool
	// OpenAt are the shares of the slowest peer's peak; none for no open loop.
	OpenAt []float64
}

// openShares are the open-loop loads that the settings leave.
func (t Throughput) openShares(s Settings) []float64 {
	switch {
	case !s.Open:
		return nil
	case s.OpenHalf && slices.Contains(t.OpenAt, 0.5):
		return []float64{0.5}
	}
	return t.OpenAt
}

// Estimate implements Measurer.
func (t Throughput) Estimate(s Settings, peers int) time.Duration {
	closed := time.Duration(s.Turns)*s.Duration + warmup(s)
	open := time.Duration(len(t.openShares(s))*s.Turns) * (openWarmup + s.Duration)
	var traced time.Duration
	if s.Syscalls {
		traced = traceTime
	}
	return time.Duration(peers) * (startEstimate + closed + open + traced)
}

// warmup is the length of the unmeasured load that each peer gets first.
func warmup(s Settings) time.Duration { return max(time.Second, s.Duration/2) }

// Run implements Measurer.
func (t Throughput) Run(ctx context.Context, b *Bench, sc Scenario) ([]report.Group, error) {
	if b.Wrk == "" {
		return nil, errors.New(WrkRemedy)
	}
	running := map[string]*peer.Running{}
	defer func() {
		for _, r := range running {
			r.Stop(b.Group)
		}
	}()
	var serving []Located
	errs := []error{b.turns(ctx, sc.Name, 1, b.Peers, func(l Located, _ int) error {
		r, err := b.start(ctx, l, sc)
		if err != nil {
			return err
		}
		running[l.Peer.Name()] = r
		serving = append(serving, l)
		return nil
	})}
	peak, err := t.peak(ctx, b, sc, serving, running)
	groups := []report.Group{peak}
	errs = append(errs, err)
	if shares := t.openShares(b.Settings); len(shares) > 0 && ctx.Err() == nil {
		slowest, rate := slowestPeak(peak)
		for _, share := range shares {
			if slowest == "" || ctx.Err() != nil {
				break
			}
			g, err := t.open(ctx, b, sc, serving, running, share, slowest, rate*share)
			groups, errs = append(groups, g), append(errs, err)
		}
	}
	return groups, errors.Join(errs...)
}

// peak is the closed loop.
func (t Throughput) peak(ctx context.Context, b *Bench, sc Scenario, peers []Located, running map[string]*peer.Running) (report.Group, error) {
	g := report.Group{
		Scenario: sc.Name, Load: "peak", Title: sc.Summary + "; as fast as it goes", Headline: report.CPU,
		Columns: []report.Metric{
			report.CPU, report.CPUSystem, report.Rate, report.P50, report.P99, report.P999, report.RSS, report.Switches,
		},
	}
	if b.Syscalls {
		g.Columns = append(g.Columns, report.Syscalls)
	}
	wrk := load.Wrk{Path: b.Wrk, Dir: b.Dir, Threads: wrkThreads, CPUs: b.otherCPUs()}
	drive := func(r *peer.Running, d time.Duration) (load.Result, error) {
		req := b.request(sc, r.Addr)
		req.Body, req.Close = t.Body, t.Close
		res, err := wrk.Run(ctx, b.Group, req, sc.Connections, d)
		return res, errors.Join(err, r.Alive())
	}
	err := b.turns(ctx, sc.Name, b.Turns, peers, func(l Located, turn int) error {
		r := running[l.Peer.Name()]
		if turn == 0 {
			if _, err := drive(r, warmup(b.Settings)); err != nil {
				return err
			}
		}
		s, err := b.measured(r, func() (load.Result, error) { return drive(r, b.Duration) })
		if err != nil {
			return err
		}
		s.Turn = turn
		g.Samples = append(g.Samples, s)
		b.Progress("%s: turn %d/%d: %s", g.Name(), turn+1, b.Turns, outcome(s))
		return nil
	})
	if b.Syscalls && ctx.Err() == nil {
		err = errors.Join(err, b.countSyscalls(ctx, &g, peers, running, drive))
	}
	return g, err
}

// measured runs a load inside a window.
func (b *Bench) measured(r *peer.Running, drive func() (load.Result, error)) (report.Sample, error) {
	w, err := b.open(r)
	if err != nil {
		return report.Sample{}, err
	}
	res, err := drive()
	if err != nil {
		return report.Sample{}, err
	}
	if res.Requests == 0 {
		return report.Sample{}, fmt.Errorf("no request was answered (errors: %v)", res.Errors)
	}
	return w.close(res)
}

// outcome is a sample in a few words.
func outcome(s report.Sample) string {
	out := s.Peer
	if v, ok := s.Values[report.CPU]; ok {
		out += fmt.Sprintf(" %.1f µs CPU per request,", v)
	}
	out += fmt.Sprintf(" %.0f requests/s, p99 %.0f µs", s.Values[report.Rate], s.Values[report.P99])
	if s.Errors > 0 {
		out += fmt.Sprintf(", %d ERRORS (%s)", s.Errors, s.ErrorKinds)
	}
	return out
}

// slowestPeak returns the proxy with the lowest median rate of a closed loop,
// and that rate; "" if there is none.
func slowestPeak(g report.Group) (string, float64) {
	name, rate := "", math.Inf(1)
	for _, row := range g.Rows(peer.Ours) {
		if m := row.Metrics[report.Rate].Median; row.Peer != peer.Direct && m < rate {
			name, rate = row.Peer, m
		}
	}
	return name, rate
}

// open is the open loop at one rate.
func (t Throughput) open(ctx context.Context, b *Bench, sc Scenario, peers []Located, running map[string]*peer.Running,
	share float64, slowest string, rate float64) (report.Group, error) {
	g := report.Group{
		Scenario: sc.Name, Load: fmt.Sprintf("%.0f%% load", share*100),
		Title: fmt.Sprintf("%s; %.0f requests/s at a fixed rate, %.0f %% of the peak of %s", sc.Summary, rate, share*100, slowest),
	}
	err := b.turns(ctx, sc.Name, b.Turns, peers, func(l Located, turn int) error {
		r := running[l.Peer.Name()]
		req := b.request(sc, r.Addr)
		req.Body = t.Body
		s, err := b.measured(r, func() (load.Result, error) {
			return load.OpenChild(ctx, b.Group, b.Self, b.otherCPUs(), load.OpenSpec{
				Request: req, Connections: sc.Connections, Rate: rate, Warmup: openWarmup, Duration: b.Duration,
			})
		})
		if err != nil {
			return errors.Join(err, r.Alive())
		}
		s.Turn = turn
		g.Samples = append(g.Samples, s)
		b.Progress("%s: turn %d/%d: %s", g.Name(), turn+1, b.Turns, outcome(s))
		return nil
	})
	addAdded(&g)
	return g, err
}

// addAdded computes the latencies that each proxy adds to the direct way of the
// same turn, and picks the columns by whether there was one.
func addAdded(g *report.Group) {
	pairs := []struct{ total, added report.Metric }{
		{report.P50, report.AddedP50}, {report.P90, report.AddedP90},
		{report.P99, report.AddedP99}, {report.P999, report.AddedP999},
	}
	direct := map[int]report.Sample{}
	for _, s := range g.Samples {
		if s.Peer == peer.Direct {
			direct[s.Turn] = s
		}
	}
	g.Headline = report.P99
	g.Columns = []report.Metric{report.P50, report.P90, report.P99, report.P999, report.CPU, report.Switches}
	if len(direct) == 0 {
		return
	}
	g.Headline = report.AddedP99
	g.Columns = append([]report.Metric{report.AddedP50, report.AddedP90, report.AddedP99, report.AddedP999}, g.Columns...)
	for _, s := range g.Samples {
		d, ok := direct[s.Turn]
		if !ok || s.Peer == peer.Direct {
			continue
		}
		for _, p := range pairs {
			s.Values[p.added] = s.Values[p.total] - d.Values[p.total]
		}
	}
}
