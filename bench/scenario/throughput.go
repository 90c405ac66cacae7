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
	"pillion/bench/mesh"
	"pillion/bench/origin"
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
	// Body makes each request a POST of so many bytes, of gRPC it is the size of
	// a message. Messages: streams stay open, and messages are what is counted.
	Body     int
	Messages bool
	// Large has the origin's large answer asked for.
	Large bool
	// Bulk measures first what it costs to pass on bytes, one way and as many as
	// will go, over so many connections; 0 for not at all.
	Bulk int
	// Close has each request use a connection of its own.
	Close bool
	// Handshakes has each request use a TLS connection of its own, made so; "" is none.
	Handshakes load.TLSMode
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
	if t.Bulk > 0 {
		closed += time.Duration(s.Turns) * s.Duration
	}
	open := time.Duration(len(t.openShares(s))*s.Turns) * (openWarmup + s.Duration)
	var traced time.Duration
	if s.Syscalls {
		traced = traceTime
	}
	return time.Duration(peers) * (startEstimate + closed + open + traced)
}

// warmup is the length of the unmeasured load that each peer gets first.
func warmup(s Settings) time.Duration { return max(time.Second, s.Duration/2) }

// session is one run of a Throughput: its peers serve until it is closed.
type session struct {
	*Bench
	Throughput
	sc Scenario
	// able can do the job; absent says why others can't.
	able   []Located
	absent []string
	// serving are the peers that started, in order; running has what they run.
	serving []Located
	running map[string]*peer.Running
}

// Run implements Measurer.
func (t Throughput) Run(ctx context.Context, b *Bench, sc Scenario) ([]report.Group, error) {
	switch {
	case b.Wrk == "" && sc.Downstream == mesh.HTTP1 && sc.Sealed != In:
		return nil, errors.New(WrkRemedy)
	case b.H2Load == "" && sc.Downstream == mesh.HTTP2:
		return nil, errors.New(H2LoadRemedy)
	}
	s := &session{Bench: b, Throughput: t, sc: sc, running: map[string]*peer.Running{}}
	s.able, s.absent = b.able(sc)
	defer s.close()
	errs := []error{s.startAll(ctx)}
	var groups []report.Group
	if t.Bulk > 0 {
		g, err := s.bulk(ctx)
		groups, errs = append(groups, g), append(errs, err)
	}
	peak, err := s.peak(ctx)
	groups, errs = append(groups, peak), append(errs, err)
	slowest, rate := slowestPeak(peak)
	for _, share := range t.openShares(b.Settings) {
		if slowest == "" || ctx.Err() != nil {
			break
		}
		g, err := s.open(ctx, share, rate*share, fmt.Sprintf("%.0f %% of the peak of %s", share*100, slowest))
		groups, errs = append(groups, g), append(errs, err)
	}
	return groups, errors.Join(errs...)
}

// startAll starts the peers and gives each its unmeasured load; one that fails
// is left out.
func (s *session) startAll(ctx context.Context) error {
	return s.turns(ctx, s.sc.Name, 1, s.able, func(l Located, _ int) error {
		r, err := s.start(ctx, l, s.sc)
		if err != nil {
			return err
		}
		s.running[l.Peer.Name()] = r
		if _, err := s.closedLoop(ctx, r, warmup(s.Settings)); err != nil {
			return err
		}
		s.serving = append(s.serving, l)
		return nil
	})
}

// close ends the peers.
func (s *session) close() {
	for _, r := range s.running {
		r.Stop(s.Group)
	}
}

// bulk drives bytes through all peers.
func (s *session) bulk(ctx context.Context) (report.Group, error) {
	g := report.Group{
		Scenario: s.sc.Name, Load: "bulk", Absent: s.absent, Headline: report.CPUPerGiB,
		Title:   fmt.Sprintf("%s; bytes from the origin over %d connections, as many as will go", s.sc.Summary, s.Bulk),
		Columns: []report.Metric{report.CPUPerGiB, report.BytesRate, report.RSS},
	}
	err := s.sample(ctx, &g, func(r *peer.Running) (load.Result, error) {
		res, err := load.SocketChild(ctx, s.Group, s.Self, s.otherCPUs(), load.SocketSpec{
			Addr: r.Addr, Hello: []byte{origin.Source}, Connections: s.Bulk, Duration: s.Duration,
		})
		return res, errors.Join(err, r.Alive())
	})
	return g, err
}

// peak is the closed loop on all peers.
func (s *session) peak(ctx context.Context) (report.Group, error) {
	g := report.Group{
		Scenario: s.sc.Name, Load: "peak", Title: s.sc.Summary + "; as fast as it goes", Headline: report.CPU, Absent: s.absent,
		Columns: []report.Metric{
			report.CPU, report.CPUSystem, report.Rate, report.P50, report.P99, report.P999, report.RSS, report.Switches,
		},
	}
	if s.Handshakes != "" {
		g.Headline = report.Handshakes
		g.Columns = append([]report.Metric{report.Handshakes}, g.Columns...)
	}
	err := s.sample(ctx, &g, func(r *peer.Running) (load.Result, error) {
		profiled := s.profile(ctx, r)
		res, err := s.closedLoop(ctx, r, s.Duration)
		return res, errors.Join(err, <-profiled)
	})
	if s.Handshakes != "" {
		for _, x := range g.Samples {
			if cpu := x.Values[report.CPU]; cpu > 0 {
				x.Values[report.Handshakes] = 1e6 / cpu
			}
		}
	}
	if s.Syscalls && ctx.Err() == nil {
		g.Columns = append(g.Columns, report.Syscalls)
		err = errors.Join(err, s.countSyscalls(ctx, &g))
	}
	return g, err
}

// profile begins a profile of a peer as long as a load, if the settings ask for it, and
// returns what tells when it is written. The last turn's is what stays.
func (s *session) profile(ctx context.Context, r *peer.Running) <-chan error {
	done := make(chan error, 1)
	if s.Profiles == "" {
		done <- nil
		return done
	}
	go func() { done <- r.Profile(ctx, s.Duration, s.Profiles, s.sc.Name+"-"+r.Peer.Name()) }()
	return done
}

// open is the open loop on all peers; of says what the rate is a share of.
func (s *session) open(ctx context.Context, share, rate float64, of string) (report.Group, error) {
	g := report.Group{
		Scenario: s.sc.Name, Load: fmt.Sprintf("%.0f%% load", share*100),
		Absent: s.absent,
		Title:  fmt.Sprintf("%s; %.0f requests/s at a fixed rate, %s", s.sc.Summary, rate, of),
	}
	err := s.sample(ctx, &g, func(r *peer.Running) (load.Result, error) {
		return s.openLoop(ctx, r, rate)
	})
	addAdded(&g)
	return g, err
}

// sample drives all peers in turns and adds their samples to a group.
func (s *session) sample(ctx context.Context, g *report.Group, drive func(*peer.Running) (load.Result, error)) error {
	return s.turns(ctx, g.Name(), s.Turns, s.serving, func(l Located, turn int) error {
		r := s.running[l.Peer.Name()]
		x, err := s.measured(r, func() (load.Result, error) { return drive(r) })
		if err != nil {
			return err
		}
		x.Turn = turn
		g.Samples = append(g.Samples, x)
		s.Progress("%s: turn %d/%d: %s", g.Name(), turn+1, s.Turns, outcome(x))
		return nil
	})
}

// measured runs a load inside a window.
func (b *Bench) measured(r *peer.Running, drive func() (load.Result, error)) (report.Sample, error) {
	w, err := b.openWindow(r)
	if err != nil {
		return report.Sample{}, err
	}
	res, err := drive()
	if err != nil {
		return report.Sample{}, err
	}
	if res.Requests == 0 && res.Bytes == 0 {
		return report.Sample{}, fmt.Errorf("no request was answered (errors: %v)", res.Errors)
	}
	return w.close(res)
}

// outcome is a sample in a few words.
func outcome(s report.Sample) string {
	out := s.Peer
	if v, ok := s.Values[report.BytesRate]; ok {
		if cpu, ok := s.Values[report.CPUPerGiB]; ok {
			out += fmt.Sprintf(" %.0f ms CPU per GiB,", cpu)
		}
		return out + fmt.Sprintf(" %.0f MiB/s", v) + failures(s)
	}
	if v, ok := s.Values[report.CPU]; ok {
		out += fmt.Sprintf(" %.1f µs CPU per request,", v)
	}
	out += fmt.Sprintf(" %.0f requests/s, p99 %.0f µs", s.Values[report.Rate], s.Values[report.P99])
	return out + failures(s)
}

// failures are a sample's errors in a few words.
func failures(s report.Sample) string {
	if s.Errors == 0 {
		return ""
	}
	return fmt.Sprintf(", %d ERRORS (%s)", s.Errors, s.ErrorKinds)
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
