// SPDX-License-Identifier: Apache-2.0

package live

import "pillion/proxy/stats"

// CollectStats reports what was taken and what is served. It implements
// stats.Source.
func (s *Sink) CollectStats(e *stats.Emitter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	collect(e, &s.clusters)
	collect(e, &s.endpoints)
	collect(e, &s.listeners)
	collect(e, &s.routes)
	collect(e, &s.secrets)
	collect(e, &s.extensions)
	collect(e, &s.names)
	s.collectExtensions(e)
	e.Gauge("listener_manager.total_listeners_warming", "", int64(len(s.warmListeners)))
	cached := 0.0
	if !s.cache.served.IsZero() && !(s.clusters.answered && s.listeners.answered) {
		cached = 1
	}
	e.Emit(stats.Metric{Name: "pillion.config.cache_served", Prom: "pillion_config_cache_served", Raw: true, Kind: stats.KindGauge, Value: cached})
	e.Emit(stats.Metric{Name: "pillion.config.cache_written", Prom: "pillion_config_cache_written_total", Raw: true, Value: float64(s.cache.written.Value())})
	e.Emit(stats.Metric{Name: "pillion.config.cache_failed", Prom: "pillion_config_cache_failed_total", Raw: true, Value: float64(s.cache.failed.Value())})
}

// shortNames are what types are called in metrics.
var shortNames = map[string]string{ClusterType: "cds", EndpointType: "eds", ListenerType: "lds", RouteType: "rds", SecretType: "sds", ExtensionType: "ecds", NameTableType: "nds"}

func collect[R any](e *stats.Emitter, t *table[R]) {
	short := shortNames[t.typeURL]
	typ := stats.Label{Name: "type", Value: short}
	for _, c := range []struct {
		result string
		of     *stats.Counter
	}{{"taken", &t.counts.accepted}, {"unchanged", &t.counts.unchanged}, {"refused", &t.counts.refused}, {"removed", &t.counts.removed}} {
		e.Emit(stats.Metric{Name: "pillion.config." + short + "." + c.result, Prom: "pillion_config_resources_received_total", Raw: true,
			Labels: []stats.Label{typ, {Name: "result", Value: c.result}}, Value: float64(c.of.Value())})
	}
	var warming, bad int
	for _, entry := range t.all {
		if entry.warm {
			warming++
		}
		if entry.bad.is() {
			bad++
		}
	}
	for _, g := range []struct {
		state string
		n     int
	}{{"held", len(t.all)}, {"warming", warming}, {"refused", bad}} {
		e.Emit(stats.Metric{Name: "pillion.config." + short + "." + g.state + "_now", Prom: "pillion_config_resources", Raw: true, Kind: stats.KindGauge,
			Labels: []stats.Label{typ, {Name: "state", Value: g.state}}, Value: float64(g.n)})
	}
}
