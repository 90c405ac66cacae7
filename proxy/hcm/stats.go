// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// Stats are the counters of one connection manager, under Envoy's names
// (http.<stat_prefix>.*). All are atomics; they live as long as the manager.
type Stats struct {
	CxTotal, CxDestroy, CxIdleTimeout, CxProtocolError, CxDestroyRemote, CxDestroyLocal stats.Counter
	CxDrainClose, CxOverloadReject                                                      stats.Counter
	CxMaxRequests                                                                       stats.Counter
	CxActive                                                                            stats.Gauge

	RqTotal, RqCompleted, RqTimeout, RqHeaderTimeout, RqTooLarge, RqRxReset                       stats.Counter
	RqResponseBeforeComplete, RqNonRelativePath, RqFailedNormalization, RqRedirectedNormalization stats.Counter
	RqActive                                                                                      stats.Gauge
	// Class counts responses by the hundreds of their status.
	Class [6]stats.Counter
	// RqUpgradeRefused counts requests for a protocol that isn't allowed there.
	RqUpgradeRefused stats.Counter
	// NoRoute counts requests that no route was found for; Redirects and
	// Direct those that the route answered.
	NoRoute, Redirects, Direct stats.Counter
	RqTime                     stats.Timing

	// Cx2Total, Cx2Active and Rq2Total are the share of HTTP/2.
	Cx2Total, Rq2Total stats.Counter
	Cx2Active          stats.Gauge

	// Traced counts requests of connection managers that trace, by trace.Reason.
	Traced [4]stats.Counter

	// Upgrades and UpgradesActive count requests that may switch the protocol.
	Upgrades       stats.Counter
	UpgradesActive stats.Gauge
}

// finished counts an exchange that is over.
func (s *Stats) finished(ex *http.Exchange) {
	s.RqActive.Dec()
	if class := ex.Resp.Status / 100; class > 0 && class < len(s.Class) {
		s.Class[class].Inc()
		s.RqCompleted.Inc()
	}
	if ex.Flags&http.FlagDownstreamConnTermination != 0 {
		s.RqRxReset.Inc()
	}
	s.RqTime.Record(ex.End - ex.Start)
}

// CollectStats reports the counters.
func (m *Manager) CollectStats(e *stats.Emitter) {
	s := &m.Stats
	sc := e.HTTP(m.config().StatPrefix)
	sc.Counter("downstream_cx_total", s.CxTotal.Value())
	sc.Counter("downstream_cx_http1_total", s.CxTotal.Value()-s.Cx2Total.Value())
	sc.Counter("downstream_cx_http2_total", s.Cx2Total.Value())
	sc.Gauge("downstream_cx_active", s.CxActive.Value())
	sc.Gauge("downstream_cx_http1_active", s.CxActive.Value()-s.Cx2Active.Value())
	sc.Gauge("downstream_cx_http2_active", s.Cx2Active.Value())
	sc.Counter("downstream_cx_destroy", s.CxDestroy.Value())
	sc.Counter("downstream_cx_destroy_remote", s.CxDestroyRemote.Value())
	sc.Counter("downstream_cx_destroy_local", s.CxDestroyLocal.Value())
	sc.Counter("downstream_cx_drain_close", s.CxDrainClose.Value())
	sc.Counter("downstream_cx_max_requests_reached", s.CxMaxRequests.Value())
	sc.Counter("downstream_cx_idle_timeout", s.CxIdleTimeout.Value())
	sc.Counter("downstream_cx_protocol_error", s.CxProtocolError.Value())
	sc.Counter("downstream_cx_upgrades_total", s.Upgrades.Value())
	sc.Gauge("downstream_cx_upgrades_active", s.UpgradesActive.Value())
	sc.Counter("downstream_rq_total", s.RqTotal.Value())
	sc.Counter("downstream_rq_http1_total", s.RqTotal.Value()-s.Rq2Total.Value())
	sc.Counter("downstream_rq_http2_total", s.Rq2Total.Value())
	sc.Counter("downstream_rq_completed", s.RqCompleted.Value())
	sc.Gauge("downstream_rq_active", s.RqActive.Value())
	sc.Counter("downstream_rq_timeout", s.RqTimeout.Value())
	sc.Counter("downstream_rq_header_timeout", s.RqHeaderTimeout.Value())
	sc.Counter("downstream_rq_too_large", s.RqTooLarge.Value())
	sc.Counter("downstream_rq_ws_on_non_ws_route", s.RqUpgradeRefused.Value())
	sc.Counter("downstream_rq_rx_reset", s.RqRxReset.Value())
	sc.Counter("downstream_rq_response_before_rq_complete", s.RqResponseBeforeComplete.Value())
	sc.Counter("downstream_rq_failed_path_normalization", s.RqFailedNormalization.Value())
	sc.Counter("downstream_rq_redirected_with_normalized_path", s.RqRedirectedNormalization.Value())
	sc.Counter("no_route", s.NoRoute.Value())
	sc.Counter("rq_redirect", s.Redirects.Value())
	sc.Counter("rq_direct_response", s.Direct.Value())
	sc.Counter("rq_total", s.RqTotal.Value())
	for class := 1; class < len(s.Class); class++ {
		sc.Class("downstream_rq", class, s.Class[class].Value())
	}
	sc.Histogram("downstream_rq_time", &s.RqTime)
	s.collectTracing(sc)
}
