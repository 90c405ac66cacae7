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

// emitter reports metrics of the agent, without their prefix.
func emitter(e *stats.Emitter) func(name string, kind stats.Kind, v float64, labels ...stats.Label) {
	return func(name string, kind stats.Kind, v float64, labels ...stats.Label) {
		name = "istio_agent_" + name
		e.Emit(stats.Metric{Name: name, Prom: name, Raw: true, Kind: kind, Value: v, Labels: labels})
	}
}

// CollectStats reports the metrics.
func (m *agentMetrics) CollectStats(e *stats.Emitter) {
	emit := emitter(e)
	emit("scrapes_total", stats.KindCounter, float64(m.scrapes.Value()))
	for _, part := range []struct {
		name string
		n    uint64
	}{{"agent", m.failed.Value()}, {"application", m.appFailed.Value()}, {"envoy", m.proxyFailed.Value()}} {
		emit("scrape_failures_total", stats.KindCounter, float64(part.n), stats.Label{Name: "type", Value: part.name})
	}
	if d := m.startup.Load(); d > 0 {
		emit("startup_duration_seconds", stats.KindGauge, time.Duration(d).Seconds())
	}
}

// workMetrics are those of the agent's work that the proxy does. A name without _total is
// a counter's all the same, since the agent has them so.
type workMetrics struct{ proxy Proxy }

// CollectStats reports the metrics.
func (m workMetrics) CollectStats(e *stats.Emitter) {
	emit, now := emitter(e), m.proxy.Agent()
	count := func(name string, n uint64, labels ...stats.Label) {
		emit(name, stats.KindCounter, float64(n), labels...)
	}
	count("xds_proxy_requests", now.Requests)
	count("xds_proxy_responses", now.Responses)
	count("istiod_connection_failures", now.Unopened)
	count("istiod_connection_terminations", now.Ended, stats.Label{Name: "type", Value: "cancelled"})
	count("istiod_connection_terminations", now.Failed, stats.Label{Name: "type", Value: "error"})
	if ca := now.CA; ca != nil {
		csr := stats.Label{Name: "request_type", Value: "csr"}
		count("num_outgoing_requests", ca.All, csr)
		count("num_failed_outgoing_requests", ca.Failed, csr)
		emit("outgoing_latency", stats.KindCounter, ca.Took.Seconds()*1000, csr) // milliseconds
	}
	count("num_file_secret_failures_total", now.FileFailures)
	count("num_file_watcher_failures_total", now.WatchFailures)
	if !now.Expires.IsZero() {
		emit("cert_expiry_seconds", stats.KindGauge, time.Until(now.Expires).Seconds(), stats.Label{Name: "resource_name", Value: "default"})
	}
}
