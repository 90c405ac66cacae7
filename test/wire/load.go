// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Load sends the same request again and again over keep-alive connections.
type Load struct {
	Addr     string
	Request  string        // raw bytes
	Conns    int           // connections, each with one request at a time
	Count    int           // requests in all; 0 goes on until Stop
	Patience time.Duration // for each request
	// Each, if set, sees every response and how long it took. It is called
	// from many goroutines at once.
	Each func(r *Response, took time.Duration)
}

// Tally is the outcome of a load.
type Tally struct {
	Total   int            // requests answered
	Status  map[int]int    // by status
	Origin  map[string]int // by the response's x-origin field
	Failed  int            // requests that got no answer, or a broken one
	Failure error          // the first such failure
}

// Running is a load that has been started.
type Running struct {
	load Load
	left atomic.Int64
	stop atomic.Bool
	wait sync.WaitGroup

	mu    sync.Mutex
	tally Tally // guarded by mu
}

// Start starts the load.
func (l Load) Start() *Running {
	r := &Running{load: l, tally: Tally{Status: map[int]int{}, Origin: map[string]int{}}}
	r.left.Store(int64(l.Count))
	for range l.Conns {
		r.wait.Go(r.connection)
	}
	return r
}

// Run runs a load that has a Count to its end.
func (l Load) Run() Tally {
	r := l.Start()
	r.wait.Wait()
	return r.Snapshot()
}

// Stop lets each connection finish its request and returns the outcome.
func (r *Running) Stop() Tally {
	r.stop.Store(true)
	r.wait.Wait()
	return r.Snapshot()
}

// Snapshot returns the outcome so far.
func (r *Running) Snapshot() Tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tally
	t.Status, t.Origin = map[int]int{}, map[string]int{}
	for k, v := range r.tally.Status {
		t.Status[k] = v
	}
	for k, v := range r.tally.Origin {
		t.Origin[k] = v
	}
	return t
}

// connection sends requests one after another until the load is over.
func (r *Running) connection() {
	var c *Client
	for !r.stop.Load() && (r.load.Count == 0 || r.left.Add(-1) >= 0) {
		if c == nil {
			var err error
			if c, err = Dial(r.load.Addr, r.load.Patience); err != nil {
				r.failed(err)
				return
			}
			defer c.Close()
		}
		resp, err := r.once(c)
		if err != nil {
			r.failed(err)
		}
		// Only a close that the response announced is no failure.
		if err != nil || strings.EqualFold(resp.Fields.Get("connection"), "close") {
			c.Close()
			c = nil
		}
	}
}

func (r *Running) once(c *Client) (*Response, error) {
	start := time.Now()
	if err := c.Extend(r.load.Patience); err != nil {
		return nil, err
	}
	if err := c.Send(r.load.Request); err != nil {
		return nil, err
	}
	method, _, _ := strings.Cut(r.load.Request, " ")
	resp, err := c.Read(method)
	if err != nil {
		return nil, fmt.Errorf("after %v: %w", time.Since(start), err)
	}
	if r.load.Each != nil {
		r.load.Each(resp, time.Since(start))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.Total++
	r.tally.Status[resp.Status]++
	r.tally.Origin[resp.Fields.Get("x-origin")]++
	return resp, nil
}

func (r *Running) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.Failed++
	if r.tally.Failure == nil {
		r.tally.Failure = err
	}
}
