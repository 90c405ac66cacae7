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

	"pillion/bench/proc"
)

// Mode is what an HTTP/2 load sends.
type Mode int

const (
	// Fetch: GET requests.
	Fetch Mode = iota
	// Unary: gRPC calls with one message each way. One succeeds only with the
	// whole message back and the status 0 in trailers.
	Unary
	// Messages: gRPC streams that stay open; a request is a message and ends with
	// its echo.
	Messages
)

// HTTP2Spec describes a load over HTTP/2 by prior knowledge.
type HTTP2Spec struct {
	// Request says where to and for whom; its Body is the size of a message.
	Request Request `json:"request"`
	Mode    Mode    `json:"mode"`
	// Want, if not 0, is the size that the body of an answer has to have.
	Want int `json:"want,omitempty"`
	// Connections and the requests that each may have under way.
	Connections int `json:"connections"`
	Streams     int `json:"streams"`
	// Stalled streams are open on each connection beside the others, with Unary
	// only: echoes of which the client takes what its window holds and no more.
	Stalled int `json:"stalled,omitempty"`
	// Rate is requests per second over all connections: an open loop. 0 is a
	// closed loop, in which each stream's next request follows the last answer.
	Rate     float64       `json:"rate,omitempty"`
	Warmup   time.Duration `json:"warmup"`
	Duration time.Duration `json:"duration"`
}

// HTTP2Role is the sub-command of the benchmark's own program that runs
// ServeHTTP2.
const HTTP2Role = "role-http2-load"

// HTTP2Child runs a load in a process of its own, as OpenChild does.
func HTTP2Child(ctx context.Context, g *proc.Group, self string, cpus []int, spec HTTP2Spec) (Result, error) {
	return child(ctx, g, self, HTTP2Role, cpus, spec)
}

// ServeHTTP2 reads an HTTP2Spec as JSON, runs it and writes the Result as JSON.
func ServeHTTP2(ctx context.Context, in io.Reader, out io.Writer) error {
	var spec HTTP2Spec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		return fmt.Errorf("read the load's description: %w", err)
	}
	r, err := RunHTTP2(ctx, spec)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// http2Loop is the state of one load: one thread, one epoll instance.
type http2Loop struct {
	pace
	spec HTTP2Spec
	poll *poller
	// conns holds all connections; idle has, for each request that could be
	// started, the number of its connection.
	conns []conn2
	idle  []slot
	read  []byte
	now   time.Time

	// touched are the connections that may have something to send.
	touched []int

	// ending: open streams are being ended.
	ending bool
}

// slot is room for one request: a new stream of a connection, or an open one.
type slot struct {
	conn   int
	stream *call2
}

// conn2 is one connection.
type conn2 struct {
	*client2
	fd int
	// unsent is what a full socket buffer left of out.
	unsent []byte
	// touched: it is among the loop's touched.
	touched bool
}

// RunHTTP2 runs a load in the calling goroutine.
func RunHTTP2(ctx context.Context, spec HTTP2Spec) (Result, error) {
	if spec.Stalled > 0 && spec.Mode != Unary {
		return Result{}, errors.New("HTTP/2 load: streams can be stalled beside unary calls only")
	}
	if spec.Connections < 1 || spec.Streams < 1 || spec.Rate < 0 || math.IsInf(spec.Rate, 0) || math.IsNaN(spec.Rate) || spec.Duration <= 0 || spec.Warmup < 0 {
		return Result{}, fmt.Errorf("HTTP/2 load: %d connections, %d streams, %v requests/s, %v: all must be above 0", spec.Connections, spec.Streams, spec.Rate, spec.Duration)
	}
	p, err := newPoller(spec.Request.Addr)
	if err != nil {
		return Result{}, fmt.Errorf("HTTP/2 load: %w", err)
	}
	l := &http2Loop{spec: spec, poll: p, conns: make([]conn2, spec.Connections), read: make([]byte, 256<<10)}
	defer l.close()
	for i := range l.conns {
		l.conns[i].fd = -1
	}
	for i := range l.conns {
		if err := l.connect(i); err != nil {
			return Result{}, fmt.Errorf("HTTP/2 load: %w", err)
		}
	}
	if err := l.run(ctx); err != nil {
		return Result{}, err
	}
	return l.result, nil
}

// connect opens connection i anew and waits for the peer's settings.
func (l *http2Loop) connect(i int) error {
	c := &l.conns[i]
	if c.fd >= 0 {
		_ = unix.Close(c.fd) // also leaves the epoll set
	}
	fd, err := l.poll.dial(i)
	*c = conn2{fd: fd, client2: newClient2(&l.spec, func(s *call2, r outcome) { l.done(i, s, r) })}
	if err != nil {
		return fmt.Errorf("connect to %s: %w", l.spec.Request.Addr, err)
	}
	deadline := time.Now().Add(answerTimeout)
	for err := l.flush(i); !c.greeted; err = l.flush(i) {
		if err != nil {
			return err
		}
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		ts := unix.NsecToTimespec(int64(max(time.Until(deadline), 0)))
		if n, err := unix.Ppoll(fds[:], &ts, nil); n == 0 && err == nil {
			return fmt.Errorf("%s sends no SETTINGS within %v", l.spec.Request.Addr, answerTimeout)
		}
		n, err := unix.Read(fd, l.read)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil || n == 0:
			return fmt.Errorf("%s ends a new HTTP/2 connection: %w", l.spec.Request.Addr, errors.Join(err, io.ErrUnexpectedEOF))
		}
		if err := c.feed(l.read[:n]); err != nil {
			return fmt.Errorf("%s speaks no HTTP/2: %w", l.spec.Request.Addr, err)
		}
	}
	if n := l.spec.Streams + l.spec.Stalled; int64(c.maxStreams) < int64(n) {
		return fmt.Errorf("%s allows %d streams on a connection, and the load has %d", l.spec.Request.Addr, c.maxStreams, n)
	}
	for range l.spec.Stalled {
		c.stall()
	}
	for range l.spec.Streams {
		l.idle = append(l.idle, slot{conn: i})
	}
	return l.flush(i)
}

func (l *http2Loop) close() {
	for i := range l.conns {
		if fd := l.conns[i].fd; fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	l.poll.close()
}

// run sends and reads until all is answered.
func (l *http2Loop) run(ctx context.Context) error {
	l.begin(l.spec.Rate, l.spec.Warmup, l.spec.Duration)
	l.now = l.start
	all := len(l.conns) * l.spec.Streams
	for !l.over(l.now) || len(l.idle) < all {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if l.expired(l.now) {
			break
		}
		for len(l.idle) > 0 {
			due, ok := l.next(l.now)
			if !ok {
				break
			}
			l.send(due)
		}
		if err := l.flushAll(); err != nil {
			return err
		}
		if err := l.wait(l.pace.wait(l.now, len(l.idle) > 0)); err != nil {
			return err
		}
	}
	for i := range l.conns {
		for _, s := range l.conns[i].calls {
			if !s.quiet {
				l.unanswered(s.due, l.now)
			}
		}
	}
	l.finish(l.now)
	if err := l.stalled(); err != nil {
		return err
	}
	return l.endStreams()
}
