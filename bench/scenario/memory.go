// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"time"

	"pillion/bench/load"
	"pillion/bench/peer"
	"pillion/bench/proc"
	"pillion/bench/report"
)

// Startup starts each peer afresh in each turn and measures the time to its
// first right answer, and its memory once it has settled.
type Startup struct {
	// Headline is the metric of the ratios: report.Ready or report.RSS.
	Headline report.Metric
}

// Estimate implements Measurer.
func (Startup) Estimate(s Settings, peers int) time.Duration {
	return time.Duration(s.MemoryTurns*peers) * (startEstimate + s.Settle)
}

// Run implements Measurer.
func (m Startup) Run(ctx context.Context, b *Bench, sc Scenario) ([]report.Group, error) {
	return b.afresh(ctx, sc, report.Group{
		Headline: m.Headline,
		Columns:  []report.Metric{report.Ready, report.RSS, report.Anon},
	}, func(l Located) (report.Sample, error) {
		return b.startup(ctx, l, sc)
	}, func(v map[report.Metric]float64) string {
		return fmt.Sprintf("ready after %.0f ms, RSS %.1f MiB, %.1f of it anonymous", v[report.Ready], v[report.RSS], v[report.Anon])
	})
}

// startup measures one peer.
func (b *Bench) startup(ctx context.Context, l Located, sc Scenario) (report.Sample, error) {
	s := report.Sample{Peer: l.Peer.Name(), Values: map[report.Metric]float64{}}
	r, err := b.start(ctx, l, sc)
	if err != nil {
		return s, err
	}
	defer r.Stop(b.Group)
	if err := pause(ctx, b.Settle); err != nil {
		return s, err
	}
	s.Values[report.Ready] = float64(r.Ready) / float64(time.Millisecond)
	return s, addMemory(&s, r)
}

// IdleConnections starts each peer afresh, opens the scenario's connections
// with one request on each, and measures what an open connection costs in
// memory, and how much of it comes back when they close.
type IdleConnections struct{}

const (
	// firstShare: one in so many of the connections is opened before the first look, so
	// that what the first ones cost isn't counted, nor what a peer gives back at their
	// occasion.
	firstShare = 5
	// holdEstimate is about the time to open, use and close all connections.
	holdEstimate = 2 * time.Second
)

// Estimate implements Measurer.
func (IdleConnections) Estimate(s Settings, peers int) time.Duration {
	return time.Duration(s.MemoryTurns*peers) * (startEstimate + holdEstimate + 3*s.Settle)
}

// Run implements Measurer.
func (IdleConnections) Run(ctx context.Context, b *Bench, sc Scenario) ([]report.Group, error) {
	return b.afresh(ctx, sc, report.Group{
		Headline: report.PerConnection,
		Title:    fmt.Sprintf("%s; after: %v after they closed", sc.Summary, b.Settle),
		Columns:  []report.Metric{report.PerConnection, report.RSSBefore, report.RSSHeld, report.RSSAfter},
	}, func(l Located) (report.Sample, error) {
		return b.hold(ctx, l, sc)
	}, func(v map[report.Metric]float64) string {
		return fmt.Sprintf("%.0f bytes per connection, RSS %.1f → %.1f → %.1f MiB",
			v[report.PerConnection], v[report.RSSBefore], v[report.RSSHeld], v[report.RSSAfter])
	})
}

// hold measures one peer.
func (b *Bench) hold(ctx context.Context, l Located, sc Scenario) (report.Sample, error) {
	s := report.Sample{Peer: l.Peer.Name(), Values: map[report.Metric]float64{}}
	r, err := b.start(ctx, l, sc)
	if err != nil {
		return s, err
	}
	defer r.Stop(b.Group)
	req := b.request(sc, r.Addr)
	hold := load.Hold
	if sc.Downstream.IsHTTP2() {
		hold = load.HoldHTTP2
	}
	if sc.Sealed == In {
		cfg, err := b.certs.ClientConfig(sc.group())
		if err != nil {
			return s, err
		}
		hold = func(ctx context.Context, req load.Request, n int) (*load.Held, error) {
			return load.HoldTLS(ctx, req, n, cfg)
		}
	}
	first, err := hold(ctx, req, sc.Connections/firstShare)
	if err != nil {
		return s, err
	}
	defer first.Close()
	before, err := b.settled(ctx, r)
	if err != nil {
		return s, err
	}
	held, err := hold(ctx, req, sc.Connections-first.Len())
	if err != nil {
		return s, err
	}
	defer held.Close()
	during, err := b.settled(ctx, r)
	if err != nil {
		return s, err
	}
	failed, err := held.Check(ctx)
	if err != nil {
		return s, err
	}
	if failed > 0 {
		s.Errors = int64(failed)
		s.ErrorKinds = fmt.Sprintf("%d connections were closed by the peer meanwhile", failed)
	}
	held.Close()
	first.Close()
	after, err := b.settled(ctx, r)
	s.Values[report.PerConnection] = float64(during.RSS-before.RSS) / float64(held.Len())
	s.Values[report.RSSBefore] = mib(before.RSS)
	s.Values[report.RSSHeld] = mib(during.RSS)
	s.Values[report.RSSAfter] = mib(after.RSS)
	return s, err
}

// settled returns a peer's memory after a pause.
func (b *Bench) settled(ctx context.Context, r *peer.Running) (proc.Memory, error) {
	if err := pause(ctx, b.Settle); err != nil {
		return proc.Memory{}, err
	}
	return memory(r)
}
