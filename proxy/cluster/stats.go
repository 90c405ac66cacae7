// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"slices"
	"sync/atomic"

	"pillion/proxy/outlier"
	"pillion/proxy/pool"
	"pillion/proxy/stats"
)

// Stats are the counters of a cluster under Envoy's names: RqTotal is
// upstream_rq_total, and so on. Those of connections and of requests that
// wait for one are kept by the pool; the forwarder adds to the others.
type Stats struct {
	pool.Stats

	RqTotal                                   stats.Counter // attempts that got a connection
	RqCancelled, RqTimeout, RqPerTryTimeout   stats.Counter
	RqPerTryIdleTimeout, RqMaxDurationReached stats.Counter
	RqRxReset, RqTxReset                      stats.Counter
	RqRetry, RqRetrySuccess                   stats.Counter
	RqRetryBackoffExponential                 stats.Counter
	RqRetryBackoffRatelimited                 stats.Counter
	RqRetryOverflow, RqRetryLimitExceeded     stats.Counter
	RqActiveOverflow                          stats.Counter
	RetryOrShadowAbandoned                    stats.Counter
	CxRxBytes, CxTxBytes                      stats.Counter
	CxNoneHealthy, CxProtocolError            stats.Counter
	CxConnectAttemptsExceeded                 stats.Counter
	LbHealthyPanic, MembershipChange          stats.Counter
	OriginalDstHostInvalid                    stats.Counter
	UpdateAttempt, UpdateSuccess              stats.Counter
	UpdateFailure, UpdateEmpty                stats.Counter
	UpdateNoRebuild                           stats.Counter

	codes atomic.Pointer[[]*codeCount] // those seen so far; replaced when one is added
	time  atomic.Pointer[timings]      // nil before the first response
}

// codeCount is how often one response code was seen.
type codeCount struct {
	code            int
	total, internal stats.Counter
}

type timings struct{ all, internal, external stats.Timing }

// Response counts a response that went downstream, the proxy's own included:
// upstream_rq_completed, upstream_rq_2xx, upstream_rq_200 and their variants
// below "internal." and "external.". ns is upstream_rq_time in nanoseconds,
// negative if no upstream answered.
func (s *Stats) Response(code int, internal bool, ns int64) {
	c := s.count(code)
	c.total.Inc()
	if internal {
		c.internal.Inc()
	}
	if ns < 0 {
		return
	}
	t := s.time.Load()
	if t == nil {
		s.time.CompareAndSwap(nil, &timings{})
		t = s.time.Load()
	}
	t.all.Record(ns)
	if internal {
		t.internal.Record(ns)
	} else {
		t.external.Record(ns)
	}
}

// count returns the counters of a code. Few codes are ever seen of one
// cluster, so a list is searched faster than a table, and costs nothing
// before.
func (s *Stats) count(code int) *codeCount {
	for {
		p := s.codes.Load()
		var list []*codeCount
		if p != nil {
			list = *p
		}
		for _, c := range list {
			if c.code == code {
				return c
			}
		}
		grown := append(slices.Clip(list), &codeCount{code: code})
		s.codes.CompareAndSwap(p, &grown)
	}
}

// Codes calls f for each response code that was seen.
func (s *Stats) Codes(f func(code int, total, internal uint64)) {
	if p := s.codes.Load(); p != nil {
		for _, c := range *p {
			f(c.code, c.total.Value(), c.internal.Value())
		}
	}
}

// CollectStats reports the counters of all clusters.
func (m *Manager) CollectStats(e *stats.Emitter) {
	clusters := m.Clusters()
	e.Expect(len(clusters))
	for _, c := range clusters {
		c.collect(e)
	}
	e.Expect(0)
	gauge := func(name string, v int64) { e.Gauge("cluster_manager."+name, "", v) }
	counter := func(name string, v *stats.Counter) { e.Counter("cluster_manager."+name, "", v.Value()) }
	gauge("active_clusters", int64(len(clusters)))
	gauge("warming_clusters", m.warming.Load())
	counter("cluster_added", &m.counts.added)
	counter("cluster_modified", &m.counts.modified)
	counter("cluster_removed", &m.counts.removed)
	counter("cluster_updated", &m.counts.updated)
}

func (c *Cluster) collect(e *stats.Emitter) {
	cfg := c.config.Load()
	s := e.Cluster(c.statName(cfg))
	for _, f := range counterFields {
		s.Counter(f.name, f.of(c.Stats).Value())
	}
	c.collectResponses(s)
	c.collectState(s, cfg)
	if t := c.Stats.ConnectTime(); t != nil {
		s.Histogram("upstream_cx_connect_ms", t)
	}
	if t := c.Stats.Length(); t != nil {
		s.Histogram("upstream_cx_length_ms", t)
	}
	if h := c.Stats.RequestsPerConn(); h != nil {
		s.Histogram("upstream_rq_per_cx", h)
	}
	if h := c.Stats.HTTP2(); h != nil {
		h.Counters(func(name string, v uint64) { s.Counter("http2."+name, v) })
		h.Gauges(func(name string, v int64) { s.Gauge("http2."+name, v) })
	}
	if d := c.detector.Load(); d != nil {
		collectOutlier(s, &d.Stats)
	}
	if secure := cfg.secure(); secure != nil {
		secure.Stats().Report(s)
	}
}

// StatName is what the cluster is called in metrics.
func (c *Cluster) StatName() string { return c.statName(c.config.Load()) }

// statName is StatName of a configuration.
func (c *Cluster) statName(cfg *Config) string { return cmp.Or(cfg.StatName, c.name) }

// counterFields are the plain counters with their names. Constant.
var counterFields = []struct {
	name string
	of   func(*Stats) *stats.Counter
}{
	{"upstream_cx_total", func(s *Stats) *stats.Counter { return &s.CxTotal }},
	{"upstream_cx_http1_total", func(s *Stats) *stats.Counter { return &s.CxHTTP1Total }},
	{"upstream_cx_http2_total", func(s *Stats) *stats.Counter { return &s.CxHTTP2Total }},
	{"upstream_cx_connect_fail", func(s *Stats) *stats.Counter { return &s.CxConnectFail }},
	{"upstream_cx_connect_timeout", func(s *Stats) *stats.Counter { return &s.CxConnectTimeout }},
	{"upstream_cx_connect_attempts_exceeded", func(s *Stats) *stats.Counter { return &s.CxConnectAttemptsExceeded }},
	{"upstream_cx_overflow", func(s *Stats) *stats.Counter { return &s.CxOverflow }},
	{"upstream_cx_idle_timeout", func(s *Stats) *stats.Counter { return &s.CxIdleTimeout }},
	{"upstream_cx_max_requests", func(s *Stats) *stats.Counter { return &s.CxMaxRequests }},
	{"upstream_cx_max_duration_reached", func(s *Stats) *stats.Counter { return &s.CxMaxDuration }},
	{"upstream_cx_destroy", func(s *Stats) *stats.Counter { return &s.CxDestroy }},
	{"upstream_cx_destroy_local", func(s *Stats) *stats.Counter { return &s.CxDestroyLocal }},
	{"upstream_cx_destroy_remote", func(s *Stats) *stats.Counter { return &s.CxDestroyRemote }},
	{"upstream_cx_destroy_with_active_rq", func(s *Stats) *stats.Counter { return &s.CxDestroyActive }},
	{"upstream_cx_destroy_local_with_active_rq", func(s *Stats) *stats.Counter { return &s.CxDestroyLocalActive }},
	{"upstream_cx_destroy_remote_with_active_rq", func(s *Stats) *stats.Counter { return &s.CxDestroyRemoteActive }},
	{"upstream_cx_none_healthy", func(s *Stats) *stats.Counter { return &s.CxNoneHealthy }},
	{"upstream_cx_protocol_error", func(s *Stats) *stats.Counter { return &s.CxProtocolError }},
	{"upstream_cx_rx_bytes_total", func(s *Stats) *stats.Counter { return &s.CxRxBytes }},
	{"upstream_cx_tx_bytes_total", func(s *Stats) *stats.Counter { return &s.CxTxBytes }},
	{"upstream_rq_total", func(s *Stats) *stats.Counter { return &s.RqTotal }},
	{"upstream_rq_active_overflow", func(s *Stats) *stats.Counter { return &s.RqActiveOverflow }},
	{"upstream_rq_cancelled", func(s *Stats) *stats.Counter { return &s.RqCancelled }},
	{"upstream_rq_max_duration_reached", func(s *Stats) *stats.Counter { return &s.RqMaxDurationReached }},
	{"upstream_rq_pending_total", func(s *Stats) *stats.Counter { return &s.RqPendingTotal }},
	{"upstream_rq_pending_overflow", func(s *Stats) *stats.Counter { return &s.RqPendingOverflow }},
	{"upstream_rq_pending_failure_eject", func(s *Stats) *stats.Counter { return &s.RqPendingFailure }},
	{"upstream_rq_per_try_timeout", func(s *Stats) *stats.Counter { return &s.RqPerTryTimeout }},
	{"upstream_rq_per_try_idle_timeout", func(s *Stats) *stats.Counter { return &s.RqPerTryIdleTimeout }},
	{"upstream_rq_retry", func(s *Stats) *stats.Counter { return &s.RqRetry }},
	{"upstream_rq_retry_backoff_exponential", func(s *Stats) *stats.Counter { return &s.RqRetryBackoffExponential }},
	{"upstream_rq_retry_backoff_ratelimited", func(s *Stats) *stats.Counter { return &s.RqRetryBackoffRatelimited }},
	{"upstream_rq_retry_limit_exceeded", func(s *Stats) *stats.Counter { return &s.RqRetryLimitExceeded }},
	{"upstream_rq_retry_overflow", func(s *Stats) *stats.Counter { return &s.RqRetryOverflow }},
	{"upstream_rq_retry_success", func(s *Stats) *stats.Counter { return &s.RqRetrySuccess }},
	{"upstream_rq_rx_reset", func(s *Stats) *stats.Counter { return &s.RqRxReset }},
	{"upstream_rq_tx_reset", func(s *Stats) *stats.Counter { return &s.RqTxReset }},
	{"upstream_rq_timeout", func(s *Stats) *stats.Counter { return &s.RqTimeout }},
	{"retry_or_shadow_abandoned", func(s *Stats) *stats.Counter { return &s.RetryOrShadowAbandoned }},
	{"lb_healthy_panic", func(s *Stats) *stats.Counter { return &s.LbHealthyPanic }},
	{"membership_change", func(s *Stats) *stats.Counter { return &s.MembershipChange }},
	{"original_dst_host_invalid", func(s *Stats) *stats.Counter { return &s.OriginalDstHostInvalid }},
	{"update_attempt", func(s *Stats) *stats.Counter { return &s.UpdateAttempt }},
	{"update_success", func(s *Stats) *stats.Counter { return &s.UpdateSuccess }},
	{"update_failure", func(s *Stats) *stats.Counter { return &s.UpdateFailure }},
	{"update_empty", func(s *Stats) *stats.Counter { return &s.UpdateEmpty }},
	{"update_no_rebuild", func(s *Stats) *stats.Counter { return &s.UpdateNoRebuild }},
}

// collectResponses reports the counters by response code, their classes, and
// their sum.
func (c *Cluster) collectResponses(s stats.Scope) {
	type sums struct {
		completed uint64
		classes   [10]uint64
	}
	var all, internal, external sums
	c.Stats.Codes(func(code int, total, in uint64) {
		class := min(max(code/100, 0), 9)
		for _, x := range []struct {
			name  string
			sums  *sums
			count uint64
		}{{"upstream_rq", &all, total}, {"internal.upstream_rq", &internal, in}, {"external.upstream_rq", &external, total - in}} {
			if x.count > 0 || x.sums == &all {
				x.sums.completed += x.count
				x.sums.classes[class] += x.count
				s.Code(x.name, code, x.count)
			}
		}
	})
	for _, x := range []struct {
		name string
		sums *sums
	}{{"upstream_rq", &all}, {"internal.upstream_rq", &internal}, {"external.upstream_rq", &external}} {
		if x.sums.completed == 0 && x.sums != &all {
			continue
		}
		s.Counter(x.name+"_completed", x.sums.completed)
		for class, n := range x.sums.classes {
			if n > 0 {
				s.Class(x.name, class, n)
			}
		}
	}
	if t := c.Stats.time.Load(); t != nil {
		s.Histogram("upstream_rq_time", &t.all)
		s.Histogram("internal.upstream_rq_time", &t.internal)
		s.Histogram("external.upstream_rq_time", &t.external)
	}
}

// collectState reports the gauges.
func (c *Cluster) collectState(s stats.Scope, cfg *Config) {
	all, healthy := c.membership()
	s.Gauge("membership_total", int64(all))
	s.Gauge("membership_healthy", int64(healthy))
	s.Gauge("membership_degraded", 0)
	s.Gauge("membership_excluded", 0)
	s.Gauge("upstream_cx_active", c.group.Open())
	s.Gauge("upstream_rq_active", c.requests.active.Load())
	s.Gauge("upstream_rq_pending_active", c.group.Pending())
	for _, l := range c.limits(cfg) {
		s.Gauge("circuit_breakers.default."+l.open, boolGauge(l.active >= l.limit))
		if cfg.Breakers.TrackRemaining {
			s.Gauge("circuit_breakers.default."+l.remaining, max(l.limit-l.active, 0))
		}
	}
}

func boolGauge(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// limit is one circuit breaker at one time.
type limit struct {
	open, remaining string
	active, limit   int64
}

func (c *Cluster) limits(cfg *Config) [4]limit {
	return [4]limit{
		{"cx_open", "remaining_cx", c.group.Open(), int64(cfg.Conn.MaxConnections)},
		{"rq_pending_open", "remaining_pending", c.group.Pending(), int64(cfg.Conn.MaxPending)},
		{"rq_open", "remaining_rq", c.requests.active.Load(), int64(cfg.Breakers.MaxRequests)},
		{"rq_retry_open", "remaining_retries", c.retries.active.Load(), c.maxRetries()},
	}
}

func (c *Cluster) membership() (all, healthy int) {
	if c.original != nil {
		n := len(c.original.hosts())
		return n, n
	}
	hs := c.hosts.Load()
	return len(hs.all), hs.healthy
}

func collectOutlier(s stats.Scope, d *outlier.Stats) {
	s.Gauge("outlier_detection.ejections_active", d.Active.Value())
	s.Counter("outlier_detection.ejections_enforced_total", d.EnforcedTotal.Value())
	s.Counter("outlier_detection.ejections_overflow", d.Overflow.Value())
	for r := range d.Detected {
		name := outlier.Reason(r).String()
		s.Counter("outlier_detection.ejections_detected_"+name, d.Detected[r].Value())
		s.Counter("outlier_detection.ejections_enforced_"+name, d.Enforced[r].Value())
	}
}
