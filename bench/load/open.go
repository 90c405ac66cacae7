// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"pillion/bench/hist"
	"pillion/bench/proc"
)

// drainTime is how long answers are waited for after the last request was due.
const drainTime = 2 * time.Second

// OpenSpec describes an open-loop load.
type OpenSpec struct {
	Request     Request `json:"request"`
	Connections int     `json:"connections"`
	// Rate is requests per second over all connections.
	Rate float64 `json:"rate"`
	// Warmup comes before Duration: under the same load, but its latencies
	// aren't recorded.
	Warmup   time.Duration `json:"warmup"`
	Duration time.Duration `json:"duration"`
}

// OpenRole is the sub-command of the benchmark's own program that runs
// ServeOpen.
const OpenRole = "role-open-loop"

// OpenChild runs an open-loop load in a process of its own.
func OpenChild(ctx context.Context, g *proc.Group, self string, cpus []int, spec OpenSpec) (Result, error) {
	return child(ctx, g, self, OpenRole, cpus, spec)
}

// ServeOpen reads an OpenSpec as JSON, runs it and writes the Result as JSON.
func ServeOpen(ctx context.Context, in io.Reader, out io.Writer) error {
	var spec OpenSpec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		return fmt.Errorf("read the load's description: %w", err)
	}
	r, err := Open(ctx, spec)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// openLoop is the state of one open-loop load: one thread, one epoll instance.
type openLoop struct {
	pace
	spec OpenSpec
	wire []byte
	poll *poller
	// conns holds all connections, idle the numbers of those without a request.
	conns []openConn
	idle  []int
	read  []byte
}

// openConn is one connection.
type openConn struct {
	fd  int
	in  answer
	out []byte // what a full socket buffer left unsent
	// due is when the request under way should have been sent.
	due  time.Time
	busy bool
}

// Open runs an open-loop load in the calling goroutine.
func Open(ctx context.Context, spec OpenSpec) (Result, error) {
	if spec.Connections < 1 || !(spec.Rate > 0) || math.IsInf(spec.Rate, 0) || spec.Duration <= 0 || spec.Warmup < 0 {
		return Result{}, fmt.Errorf("open loop: %d connections, %v requests/s, %v: all must be above 0", spec.Connections, spec.Rate, spec.Duration)
	}
	p, err := newPoller(spec.Request.Addr)
	if err != nil {
		return Result{}, fmt.Errorf("open loop: %w", err)
	}
	l := &openLoop{
		spec: spec, wire: spec.Request.Wire(), poll: p,
		conns: make([]openConn, spec.Connections),
		read:  make([]byte, 64<<10),
	}
	defer l.close()
	for i := range l.conns {
		l.conns[i].fd = -1
	}
	for i := range l.conns {
		if err := l.connect(i); err != nil {
			return Result{}, fmt.Errorf("open loop: connect to %s: %w", spec.Request.Addr, err)
		}
		l.idle = append(l.idle, i)
	}
	if err := l.run(ctx); err != nil {
		return Result{}, err
	}
	return l.result, nil
}

// connect opens connection i anew.
func (l *openLoop) connect(i int) error {
	c := &l.conns[i]
	if c.fd >= 0 {
		_ = unix.Close(c.fd) // also leaves the epoll set
	}
	fd, err := l.poll.dial(i)
	*c = openConn{fd: fd, in: c.in}
	c.in.reset()
	return err
}

func (l *openLoop) close() {
	for i := range l.conns {
		if fd := l.conns[i].fd; fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	l.poll.close()
}

// run sends what is due and reads what comes until all is answered.
func (l *openLoop) run(ctx context.Context) error {
	l.begin(l.spec.Rate, l.spec.Warmup, l.spec.Duration)
	now := l.start
	for !l.over(now) || len(l.idle) < len(l.conns) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if l.expired(now) {
			break
		}
		for len(l.idle) > 0 {
			due, ok := l.next(now)
			if !ok {
				break
			}
			if err := l.send(due); err != nil {
				return err
			}
		}
		if err := l.wait(l.pace.wait(now, len(l.idle) > 0)); err != nil {
			return err
		}
		now = time.Now()
	}
	for i := range l.conns {
		if c := &l.conns[i]; c.busy {
			l.unanswered(c.due, now)
		}
	}
	l.finish(now)
	return nil
}

// send starts a request on an idle connection.
func (l *openLoop) send(due time.Time) error {
	i := l.idle[len(l.idle)-1]
	l.idle = l.idle[:len(l.idle)-1]
	c := &l.conns[i]
	c.due, c.busy = due, true
	c.in.reset()
	c.out = l.wire
	return l.flush(i)
}

// flush writes what is unsent and asks for writability if some is left.
func (l *openLoop) flush(i int) error {
	c := &l.conns[i]
	waited := len(c.out) < len(l.wire)
	for len(c.out) > 0 {
		n, err := unix.Write(c.fd, c.out)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return l.interest(i, unix.EPOLLIN|unix.EPOLLOUT)
		case err != nil:
			l.result.Errors.Write++
			return l.renew(i)
		}
		c.out = c.out[n:]
	}
	if waited {
		return l.interest(i, unix.EPOLLIN)
	}
	return nil
}

func (l *openLoop) interest(i int, events uint32) error {
	if err := l.poll.want(i, l.conns[i].fd, events); err != nil {
		return fmt.Errorf("open loop: %w", err)
	}
	return nil
}

// wait sleeps until something can be read or written, at most d, and handles it.
func (l *openLoop) wait(d time.Duration) error {
	events, err := l.poll.wait(d)
	if err != nil {
		return fmt.Errorf("open loop: %w", err)
	}
	for _, e := range events {
		i := int(e.Fd)
		if e.Events&unix.EPOLLOUT != 0 && len(l.conns[i].out) > 0 {
			if err := l.flush(i); err != nil {
				return err
			}
		}
		if e.Events&^unix.EPOLLOUT != 0 {
			if err := l.readable(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// readable takes what has come on connection i.
func (l *openLoop) readable(i int) error {
	c := &l.conns[i]
	n, err := unix.Read(c.fd, l.read)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil || n == 0 {
		// A peer may close an idle connection; only a request makes it an error.
		if c.busy {
			l.result.Errors.Read++
		}
		return l.renew(i)
	}
	done, err := c.in.feed(l.read[:n])
	if err != nil || done && !c.busy {
		l.result.Errors.Read++
		return l.renew(i)
	}
	if !done {
		return nil
	}
	l.record(c.due, time.Now())
	l.result.Requests++
	if !c.in.ok() {
		l.result.Errors.Status++
	}
	// An answer before the request was sent whole leaves the connection in no
	// usable state.
	if c.in.close || len(c.out) > 0 {
		return l.renew(i)
	}
	c.busy = false
	l.idle = append(l.idle, i)
	return nil
}

// renew replaces a connection and makes it idle. A peer that accepts none any
// more ends the run.
func (l *openLoop) renew(i int) error {
	if l.conns[i].busy {
		l.idle = append(l.idle, i)
	}
	if err := l.connect(i); err != nil {
		return fmt.Errorf("open loop: the peer broke a connection and takes no new one: %w", err)
	}
	return nil
}

// latencyOf sums up a histogram.
func latencyOf(h *hist.Histogram) Latency {
	return Latency{
		P50: h.Quantile(0.5), P90: h.Quantile(0.9), P99: h.Quantile(0.99),
		P999: h.Quantile(0.999), Max: h.Max(),
	}
}
