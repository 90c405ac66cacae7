// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"sync/atomic"
	"time"

	"pillion/proxy/stats"
)

// agentMetrics are those that Istio's agent has beside Envoy's, as far as they
// mean something where both are one process.
type agentMetrics struct {
	scrapes                        stats.Counter // of the merged page
	proxyFailed, appFailed, failed stats.Counter // parts of it that couldn't be had
	startup                        atomic.Int64  // nanoseconds until the proxy was first ready; 0: it wasn't
}

// ready notes the first time that the proxy was found ready.
func (m *agentMetrics) ready(started time.Time) {
	m.startup.CompareAndSwap(0, int64(max(time.Since(started), 1)))
}

// CollectStats reports the metrics.
func (m *agentMetrics) CollectStats(e *stats.Emitter) {
	emit := func(name string, kind stats.Kind, v float64, labels ...stats.Label) {
		e.Emit(stats.Metric{Name: name, Prom: name, Raw: true, Kind: kind, Value: v, Labels: labels})
	}
	emit("istio_agent_scrapes_total", stats.KindCounter, float64(m.scrapes.Value()))
	for _, part := range []struct {
		name string
		n    uint64
	}{{"agent", m.failed.Value()}, {"application", m.appFailed.Value()}, {"envoy", m.proxyFailed.Value()}} {
		emit("istio_agent_scrape_failures_total", stats.KindCounter, float64(part.n), stats.Label{Name: "type", Value: part.name})
	}
	if d := m.startup.Load(); d > 0 {
		emit("istio_agent_startup_duration_seconds", stats.KindGauge, time.Duration(d).Seconds())
	}
}
