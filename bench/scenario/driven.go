// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"pillion/bench/ads"
	"pillion/bench/peer"
	"pillion/bench/pki"
	"pillion/bench/proc"
	"pillion/bench/report"
)

// Driven starts each peer afresh in each turn with nothing but the address of a
// control plane, and measures the time to its first right answer, its memory, and
// its CPU for single changes: of the endpoints of one cluster, and of one route,
// for which istiod sends the whole route configuration again.
type Driven struct{}

const (
	endpointChanges, routeChanges = 20, 5
	// settleLimit bounds the wait for a peer to acknowledge what was sent.
	settleLimit = 60 * time.Second
	// afterChange is the wait after an acknowledgement, for work that a peer does
	// behind it.
	afterChange = 200 * time.Millisecond
)

// Estimate implements Measurer.
func (Driven) Estimate(s Settings, peers int) time.Duration {
	changes := time.Duration(endpointChanges+routeChanges) * (afterChange + 50*time.Millisecond)
	return time.Duration(s.MemoryTurns*peers) * (startEstimate + s.Settle + changes)
}

// Run implements Measurer.
func (d Driven) Run(ctx context.Context, b *Bench, sc Scenario) ([]report.Group, error) {
	return b.afresh(ctx, sc, report.Group{
		Headline: report.Ready,
		Columns:  []report.Metric{report.Ready, report.RSS, report.Anon, report.EndpointCPU, report.RouteCPU},
	}, func(l Located) (report.Sample, error) {
		return d.measure(ctx, b, l, sc)
	}, func(v map[report.Metric]float64) string {
		return fmt.Sprintf("ready after %.0f ms, RSS %.1f MiB, %.1f ms of CPU for a change of endpoints, %.1f for one of a route",
			v[report.Ready], v[report.RSS], v[report.EndpointCPU], v[report.RouteCPU])
	})
}

// measure measures one peer.
func (Driven) measure(ctx context.Context, b *Bench, l Located, sc Scenario) (report.Sample, error) {
	s := report.Sample{Peer: l.Peer.Name(), Values: map[report.Metric]float64{}}
	c, err := b.startDriven(ctx, l, sc)
	if err != nil {
		return s, err
	}
	defer c.stop(b)
	s.Values[report.Ready] = float64(c.r.Ready) / float64(time.Millisecond)
	if err := pause(ctx, b.Settle); err != nil {
		return s, err
	}
	if err := addMemory(&s, c.r); err != nil {
		return s, err
	}
	if s.Values[report.EndpointCPU], err = c.cost(ctx, endpointChanges, c.endpoint); err != nil {
		return s, err
	}
	if s.Values[report.RouteCPU], err = c.cost(ctx, routeChanges, c.route); err != nil {
		return s, err
	}
	return s, c.taken()
}

// startDriven starts a peer and the control plane that drives it, and waits until
// the peer has acknowledged all that it was sent.
func (b *Bench) startDriven(ctx context.Context, l Located, sc Scenario) (c *changes, err error) {
	c = &changes{}
	defer func() {
		if err != nil {
			c.stop(b)
		}
	}()
	job := b.job(sc)
	if c.of, err = services(job); err != nil {
		return nil, err
	}
	set, err := c.of.Resources()
	if err != nil {
		return nil, err
	}
	if c.plane, err = ads.Serve(set); err != nil {
		return nil, err
	}
	certs, err := pki.Make(b.Dir)
	if err != nil {
		return nil, err
	}
	job.Plane = &peer.Plane{Addr: c.plane.Addr(), Listen: c.of.Listen.String(), Certificates: certs}
	if c.r, err = peer.Start(ctx, b.Group, l.Peer, l.Tool, b.Dir, job, b.peerCPUs()); err != nil {
		return nil, err
	}
	return c, c.plane.Settled(ctx, settleLimit)
}

// services are those of a job, at an address that is free, and of which the peer, which
// looks for ports of its own, can't take the port.
func services(job peer.Job) (*ads.Services, error) {
	port, err := proc.FreePort()
	if err != nil {
		return nil, err
	}
	of := &ads.Services{Mesh: job.Mesh, Listen: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 2}), uint16(port))}
	for i, end := range []*netip.AddrPort{&of.V1, &of.V2} {
		if *end, err = netip.ParseAddrPort(job.Origins[i]); err != nil {
			return nil, err
		}
	}
	return of, nil
}

// changes makes single changes while a peer runs.
type changes struct {
	plane *ads.Server
	of    *ads.Services
	r     *peer.Running
}

// stop ends both.
func (c *changes) stop(b *Bench) {
	if c.r != nil {
		c.r.Stop(b.Group)
	}
	if c.plane != nil {
		c.plane.Close()
	}
}

// taken returns an error if the peer refused anything.
func (c *changes) taken() error {
	if _, refused := c.plane.Sent(); len(refused) > 0 {
		return fmt.Errorf("it refused what it was sent: %s", strings.Join(refused[:1], ""))
	}
	return nil
}

// cost returns the peer's milliseconds of CPU for one of n changes.
func (c *changes) cost(ctx context.Context, n int, change func(i int) error) (float64, error) {
	before, err := proc.ReadUsage(c.r.Process.PID())
	if err != nil {
		return 0, err
	}
	for i := range n {
		if err := change(i); err != nil {
			return 0, err
		}
		if err := c.plane.Settled(ctx, settleLimit); err != nil {
			return 0, err
		}
		if err := pause(ctx, afterChange); err != nil {
			return 0, err
		}
	}
	after, err := proc.ReadUsage(c.r.Process.PID())
	return after.Sub(before).CPU.Seconds() * 1000 / float64(n), err
}

func (c *changes) endpoint(i int) error { return c.plane.PushEndpoints(c.of, i, uint32(2+i)) }

func (c *changes) route(i int) error { return c.plane.PushRoutes(c.of, i) }
