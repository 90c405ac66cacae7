// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pillion/proxy/tls/renew"
)

// State is how a client stands with its server.
type State string

// The states.
const (
	Connecting State = "connecting" // there is no stream
	Silent     State = "silent"     // there is a stream, on which nothing has come yet
	Connected  State = "connected"  // the server answers
	Stopped    State = "stopped"    // Run has returned
)

// Status is how a client stands with its server.
type Status struct {
	Address string
	State   State
	Since   time.Time // when the state began
	Server  string    // what the server calls itself; empty until it has answered
	// Err is why there is no answer, Down since when there is none, and Attempts
	// how many streams have failed since; zero while all is well.
	Err      error
	Down     time.Time
	Attempts int
	// Types are what is asked for, in the order of asking.
	Types []TypeStatus
}

// TypeStatus is how the client stands with one type.
type TypeStatus struct {
	TypeURL string
	All     bool // it is asked for as a whole
	Names   int  // how many are asked for otherwise
	// Asked is when the stream at hand was asked for the type, Updated when
	// anything came of it at last; zero: not yet.
	Asked, Updated time.Time
	// Version is that of the last update that was taken, and Refused why the
	// last update wasn't.
	Version, Refused  string
	Updates, Refusals uint64
}

// Waiting reports whether the server was asked and has never answered.
func (t *TypeStatus) Waiting() bool { return !t.Asked.IsZero() && t.Updated.Before(t.Asked) }

// Status returns how things stand now.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.line
	now := Status{Address: c.o.Server.Address, State: l.state, Since: l.since, Server: l.server, Err: l.err, Down: l.down, Attempts: l.attempts}
	for _, s := range c.types {
		now.Types = append(now.Types, TypeStatus{
			TypeURL: s.url, All: s.wildcard, Names: len(s.want), Asked: s.askedAt, Updated: s.updatedAt,
			Version: s.version, Refused: s.refused, Updates: s.updates.Value(), Refusals: s.nacks.Value(),
		})
	}
	return now
}

// line is the line to the server. An outage begins with the first failure, or
// with a silence, and ends with the first answer. Guarded by Client.mu.
type line struct {
	state    State
	since    time.Time
	server   string
	down     time.Time // when the outage began; zero: there is none
	err      error     // the last of it
	attempts int       // streams that failed in it
	owed     bool      // the server has to answer the first requests of the stream
	failures map[renew.Reason]uint64
	broke    uint64 // of the failures, those of which broken is true
}

func (l *line) enter(s State) { l.state, l.since = s, time.Now() }

// trouble records a failure, and reports whether an outage begins with it.
func (l *line) trouble(err error) bool {
	l.err = err
	if !l.down.IsZero() {
		return false
	}
	l.down, l.attempts = time.Now(), 0
	return true
}

// failed records that a stream broke or couldn't be opened.
func (c *Client) failed(err error) {
	reason := renew.ReasonOf(err)
	c.mu.Lock()
	first := c.line.trouble(err)
	c.line.enter(Connecting)
	c.line.attempts++
	if c.line.failures == nil {
		c.line.failures = map[renew.Reason]uint64{}
	}
	c.line.failures[reason]++
	if reason != renew.Local && broken(err) {
		c.line.broke++
	}
	for _, s := range c.types {
		s.failures.Inc()
	}
	c.mu.Unlock()
	c.tell(first, reason, err)
}

// silent records that the server has taken a connection and says nothing. To one
// who holds everything already in a version, it may have nothing to say.
func (c *Client) silent() {
	err := renew.Because(renew.Slow, fmt.Errorf("no answer for %s", slowAfter))
	c.mu.Lock()
	if c.line.state == Connected {
		c.mu.Unlock()
		return
	}
	if c.line.state == Silent && !c.line.owed {
		server := c.line.server
		c.mu.Unlock()
		c.answered(server)
		return
	}
	first := c.line.trouble(err)
	c.mu.Unlock()
	c.tell(first, renew.Slow, err)
}

// tell logs the first failure of an outage for all to see.
func (c *Client) tell(first bool, reason renew.Reason, err error) {
	if first {
		c.o.Logger.Error("the control plane doesn't answer; what was served is served on, and it is asked again",
			"reason", string(reason), "error", err)
		return
	}
	c.o.Logger.Debug("the control plane still doesn't answer", "reason", string(reason), "error", err)
}

// answered records the first answer on a stream.
func (c *Client) answered(server string) {
	c.mu.Lock()
	l := &c.line
	l.enter(Connected)
	down, attempts := l.down, l.attempts
	l.down, l.err, l.attempts = time.Time{}, nil, 0
	c.mu.Unlock()
	if down.IsZero() {
		c.o.Logger.Debug("the control plane answers", "server", cut(server, 512))
		return
	}
	c.o.Logger.Info("the control plane answers again", "after", time.Since(down).Round(time.Millisecond), "failed_attempts", attempts)
}

// ended records that a stream ended in order.
func (c *Client) ended(err error) {
	c.count.restarts.Inc()
	c.mu.Lock()
	c.line.enter(Connecting)
	c.mu.Unlock()
	c.o.Logger.Debug("the control plane ended the stream in order; it is asked again", "error", err)
}

func (c *Client) stopped() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line.enter(Stopped)
}

// broken reports whether a connection broke off as those of a server do that goes away,
// which Istio's agent counts apart from errors (istio.io/istio/pilot/pkg/grpc,
// GRPCErrorType).
func broken(err error) bool {
	if errors.Is(err, io.EOF) {
		return true
	}
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded:
		return true
	case codes.Unavailable:
		return slices.ContainsFunc([]string{"client disconnected", "error reading from server: EOF", "transport is closing"},
			func(text string) bool { return strings.Contains(s.Message(), text) })
	}
	return false
}

// Counts are what has passed between a client and its server.
type Counts struct {
	Requests, Responses uint64
	// Unopened are the streams that weren't tried, for want of the roots or of a token;
	// Ended are those that the server ended, or that broke off; Failed all others that
	// came to an end.
	Unopened, Ended, Failed uint64
}

// Counts returns the counts as they are now.
func (c *Client) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := Counts{Requests: c.count.requests.Value(), Responses: c.count.responses.Value(),
		Unopened: c.line.failures[renew.Local], Ended: c.count.restarts.Value() + c.line.broke}
	for _, n := range c.line.failures {
		now.Failed += n
	}
	now.Failed -= now.Unopened + c.line.broke
	return now
}
