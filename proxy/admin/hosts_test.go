// SPDX-License-Identifier: Apache-2.0

package admin

import (
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"testing"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// discard is a client that reads and forgets.
type discard struct{ header nethttp.Header }

func (d *discard) Header() nethttp.Header {
	if d.header == nil {
		d.header = nethttp.Header{}
	}
	return d.header
}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

func nethttpRequest(target string) *nethttp.Request { return httptest.NewRequest("GET", target, nil) }

var twoHosts = ClusterStatus{
	Name: "outbound|80||a.b", ObservabilityName: "outbound|80||a.b;", AddedViaAPI: true, EDSServiceName: "a.b of 80", OutlierDetection: true,
	Default: Limits{1, 2, 3, 4}, High: &Limits{1024, 1024, 1024, 3},
	Hosts: []HostStatus{
		{Address: "10.0.0.1:80", Hostname: "a.b", CxActive: 1, CxTotal: 2, RqActive: 3, RqError: 4, RqPendingActive: 5, RqSuccess: 6,
			RqTimeout: 7, RqTotal: 8, CxConnectFail: 9, Weight: 10, Region: "r", Zone: "z", SubZone: "s", Priority: 1, Canary: true},
		{Address: "[::1]:80", FailedOutlierCheck: true, Weight: 1},
	},
}

func TestClustersText(t *testing.T) {
	f, h := newFake()
	f.clusters = []ClusterStatus{twoHosts, {Name: "other"}}
	_, body := ask(t, h, "GET", "/clusters?filter=^outbound")
	want := `observability_name::outbound|80||a.b;
outlier::success_rate_average::-1
outlier::success_rate_ejection_threshold::-1
outlier::local_origin_success_rate_average::-1
outlier::local_origin_success_rate_ejection_threshold::-1
default_priority::max_connections::1
default_priority::max_pending_requests::2
default_priority::max_requests::3
default_priority::max_retries::4
high_priority::max_connections::1024
high_priority::max_pending_requests::1024
high_priority::max_requests::1024
high_priority::max_retries::3
added_via_api::true
eds_service_name::a.b of 80
10.0.0.1:80::cx_active::1
10.0.0.1:80::cx_connect_fail::9
10.0.0.1:80::cx_total::2
10.0.0.1:80::rq_active::3
10.0.0.1:80::rq_error::4
10.0.0.1:80::rq_pending_active::5
10.0.0.1:80::rq_success::6
10.0.0.1:80::rq_timeout::7
10.0.0.1:80::rq_total::8
10.0.0.1:80::hostname::a.b
10.0.0.1:80::health_flags::healthy
10.0.0.1:80::weight::10
10.0.0.1:80::region::r
10.0.0.1:80::zone::z
10.0.0.1:80::sub_zone::s
10.0.0.1:80::canary::true
10.0.0.1:80::priority::1
10.0.0.1:80::success_rate::-1
10.0.0.1:80::local_origin_success_rate::-1
[::1]:80::cx_active::0
[::1]:80::cx_connect_fail::0
[::1]:80::cx_total::0
[::1]:80::rq_active::0
[::1]:80::rq_error::0
[::1]:80::rq_pending_active::0
[::1]:80::rq_success::0
[::1]:80::rq_timeout::0
[::1]:80::rq_total::0
[::1]:80::hostname::
[::1]:80::health_flags::/failed_outlier_check
[::1]:80::weight::1
[::1]:80::region::
[::1]:80::zone::
[::1]:80::sub_zone::
[::1]:80::canary::false
[::1]:80::priority::0
[::1]:80::success_rate::-1
[::1]:80::local_origin_success_rate::-1
`
	want = "outbound|80||a.b::" + strings.ReplaceAll(strings.TrimSuffix(want, "\n"), "\n", "\noutbound|80||a.b::") + "\n"
	if body != want {
		t.Errorf("got\n%s\nwant\n%s", body, want)
	}
	_, body = ask(t, h, "GET", "/clusters")
	if !strings.Contains(body, "\nother::observability_name::other\n") || strings.Contains(body, "other::outlier::") ||
		!strings.Contains(body, "\nother::default_priority::max_retries::0\nother::added_via_api") {
		t.Errorf("the other cluster:\n%s", body)
	}
	if res, _ := ask(t, h, "GET", "/clusters?filter=["); res.StatusCode != 400 {
		t.Errorf("a bad filter gives %d", res.StatusCode)
	}
}

func TestClustersJSON(t *testing.T) {
	f, h := newFake()
	f.clusters = []ClusterStatus{twoHosts, {Name: "other"}}
	res, body := ask(t, h, "GET", "/clusters?format=json")
	if res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type %q", res.Header.Get("Content-Type"))
	}
	var m adminv3.Clusters
	if err := protojson.Unmarshal([]byte(body), &m); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	if len(m.ClusterStatuses) != 2 || len(m.ClusterStatuses[0].HostStatuses) != 2 {
		t.Fatalf("%s", body)
	}
	if one, other := m.ClusterStatuses[0].CircuitBreakers.Thresholds, m.ClusterStatuses[1].CircuitBreakers.Thresholds; len(one) != 2 || len(other) != 1 ||
		one[1].Priority != corev3.RoutingPriority_HIGH || one[1].MaxRetries.GetValue() != 3 {
		t.Errorf("limits %v and %v", one, other)
	}
	host := m.ClusterStatuses[0].HostStatuses[1]
	if !host.HealthStatus.FailedOutlierCheck || host.Address.GetSocketAddress().GetAddress() != "::1" ||
		host.HealthStatus.EdsHealthStatus != corev3.HealthStatus_HEALTHY {
		t.Errorf("ejected host: %v", host)
	}
	// Kiali and istioctl read the names of the .proto file.
	for _, want := range []string{`"cluster_statuses"`, `"host_statuses"`, `"failed_outlier_check": true`, `"port_value": 80`,
		`"observability_name": "outbound|80||a.b;"`, `"added_via_api": true`} {
		if !strings.Contains(body, want) {
			t.Errorf("there is no %s:\n%s", want, body)
		}
	}
	if _, body := ask(t, h, "GET", "/clusters?format=json&filter=none"); body != "{\n \"cluster_statuses\": []\n}\n" {
		t.Errorf("no clusters: %q", body)
	}
}

func TestHealthFlags(t *testing.T) {
	for _, c := range []struct {
		host HostStatus
		want string
		eds  corev3.HealthStatus
	}{
		{HostStatus{}, "healthy", corev3.HealthStatus_HEALTHY},
		{HostStatus{Health: corev3.HealthStatus_HEALTHY}, "healthy", corev3.HealthStatus_HEALTHY},
		{HostStatus{Health: corev3.HealthStatus_UNHEALTHY}, "/failed_eds_health", corev3.HealthStatus_UNHEALTHY},
		{HostStatus{Health: corev3.HealthStatus_TIMEOUT}, "/failed_eds_health", corev3.HealthStatus_UNHEALTHY},
		{HostStatus{Health: corev3.HealthStatus_DRAINING}, "/eds_status_draining", corev3.HealthStatus_DRAINING},
		{HostStatus{Health: corev3.HealthStatus_DEGRADED}, "/degraded_eds_health", corev3.HealthStatus_DEGRADED},
		{HostStatus{FailedOutlierCheck: true, FailedActiveHealthCheck: true, PendingDynamicRemoval: true},
			"/failed_active_hc/failed_outlier_check/pending_dynamic_removal", corev3.HealthStatus_HEALTHY},
	} {
		if got := c.host.flags(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.host, got, c.want)
		}
		if got := c.host.message().HealthStatus.EdsHealthStatus; got != c.eds {
			t.Errorf("%+v: %v, want %v", c.host, got, c.eds)
		}
	}
}
