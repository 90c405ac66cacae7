// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	nethttp "net/http"
	"os"
	"time"

	"pillion/bench/mesh"
	"pillion/bench/origin"
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
	// Ready is the time from the start of the program to the first right
	// answer for the last service.
	Ready time.Duration

	dir string
}

// Start configures and starts a peer, waits until it serves the last service,
// and checks that it does the whole job: both routes, the whole body, and for
// ours that it counts. dir is where its files go; cpus as in proc.Spec.
func Start(ctx context.Context, g *proc.Group, p Peer, tool Tool, dir string, job Job, cpus []int) (*Running, error) {
	own, err := os.MkdirTemp(dir, p.Name()+"-")
	if err != nil {
		return nil, err
	}
	launch, err := p.Prepare(tool, own, job)
	if err != nil {
		return nil, fmt.Errorf("%s: write its configuration: %w", p.Name(), err)
	}
	r := &Running{Peer: p, Addr: launch.Addr, dir: own}
	began := time.Now()
	if launch.Spec != nil {
		launch.Spec.CPUs = cpus
		if r.Process, err = g.Start(*launch.Spec); err != nil {
			return nil, err
		}
	}
	if err := r.waitReady(ctx, job); err != nil {
		r.Stop(g)
		return nil, err
	}
	r.Ready = time.Since(began)
	if err := r.check(ctx, job, launch.Metrics); err != nil {
		r.Stop(g)
		return nil, fmt.Errorf("%s doesn't do the job: %w", p.Name(), err)
	}
	return r, nil
}

// Stop ends the peer and removes its files.
func (r *Running) Stop(g *proc.Group) {
	if r.Process != nil {
		g.Stop(r.Process)
	}
	_ = os.RemoveAll(r.dir)
}

// Alive returns an error if the peer's program has ended.
func (r *Running) Alive() error {
	if r.Process == nil {
		return nil
	}
	select {
	case <-r.Process.Exited():
		return r.Process.Failure()
	default:
		return nil
	}
}

// waitReady asks again and again until the last service answers.
func (r *Running) waitReady(ctx context.Context, job Job) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit,
		fmt.Errorf("%s: no right answer within %v of its start", r.Peer.Name(), readyLimit))
	defer cancel()
	tick := time.NewTicker(readyPause)
	defer tick.Stop()
	for {
		err := ask(ctx, r.Addr, job.Last(), true, job.wants(true))
		if err == nil {
			return nil
		}
		if err := r.Alive(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w; the last try: %w", context.Cause(ctx), err)
		}
	}
}

// check asks for the first and the last service, with and without the field
// that selects the subset.
func (r *Running) check(ctx context.Context, job Job, metrics string) error {
	asked := 1 // waitReady's
	for _, s := range []mesh.Service{job.Services[0], job.Last()} {
		for _, match := range []bool{false, true} {
			if !match && r.Process == nil && job.Subsets {
				continue // direct reaches one version only
			}
			if err := ask(ctx, r.Addr, s, match, job.wants(match)); err != nil {
				return err
			}
			asked++
		}
	}
	if metrics == "" {
		return nil
	}
	return countsRequests(ctx, metrics, asked)
}

// countsRequests waits until a metrics address has counted n requests: proof
// that what is measured pays for its metrics.
func countsRequests(ctx context.Context, addr string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, countLimit)
	defer cancel()
	tick := time.NewTicker(10 * readyPause)
	defer tick.Stop()
	err := errors.New("no look at it succeeded")
	for {
		counted, lookErr := countedRequests(ctx, addr)
		switch {
		case lookErr == nil && counted >= float64(n):
			return nil
		case lookErr == nil:
			err = fmt.Errorf("istio_requests_total is %v after %d requests", counted, n)
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

// wants is the version that answers a request, with or without the field that
// selects a subset.
func (j Job) wants(match bool) string {
	if match && j.Subsets {
		return origin.Versions[1]
	}
	return origin.Versions[0]
}

// ask sends one request on a connection of its own and checks the answer, which
// the version want has to give.
func ask(ctx context.Context, addr string, s mesh.Service, match bool, want string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodGet, "http://"+addr+"/check", nil)
	if err != nil {
		return err
	}
	req.Host = s.Authority()
	if match {
		req.Header.Set(mesh.MatchField, mesh.MatchValue)
	}
	// Neither a proxy of the environment nor a connection of an earlier try.
	transport := &nethttp.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch got := resp.Header.Get(origin.VersionField); {
	case err != nil:
		return err
	case resp.StatusCode != nethttp.StatusOK:
		return fmt.Errorf("%s: status %d, want 200", req.Host, resp.StatusCode)
	case got != want:
		return fmt.Errorf("%s: answered by version %q, want %q (%s set: %v)", req.Host, got, want, mesh.MatchField, match)
	case len(body) != origin.BodySize:
		return fmt.Errorf("%s: body of %d bytes, want %d", req.Host, len(body), origin.BodySize)
	}
	return nil
}
