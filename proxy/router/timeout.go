// SPDX-License-Identifier: Apache-2.0

package router

import (
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

// TimeoutFor returns the time that a request may take until its response has
// ended, 0 without a bound: the route's, or for gRPC the client's if the
// route allows that (Envoy: FilterUtility::finalTimeout).
func (r *Route) TimeoutFor(h *http.RequestHead) time.Duration {
	if r.More == nil || !r.More.GRPC.Set || !isGRPC(h) {
		return r.Timeout
	}
	return r.More.GRPC.apply(h)
}

// StreamDurationFor returns the time that the whole exchange may take, 0
// without a bound, and whether the route says anything about it.
func (r *Route) StreamDurationFor(h *http.RequestHead) (time.Duration, bool) {
	m := r.More
	if m == nil {
		return 0, false
	}
	if m.StreamGRPC.Set && isGRPC(h) && h.Fields.Has(http.HeaderGRPCTimeout) {
		return m.StreamGRPC.apply(h), true
	}
	return m.MaxStream, m.HasMaxStream
}

func (g *GRPCTimeout) apply(h *http.RequestHead) time.Duration {
	var d time.Duration
	if v, ok := h.Fields.Get(http.HeaderGRPCTimeout); ok {
		d, _ = parseGRPCTimeout(v)
	}
	if g.Offset > 0 && g.Offset < d {
		d -= g.Offset
	}
	if g.Max > 0 && (d == 0 || d > g.Max) {
		d = g.Max
	}
	return d
}

// parseGRPCTimeout reads at most eight digits and a unit (gRPC over HTTP/2,
// "Timeout").
func parseGRPCTimeout(v []byte) (time.Duration, bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	var unit time.Duration
	switch v[len(v)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	var n time.Duration
	for _, c := range v[:len(v)-1] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + time.Duration(c-'0')
	}
	if n > (1<<63-1)/unit {
		return 1<<63 - 1, true
	}
	return n * unit, true
}
