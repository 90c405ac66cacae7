// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pillion/bench/load"
	"pillion/bench/report"
)

// Pushed starts each peer afresh in each turn, driven by a control plane, and
// has requests come at a fixed rate: first alone, then while the control plane
// changes one route again and again, for each of which istiod sends the whole route
// configuration. The request itself is routed alike all the time.
type Pushed struct {
	// Rate is requests per second, low enough for any peer.
	Rate float64
	// Every is the time between two changes.
	Every time.Duration
}

// Estimate implements Measurer.
func (Pushed) Estimate(s Settings, peers int) time.Duration {
	return time.Duration(s.MemoryTurns*peers) * (startEstimate + 2*(openWarmup+s.Duration))
}

// Run implements Measurer.
func (m Pushed) Run(ctx context.Context, b *Bench, sc Scenario) ([]report.Group, error) {
	return b.afresh(ctx, sc, report.Group{
		Headline: report.CPU,
		Columns:  []report.Metric{report.CPU, report.CPUAlone, report.P50, report.P99, report.P999, report.P99Alone, report.RSS},
	}, func(l Located) (report.Sample, error) {
		return m.measure(ctx, b, l, sc)
	}, func(v map[report.Metric]float64) string {
		return fmt.Sprintf("p99 %.0f µs, %.0f with changes; CPU per request %.1f µs, %.1f with changes",
			v[report.P99Alone], v[report.P99], v[report.CPUAlone], v[report.CPU])
	})
}

// measure measures one peer.
func (m Pushed) measure(ctx context.Context, b *Bench, l Located, sc Scenario) (report.Sample, error) {
	c, err := b.startDriven(ctx, l, sc)
	if err != nil {
		return report.Sample{}, err
	}
	defer c.stop(b)
	alone, err := m.drive(ctx, b, sc, c)
	if err != nil {
		return alone, err
	}
	pushing, stop := context.WithCancel(ctx)
	pushed := make(chan error, 1)
	go func() { pushed <- m.push(pushing, c) }()
	s, err := m.drive(ctx, b, sc, c)
	stop()
	s.Values[report.CPUAlone], s.Values[report.P99Alone] = alone.Values[report.CPU], alone.Values[report.P99]
	s.Errors += alone.Errors
	s.ErrorKinds += alone.ErrorKinds
	if err := errors.Join(err, <-pushed); err != nil {
		return s, err
	}
	if err := c.plane.Settled(ctx, settleLimit); err != nil {
		return s, err
	}
	return s, c.taken()
}

// drive sends requests for as long as one measurement takes.
func (m Pushed) drive(ctx context.Context, b *Bench, sc Scenario, c *changes) (report.Sample, error) {
	w, err := b.openWindow(c.r)
	if err != nil {
		return report.Sample{Values: map[report.Metric]float64{}}, err
	}
	res, err := load.OpenChild(ctx, b.Group, b.Self, b.otherCPUs(), load.OpenSpec{
		Request: b.request(sc, c.r.Addr), Connections: sc.Connections, Rate: m.Rate, Duration: b.Duration,
	})
	if err = errors.Join(err, c.r.Alive()); err != nil {
		return report.Sample{Values: map[report.Metric]float64{}}, err
	}
	return w.close(res)
}

// push changes a route again and again until ctx ends.
func (m Pushed) push(ctx context.Context, c *changes) error {
	for i := 0; ; i++ {
		if err := pause(ctx, m.Every); err != nil {
			if i == 0 {
				return fmt.Errorf("the load was over before the first change, which comes after %v", m.Every)
			}
			return nil
		}
		// Like istiod, nothing is sent to who hasn't answered yet.
		if err := c.plane.Settled(ctx, settleLimit); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		if err := c.route(i); err != nil {
			return err
		}
	}
}
