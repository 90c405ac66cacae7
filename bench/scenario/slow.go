// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pillion/bench/load"
	"pillion/bench/mesh"
	"pillion/bench/peer"
	"pillion/bench/report"
)

// SlowStream measures what one stream that its client doesn't read costs those
// beside it on the connection: in each turn unary calls run alone and then with
// it, on all but one of the scenario's streams.
type SlowStream struct {
	// Body is the size of a call's message.
	Body int
}

// Estimate implements Measurer.
func (SlowStream) Estimate(s Settings, peers int) time.Duration {
	return time.Duration(peers) * (startEstimate + time.Duration(2*s.Turns)*(openWarmup+s.Duration))
}

// Run implements Measurer.
func (m SlowStream) Run(ctx context.Context, b *Bench, sc Scenario) ([]report.Group, error) {
	if sc.Downstream != mesh.GRPC || sc.Streams < 2 {
		return nil, errors.New("the scenario needs gRPC and two streams")
	}
	able, absent := b.able(sc)
	g := report.Group{
		Scenario: sc.Name, Title: sc.Summary, Headline: report.RateKept, Absent: absent,
		Columns: []report.Metric{report.RateKept, report.Rate, report.RateAlone, report.CPU, report.P50, report.P99, report.RSS},
	}
	running := map[string]*peer.Running{}
	defer func() {
		for _, r := range running {
			r.Stop(b.Group)
		}
	}()
	err := b.turns(ctx, sc.Name, b.Turns, able, func(l Located, turn int) error {
		r := running[l.Peer.Name()]
		if r == nil {
			var err error
			if r, err = b.start(ctx, l, sc); err != nil {
				return err
			}
			running[l.Peer.Name()] = r
		}
		alone, err := m.drive(ctx, b, sc, r, 0)
		if err != nil {
			return err
		}
		beside, err := m.drive(ctx, b, sc, r, 1)
		if err != nil {
			return err
		}
		undisturbed := alone.Values[report.Rate]
		beside.Values[report.RateAlone] = undisturbed
		beside.Values[report.RateKept] = 100 * beside.Values[report.Rate] / undisturbed
		beside.Turn = turn
		g.Samples = append(g.Samples, beside)
		b.Progress("%s: turn %d/%d: %s keeps %.1f %% of %.0f requests/s", sc.Name, turn+1, b.Turns, l.Peer.Name(),
			beside.Values[report.RateKept], undisturbed)
		return nil
	})
	return []report.Group{g}, err
}

// drive runs the calls beside so many stalled streams.
func (m SlowStream) drive(ctx context.Context, b *Bench, sc Scenario, r *peer.Running, stalled int) (report.Sample, error) {
	req := b.request(sc, r.Addr)
	req.Body = m.Body
	s, err := b.measured(r, func() (load.Result, error) {
		res, err := load.HTTP2Child(ctx, b.Group, b.Self, b.otherCPUs(), load.HTTP2Spec{
			Request: req, Mode: load.Unary, Connections: sc.Connections, Streams: sc.Streams - 1, Stalled: stalled,
			Warmup: openWarmup, Duration: b.Duration,
		})
		return res, errors.Join(err, r.Alive())
	})
	if err == nil && s.Errors > 0 && stalled == 0 {
		err = fmt.Errorf("without a stalled stream: errors %s", s.ErrorKinds)
	}
	return s, err
}
