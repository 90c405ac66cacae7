// SPDX-License-Identifier: Apache-2.0

package router

import (
	"strconv"
	"time"

	"pillion/proxy/http"
)

// GRPCTimeout makes the grpc-timeout of a gRPC request bound it. The zero
// value does not.
type GRPCTimeout struct {
	Set bool
	// Max bounds what a client may ask for; 0 does not.
	Max time.Duration
	// Offset is taken off what the client asks for, so that its own deadline
	// doesn't win the race.
	Offset time.Duration
}

// Times are the bounds of one exchange; 0 is none.
type Times struct {
	// Response is what the response may take, from the request's end to the
	// response's.
	Response time.Duration
	// Try is what one try may take.
	Try time.Duration
	// Stream is what the whole exchange may take, from the request's head on.
	Stream time.Duration
	// HasStream says that the route, and not the connection manager, decides
	// about Stream.
	HasStream bool
	// ByClient says that Response or Stream is the client's own deadline:
	// when it passes, gRPC calls that DEADLINE_EXCEEDED, and not the proxy
	// unavailable.
	ByClient bool
	// tell asks that the server be told by grpc-timeout of what is left.
	tell bool
}

// TimesFor returns the bounds of an exchange: the route's, or for gRPC the
// client's where the route allows that (Envoy: FilterUtility::finalTimeout;
// ConnectionManagerImpl::ActiveStream::refreshDurationTimeout).
func (r *Route) TimesFor(ex *http.Exchange) Times {
	t := Times{Response: r.Timeout}
	if m := r.More; m != nil {
		if m.GRPC.Set && ex.GRPC {
			t.tell = true
			t.Response, t.ByClient = m.GRPC.response(&ex.Req)
		}
		if m.HasMaxStream {
			t.Stream, t.HasStream = m.MaxStream, true
		}
		if m.StreamGRPC.Set {
			if d, ok := ex.Req.GRPCTimeout(); ok {
				t.Stream, t.HasStream, t.ByClient = m.StreamGRPC.stream(d), true, true
			}
		}
	}
	if r.Retry != nil {
		t.Try = r.Retry.PerTryTimeout
	}
	if t.Response > 0 && t.Try >= t.Response {
		t.Try = 0
	}
	return t
}

// response is the bound of a response, and whether it is the client's.
func (g *GRPCTimeout) response(h *http.RequestHead) (d time.Duration, client bool) {
	d, _ = h.GRPCTimeout()
	if g.Offset > 0 && g.Offset < d {
		d -= g.Offset
	}
	if g.Max > 0 && (d == 0 || d > g.Max) {
		return g.Max, false
	}
	return d, d > 0
}

// soonest stands for a time that is over from the beginning, where 0 would be
// no bound.
const soonest = time.Nanosecond

// stream is the bound of a whole exchange whose client asks for d.
func (g *GRPCTimeout) stream(d time.Duration) time.Duration {
	if g.Max > 0 && d > g.Max {
		d = g.Max
	}
	return max(d-g.Offset, soonest)
}

// Tell makes the request say how long its answer is waited for. elapsed is
// how much of the time was used up by earlier tries; expected asks for the
// x-envoy-expected-rq-timeout-ms field (Envoy: FilterUtility::setTimeoutHeaders).
//
// Envoy puts the time of one try into grpc-timeout as well. A service holds to
// that for the whole call, so that perTryTimeout would cut off every stream,
// and a try that is given up is reset anyway: here it is told of the deadline.
func (t *Times) Tell(ex *http.Exchange, elapsed time.Duration, expected bool) {
	rest := t.left(elapsed)
	if d := rest; expected {
		if t.Try > 0 && (d == 0 || t.Try < d) {
			d = t.Try
		}
		if d > 0 {
			ms := (d + time.Millisecond - 1) / time.Millisecond
			ex.Req.Fields.SetID(http.HeaderXEnvoyExpectedRqTimeoutMs, strconv.AppendInt(ex.Scratch(20)[:0], int64(ms), 10))
		}
	}
	if t.tell && rest > 0 {
		ex.Req.Fields.SetID(http.HeaderGRPCTimeout, http.AppendGRPCTimeout(ex.Scratch(20)[:0], rest))
	}
	if t.HasStream && t.Stream > 0 {
		if _, asked := ex.Req.GRPCTimeout(); asked {
			ex.Req.Fields.SetID(http.HeaderGRPCTimeout, http.AppendGRPCTimeout(ex.Scratch(20)[:0], t.Stream))
		}
	}
}

// left is what is left of the response's time, 0 without a bound. Out of time
// is not without a bound.
func (t *Times) left(elapsed time.Duration) time.Duration {
	if t.Response == 0 {
		return 0
	}
	return max(t.Response-elapsed, time.Millisecond)
}
