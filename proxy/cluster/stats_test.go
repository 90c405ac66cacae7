// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"pillion/proxy/http"
	"pillion/proxy/stats"
)

// list returns the metrics of reg by dotted name, without histograms.
func list(reg *stats.Registry) map[string]float64 {
	out := map[string]float64{}
	for _, m := range reg.List(stats.Query{}) {
		if m.Kind == stats.KindHistogram {
			out[m.Name] = float64(m.Hist.Count())
			continue
		}
		out[m.Name] = m.Value
	}
	return out
}

func TestMetrics(t *testing.T) {
	reg := stats.NewRegistry()
	m := newManager(t, func(o *Options) { o.Stats = reg })
	c := apply(t, m, static("outbound|80||a.b", 2, func(c *Config) {
		c.StatName = "outbound|80||a.b;"
		c.Outlier = ejecting(50)
		c.Breakers = Breakers{MaxRequests: 2, MaxRetries: 3, TrackRemaining: true}
		c.Conn.MaxConnections = 1
	}))
	h := c.Pick(&PickArgs{})
	c.AdmitRequest()
	pc := acquire(t, c, h)
	c.Stats.RqTotal.Inc()
	c.Stats.Response(200, false, 3e6)
	c.Stats.Response(200, true, 3e6)
	c.Stats.Response(503, false, -1)
	eject(t, h)
	got := list(reg)
	prefix := "cluster.outbound|80||a.b;."
	for name, want := range map[string]float64{
		"upstream_cx_total": 1, "upstream_cx_http1_total": 1, "upstream_cx_active": 1, "upstream_cx_connect_ms": 1,
		"upstream_rq_total": 1, "upstream_rq_active": 1, "upstream_rq_pending_active": 0, "upstream_rq_pending_total": 1,
		"upstream_rq_completed": 3, "upstream_rq_200": 2, "upstream_rq_2xx": 2, "upstream_rq_503": 1, "upstream_rq_5xx": 1,
		"internal.upstream_rq_200": 1, "external.upstream_rq_200": 1, "external.upstream_rq_completed": 2, "external.upstream_rq_5xx": 1,
		"upstream_rq_time": 2, "internal.upstream_rq_time": 1, "external.upstream_rq_time": 1,
		"membership_total": 2, "membership_healthy": 1, "membership_change": 1,
		"circuit_breakers.default.cx_open": 1, "circuit_breakers.default.remaining_cx": 0,
		"circuit_breakers.default.rq_open": 0, "circuit_breakers.default.remaining_rq": 1,
		"circuit_breakers.default.rq_retry_open": 0, "circuit_breakers.default.remaining_retries": 3,
		"circuit_breakers.default.rq_pending_open": 0, "circuit_breakers.default.remaining_pending": 1024,
		"outlier_detection.ejections_active": 1, "outlier_detection.ejections_enforced_total": 1,
		"outlier_detection.ejections_enforced_consecutive_5xx": 1, "outlier_detection.ejections_detected_consecutive_5xx": 1,
		"outlier_detection.ejections_enforced_consecutive_gateway_failure": 0, "outlier_detection.ejections_overflow": 0,
	} {
		if v, ok := got[prefix+name]; !ok || v != want {
			t.Errorf("%s = %v (there: %v), want %v", name, v, ok, want)
		}
	}
	if got["cluster_manager.active_clusters"] != 1 || got["cluster_manager.cluster_added"] != 1 {
		t.Errorf("cluster_manager: %v", got)
	}
	c.Put(pc, false)
	c.ReleaseRequest()
	got = list(reg)
	if got[prefix+"upstream_cx_length_ms"] != 1 || got[prefix+"upstream_rq_per_cx"] != 1 || got[prefix+"upstream_cx_destroy_local"] != 1 ||
		got[prefix+"upstream_cx_active"] != 0 {
		t.Errorf("after the connection was closed: %v", got)
	}
	apply(t, m, static("b", 1, nil))
	if got := list(reg); got[prefix+"membership_total"] != 0 || got["cluster_manager.cluster_removed"] != 1 {
		t.Error("a removed cluster is still reported")
	}
}

// Every metric that carries the name of one of Envoy's is one of Envoy's.
func TestMetricNamesAreEnvoys(t *testing.T) {
	reg := stats.NewRegistry()
	m := newManager(t, func(o *Options) { o.Stats = reg })
	c := apply(t, m, static("a", 2, func(c *Config) { c.Outlier = ejecting(50) }))
	pc := acquire(t, c, c.Hosts()[0])
	c.Put(pc, false)
	c.Stats.Response(200, true, 1)
	c.Stats.Response(404, false, 1)
	known := map[string]bool{}
	for _, s := range strings.Fields(envoyClusterMetrics) {
		known[s] = true
	}
	var buf bytes.Buffer
	if err := reg.Write(&buf, false, stats.Query{}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for sc := bufio.NewScanner(&buf); sc.Scan(); {
		if name, ok := strings.CutPrefix(sc.Text(), "# TYPE envoy_"); ok {
			name, _, _ = strings.Cut(name, " ")
			seen[name] = true
			if !known[name] {
				t.Errorf("Envoy has no metric %s", name)
			}
		}
	}
	if len(seen) < 60 {
		t.Errorf("only %d metrics: %v", len(seen), slices.Sorted(maps.Keys(seen)))
	}
}

// envoyClusterMetrics are names of Envoy 1.40, without the prefix envoy_.
const envoyClusterMetrics = `
cluster_circuit_breakers_default_cx_open cluster_circuit_breakers_default_rq_open cluster_circuit_breakers_default_rq_pending_open
cluster_circuit_breakers_default_rq_retry_open cluster_external_upstream_rq cluster_external_upstream_rq_completed
cluster_external_upstream_rq_time cluster_external_upstream_rq_xx cluster_internal_upstream_rq cluster_internal_upstream_rq_completed
cluster_internal_upstream_rq_time cluster_internal_upstream_rq_xx cluster_lb_healthy_panic cluster_manager_active_clusters
cluster_manager_cluster_added cluster_manager_cluster_modified cluster_manager_cluster_removed cluster_manager_cluster_updated
cluster_manager_warming_clusters cluster_membership_change cluster_membership_degraded cluster_membership_excluded
cluster_membership_healthy cluster_membership_total cluster_original_dst_host_invalid
cluster_outlier_detection_ejections_active cluster_outlier_detection_ejections_enforced_total
cluster_outlier_detection_ejections_overflow cluster_outlier_detection_ejections_detected_consecutive_5xx
cluster_outlier_detection_ejections_detected_consecutive_gateway_failure
cluster_outlier_detection_ejections_detected_consecutive_local_origin_failure
cluster_outlier_detection_ejections_enforced_consecutive_5xx
cluster_outlier_detection_ejections_enforced_consecutive_gateway_failure
cluster_outlier_detection_ejections_enforced_consecutive_local_origin_failure
cluster_retry_or_shadow_abandoned cluster_update_attempt cluster_update_empty cluster_update_failure cluster_update_no_rebuild
cluster_update_success cluster_upstream_cx_active cluster_upstream_cx_connect_attempts_exceeded cluster_upstream_cx_connect_fail cluster_upstream_cx_connect_ms
cluster_upstream_cx_connect_timeout cluster_upstream_cx_destroy cluster_upstream_cx_destroy_local
cluster_upstream_cx_destroy_local_with_active_rq cluster_upstream_cx_destroy_remote
cluster_upstream_cx_destroy_remote_with_active_rq cluster_upstream_cx_destroy_with_active_rq cluster_upstream_cx_http1_total cluster_upstream_cx_http2_total
cluster_upstream_cx_idle_timeout cluster_upstream_cx_length_ms cluster_upstream_cx_max_duration_reached
cluster_upstream_cx_max_requests cluster_upstream_cx_none_healthy cluster_upstream_cx_overflow cluster_upstream_cx_protocol_error
cluster_upstream_cx_rx_bytes_total cluster_upstream_cx_total cluster_upstream_cx_tx_bytes_total cluster_upstream_rq
cluster_upstream_rq_active cluster_upstream_rq_active_overflow cluster_upstream_rq_cancelled cluster_upstream_rq_completed
cluster_upstream_rq_max_duration_reached cluster_upstream_rq_pending_active cluster_upstream_rq_pending_failure_eject
cluster_upstream_rq_pending_overflow cluster_upstream_rq_pending_total cluster_upstream_rq_per_cx
cluster_upstream_rq_per_try_idle_timeout cluster_upstream_rq_per_try_timeout cluster_upstream_rq_retry
cluster_upstream_rq_retry_backoff_exponential cluster_upstream_rq_retry_backoff_ratelimited cluster_upstream_rq_retry_limit_exceeded
cluster_upstream_rq_retry_overflow cluster_upstream_rq_retry_success cluster_upstream_rq_rx_reset cluster_upstream_rq_time
cluster_upstream_rq_timeout cluster_upstream_rq_total cluster_upstream_rq_tx_reset cluster_upstream_rq_xx
`

func TestResponseCounts(t *testing.T) {
	var s Stats
	done := make(chan bool)
	for w := range 4 {
		go func() {
			for i := range 1000 {
				s.Response(200+(i+w)%7*50, i%2 == 0, 1)
			}
			done <- true
		}()
	}
	for range 4 {
		<-done
	}
	var total, internal uint64
	codes := 0
	s.Codes(func(_ int, all, in uint64) { total += all; internal += in; codes++ })
	if total != 4000 || internal != 2000 || codes != 7 {
		t.Errorf("%d responses, %d internal, %d codes", total, internal, codes)
	}
	if n := testing.AllocsPerRun(100, func() { s.Response(200, false, 5) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestStatus(t *testing.T) {
	c := apply(t, newManager(t, nil), static("a", 2, func(c *Config) {
		c.StatName, c.AddedViaAPI = "a;", true
		c.Conn.MaxConnections, c.Conn.MaxPending, c.Breakers.MaxRequests, c.Breakers.MaxRetries = 1, 2, 3, 4
		c.Endpoints[1] = Endpoint{Address: address(1), Hostname: "h", Weight: 5, Priority: 1, Health: HealthDraining,
			Locality: &Locality{Region: "r", Zone: "z", SubZone: "s"}, Peer: http.Peer{Workload: "w"}, Unusable: "why"}
	}))
	h := c.Hosts()[0]
	idle := acquire(t, c, h)
	h.ReportStatus(200)
	h.ReportStatus(500)
	h.ReportFailure(http.KindTimeout)
	st := c.Status()
	if st.Name != "a" || st.ObservabilityName != "a;" || !st.AddedViaAPI || st.Outlier ||
		st.Breakers != (BreakerStatus{1, 2, 3, 4}) || len(st.Hosts) != 2 {
		t.Errorf("status: %+v", st)
	}
	if got := st.Hosts[0]; got.CxActive != 1 || got.CxTotal != 1 || got.RqActive != 1 || got.RqTotal != 1 || got.RqSuccess != 1 ||
		got.RqError != 2 || got.RqTimeout != 1 || !got.Healthy || got.Weight != 1 || got.CxIdle != 0 {
		t.Errorf("first host: %+v", got)
	}
	want := HostStatus{Address: address(1), Hostname: "h", Weight: 5, Priority: 1, EDSHealth: HealthDraining,
		Locality: Locality{Region: "r", Zone: "z", SubZone: "s"}, Peer: http.Peer{Workload: "w"}, Unusable: "why"}
	if got := st.Hosts[1]; got != want {
		t.Errorf("second host: %+v", got)
	}
	c.Put(idle, true)
	if got := c.Status().Hosts[0]; got.CxIdle != 1 || got.RqActive != 0 {
		t.Errorf("after the request: %+v", got)
	}
}
