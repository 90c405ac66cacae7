// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"sync/atomic"

	"pillion/proxy/http/h2"
	"pillion/proxy/stats"
)

// Stats are the counters of a group under the names that Envoy gives those
// of a cluster. Gauges that follow from the group's state are its methods.
type Stats struct {
	CxTotal, CxHTTP1Total, CxHTTP2Total                 stats.Counter // upstream_cx_…
	CxConnectFail, CxConnectTimeout                     stats.Counter
	CxOverflow                                          stats.Counter // no connection because of MaxConnections
	CxIdleTimeout, CxMaxRequests, CxMaxDuration         stats.Counter
	CxDestroy, CxDestroyLocal, CxDestroyRemote          stats.Counter
	CxDestroyActive                                     stats.Counter // …_with_active_rq
	CxDestroyLocalActive, CxDestroyRemoteActive         stats.Counter
	RqPendingTotal, RqPendingOverflow, RqPendingFailure stats.Counter // upstream_rq_pending_…, …_failure_eject
	connectTime, length                                 lazy[stats.Timing]
	requestsPerConn                                     lazy[stats.Histogram]
	http2                                               lazy[h2.Stats]
}

// ConnectTime returns upstream_cx_connect_ms, nil while it is empty.
func (s *Stats) ConnectTime() *stats.Timing { return s.connectTime.p.Load() }

// Length returns upstream_cx_length_ms, nil while it is empty.
func (s *Stats) Length() *stats.Timing { return s.length.p.Load() }

// RequestsPerConn returns upstream_rq_per_cx, nil while it is empty.
func (s *Stats) RequestsPerConn() *stats.Histogram { return s.requestsPerConn.p.Load() }

// HTTP2 returns what HTTP/2 connections counted (http2.…), nil if there were
// none.
func (s *Stats) HTTP2() *h2.Stats { return s.http2.p.Load() }

// lazy is a histogram that costs a pointer until it is used: most clusters of
// a mesh never see a request.
type lazy[T any] struct{ p atomic.Pointer[T] }

func (l *lazy[T]) get() *T {
	if v := l.p.Load(); v != nil {
		return v
	}
	l.p.CompareAndSwap(nil, new(T))
	return l.p.Load()
}

// HostStats are the counters of one host's connections and of the requests
// on them, under the names that Envoy's admin endpoint gives them.
type HostStats struct {
	CxTotal, CxConnectFail, RqTotal stats.Counter
	CxActive                        stats.Gauge
	// RqActive counts requests from the call of Acquire to that of Put.
	RqActive stats.Gauge
}
