// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"pillion/bench/mesh"
	"pillion/bench/proc"
)

const (
	// readyLimit bounds the time from the start to the first right answer.
	readyLimit = 60 * time.Second
	// readyPause is the time between two looks, and so the precision of Ready.
	readyPause = 2 * time.Millisecond
	// countLimit is how long a request may take to show in the metrics.
	countLimit = 3 * time.Second
)

// Running is a peer that serves.
type Running struct {
	// Peer is which, Addr where it serves.
	Peer Peer
	Addr string
	// Process is its program; nil for Direct.
	Process *proc.Process
	// Behind is the second one of a pair, between this one and the origin; nil if it
	// is alone.
	Behind *Running
	// Ready is the time from the start of the program to the first right
	// answer for the last service.
	Ready time.Duration

	// admin is where its profile can be had; "" for a peer that makes none.
	admin    string
	dir      string
	hostOnly bool
}

// Start configures and starts a peer, waits until it serves the last service,
// and checks that it does the whole job: both routes, the whole body, and for
// ours that it counts. One that ends before it serves is started anew, on other
// ports: a program beside us may have taken one of them meanwhile. dir is where its
// files go; cpus as in proc.Spec.
func Start(ctx context.Context, g *proc.Group, p Peer, tool Tool, dir string, job Job, cpus []int) (*Running, error) {
	for again := 0; ; again++ {
		r, ended, err := start(ctx, g, p, tool, dir, job, cpus)
		if err == nil || !ended || again == restarts || ctx.Err() != nil {
			return r, err
		}
	}
}

// restarts is how often a peer is started anew whose program has ended.
const restarts = 2

// start is Start, once. ended: the program ended before it served.
func start(ctx context.Context, g *proc.Group, p Peer, tool Tool, dir string, job Job, cpus []int) (r *Running, ended bool, err error) {
	own, err := os.MkdirTemp(dir, p.Name()+"-")
	if err != nil {
		return nil, false, err
	}
	launch, err := prepare(p, tool, own, job)
	if err != nil {
		return nil, false, fmt.Errorf("%s: write its configuration: %w", p.Name(), err)
	}
	r = &Running{Peer: p, Addr: launch.Addr, admin: launch.Admin, dir: own, hostOnly: launch.HostOnly}
	began := time.Now()
	if launch.Spec != nil {
		launch.Spec.CPUs = cpus
		if r.Process, err = g.Start(*launch.Spec); err != nil {
			return nil, false, err
		}
	}
	if err := r.waitReady(ctx, job); err != nil {
		ended = r.Alive() != nil
		r.Stop(g)
		return nil, ended, err
	}
	r.Ready = time.Since(began)
	if err := r.check(ctx, job, launch.Metrics); err != nil {
		r.Stop(g)
		return nil, false, fmt.Errorf("%s doesn't do the job: %w", p.Name(), err)
	}
	return r, false, nil
}

func prepare(p Peer, tool Tool, dir string, job Job) (Launch, error) {
	if job.Plane == nil {
		return p.Prepare(tool, dir, job)
	}
	d, ok := p.(Driven)
	if !ok {
		return Launch{}, errors.New("no control plane can drive it")
	}
	return d.PrepareDriven(tool, dir, job)
}

// StartPair starts two proxies of one kind as sidecars are: the first takes plain
// requests and makes mutual TLS of them, the second ends it before the origin. The
// job's own sides are plain.
func StartPair(ctx context.Context, g *proc.Group, p Peer, tool Tool, dir string, job Job, cpus []int) (*Running, error) {
	in, out := job, job
	in.TLS.In, in.TLS.Out, out.TLS.In, out.TLS.Out = true, false, false, true
	behind, err := Start(ctx, g, p, tool, dir, in, cpus)
	if err != nil {
		return nil, fmt.Errorf("the one before the origin: %w", err)
	}
	out.Origins = [2]string{behind.Addr, behind.Addr}
	r, err := Start(ctx, g, p, tool, dir, out, cpus)
	if err != nil {
		behind.Stop(g)
		return nil, fmt.Errorf("the one beside the client: %w", err)
	}
	r.Behind = behind
	return r, nil
}

// Processes are the programs whose cost is the peer's; none for Direct.
func (r *Running) Processes() []*proc.Process {
	var all []*proc.Process
	for ; r != nil; r = r.Behind {
		if r.Process != nil {
			all = append(all, r.Process)
		}
	}
	return all
}

// Stop ends the peer and removes its files.
func (r *Running) Stop(g *proc.Group) {
	if r.Behind != nil {
		defer r.Behind.Stop(g)
	}
	if r.Process != nil {
		g.Stop(r.Process)
	}
	_ = os.RemoveAll(r.dir)
}

// Alive returns an error if the peer's program has ended.
func (r *Running) Alive() error {
	for _, p := range r.Processes() {
		select {
		case <-p.Exited():
			return p.Failure()
		default:
		}
	}
	return nil
}

// waitReady asks again and again until the last service answers.
func (r *Running) waitReady(ctx context.Context, job Job) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit,
		fmt.Errorf("%s: no right answer within %v of its start", r.Peer.Name(), readyLimit))
	defer cancel()
	tick := time.NewTicker(readyPause)
	defer tick.Stop()
	var last error
	for {
		err := job.ask(ctx, r.Addr, question{of: job.Last(), match: true})
		if err == nil {
			return nil
		}
		if ctx.Err() == nil { // else it was only broken off
			last = err
		}
		if err := r.Alive(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w; the last try: %w", context.Cause(ctx), last)
		}
	}
}

// check asks for the first and the last service, with and without the field
// that selects the subset, and for the last of further routes.
func (r *Running) check(ctx context.Context, job Job, metrics string) error {
	asked := 1 // waitReady's
	for _, s := range []mesh.Service{job.Services[0], job.Last()} {
		for _, match := range []bool{false, true} {
			if !match && r.hostOnly && job.Subsets {
				continue // it reaches one version only
			}
			if err := job.ask(ctx, r.Addr, question{of: s, match: match}); err != nil {
				return err
			}
			asked++
		}
	}
	if prefixes := job.Prefixes(); len(prefixes) > 0 && !r.hostOnly {
		q := question{of: job.Last(), match: true, prefix: prefixes[len(prefixes)-1]}
		if err := job.ask(ctx, r.Addr, q); err != nil {
			return err
		}
		asked++
	}
	if metrics == "" {
		return nil
	}
	return job.counts(ctx, metrics, asked)
}

// counts waits until a metrics address has counted n requests, or connections
// of TCP: proof that what is measured pays for its metrics.
func (j Job) counts(ctx context.Context, addr string, n int) error {
	name := "istio_requests_total"
	if j.Downstream == mesh.TCP {
		name = "istio_tcp_connections_opened_total"
	}
	ctx, cancel := context.WithTimeout(ctx, countLimit)
	defer cancel()
	tick := time.NewTicker(10 * readyPause)
	defer tick.Stop()
	err := errors.New("no look at it succeeded")
	for {
		got, lookErr := counted(ctx, addr, name)
		switch {
		case lookErr == nil && got >= float64(n):
			return nil
		case lookErr == nil:
			err = fmt.Errorf("%s is %v after %d requests", name, got, n)
		case ctx.Err() == nil: // else the look was only broken off
			err = lookErr
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("its metrics at %s: %w; without them the comparison wouldn't be what it says", addr, err)
		}
	}
}
