// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"maps"
	"slices"
	"strings"
	"time"

	"pillion/proxy/stats"
)

// envoyName is what Envoy's metrics call the subscription of a type that is
// asked for as a whole. It counts what it asks for by name with the cluster, the
// connection manager or the context that asks.
func envoyName(url string) string {
	switch url {
	case "type.googleapis.com/envoy.config.cluster.v3.Cluster":
		return "cluster_manager.cds."
	case "type.googleapis.com/envoy.config.listener.v3.Listener":
		return "listener_manager.lds."
	}
	return ""
}

// CollectStats reports how the client fares (stats.Source).
func (c *Client) CollectStats(e *stats.Emitter) {
	c.mu.Lock()
	connected, waiting := int64(0), int64(0)
	if c.line.state == Silent || c.line.state == Connected {
		connected = 1
	}
	failures := maps.Clone(c.line.failures)
	types := slices.Clone(c.types)
	updated := make([]time.Time, len(types))
	for i, s := range types {
		updated[i] = s.updatedAt
		if connected == 1 && s.pending() {
			waiting++
		}
	}
	c.mu.Unlock()
	e.Gauge("control_plane.connected_state", "", connected)
	// The same under a name that Istio's list of what is shown can't take away.
	e.Emit(stats.Metric{Name: "pillion.xds.connected", Prom: "pillion_xds_connected", Raw: true, Kind: stats.KindGauge, Value: float64(connected)})
	e.Gauge("control_plane.pending_requests", "", waiting)
	e.Counter("control_plane.rate_limit_enforced", "", 0) // requests are merged, not limited
	for i, s := range types {
		s.collect(e, updated[i])
	}
	own(e, "streams", "pillion_xds_streams_total", c.count.streams.Value())
	own(e, "streams_ended_in_order", "pillion_xds_streams_ended_in_order_total", c.count.restarts.Value())
	own(e, "unrequested_responses", "pillion_xds_unrequested_responses_total", c.count.unasked.Value())
	own(e, "unrequested_resources", "pillion_xds_unrequested_resources_total", c.count.unwanted.Value())
	for _, r := range slices.Sorted(maps.Keys(failures)) {
		own(e, "stream_failures."+string(r), "pillion_xds_stream_failures_total", failures[r], stats.Label{Name: "reason", Value: string(r)})
	}
}

func (s *subscription) collect(e *stats.Emitter, updated time.Time) {
	taken, refused := s.updates.Value(), s.nacks.Value()
	if name := envoyName(s.url); name != "" {
		e.Counter(name+"update_attempt", "", taken+refused+s.failures.Value())
		e.Counter(name+"update_success", "", taken)
		e.Counter(name+"update_rejected", "", refused)
		e.Counter(name+"update_failure", "", s.failures.Value())
		if !updated.IsZero() {
			e.Gauge(name+"update_time", "", updated.UnixMilli())
		}
	}
	kind := strings.TrimPrefix(s.url, "type.googleapis.com/")
	label := stats.Label{Name: "type", Value: kind}
	own(e, "updates."+kind, "pillion_xds_updates_total", taken, label)
	own(e, "nacks."+kind, "pillion_xds_nacks_total", refused, label)
	own(e, "resources."+kind, "pillion_xds_resources_total", s.resources.Value(), label)
	own(e, "octets."+kind, "pillion_xds_received_bytes_total", s.octets.Value(), label)
}

// own reports a counter that Envoy doesn't have.
func own(e *stats.Emitter, name, prom string, v uint64, labels ...stats.Label) {
	e.Emit(stats.Metric{Name: "pillion.xds." + name, Prom: prom, Raw: true, Labels: labels, Value: float64(v)})
}
