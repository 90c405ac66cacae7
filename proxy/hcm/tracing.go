// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"pillion/proxy/stats"
	"pillion/proxy/trace"
)

// beginTrace begins the trace of a request, whose route is chosen if there is one.
func (st *stream) beginTrace() {
	operation, route := "", (*trace.Route)(nil)
	if st.route != nil {
		operation, route = st.route.Operation, st.route.Tracing()
	}
	st.trace.Begin(st.cfg.Tracing, &st.ex, operation, route)
	st.c.m.Stats.Traced[st.trace.Reason()].Inc()
}

// collectTracing reports why requests were traced and that they weren't.
func (s *Stats) collectTracing(sc stats.Scope) {
	sc.Counter("tracing.random_sampling", s.Traced[trace.Sampled].Value())
	sc.Counter("tracing.service_forced", s.Traced[trace.ServiceForced].Value())
	sc.Counter("tracing.client_enabled", s.Traced[trace.ClientForced].Value())
	sc.Counter("tracing.not_traceable", s.Traced[trace.NotTraceable].Value())
	sc.Counter("tracing.health_check", 0) // there are no health checks of Envoy's filter here
}
