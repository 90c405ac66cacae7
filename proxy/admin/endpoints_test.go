// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"encoding/json"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
)

// TestDumpOfEndpoints: what discovery has sent is shown with the health of
// now, and the hosts of all other clusters are there too.
func TestDumpOfEndpoints(t *testing.T) {
	endpoint := func(addr string, said corev3.HealthStatus) *endpointv3.LbEndpoint {
		return &endpointv3.LbEndpoint{HealthStatus: said, Metadata: &corev3.Metadata{},
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(addr)}}}
	}
	sent := &endpointv3.ClusterLoadAssignment{ClusterName: "service", Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{
		endpoint("10.0.0.1:80", corev3.HealthStatus_UNKNOWN),
		endpoint("10.0.0.2:80", corev3.HealthStatus_HEALTHY),
		endpoint("[2001:db8::1]:80", corev3.HealthStatus_DRAINING),
		endpoint("/run/app.sock", corev3.HealthStatus_DEGRADED),
		endpoint("10.0.0.9:80", corev3.HealthStatus_UNKNOWN),
	}}}}
	packed := pack(t, sent)
	f, h := newFake()
	f.dump = Dump{Endpoints: []Resource{
		{Name: "service", Version: "3", Updated: dumpTime, Message: packed},
		{Name: "refused", Failure: &Failure{Details: "no"}},
		{Name: "unused", Version: "2", Message: pack(t, &endpointv3.ClusterLoadAssignment{ClusterName: "unused"})},
	}}
	f.clusters = []ClusterStatus{
		{Name: "c", EDSServiceName: "service", AddedViaAPI: true, Hosts: []HostStatus{
			{Address: "10.0.0.1:80"}, {Address: "10.0.0.2:80", FailedOutlierCheck: true},
			{Address: "[2001:db8::1]:80", Health: corev3.HealthStatus_DRAINING}, {Address: "/run/app.sock", Health: corev3.HealthStatus_DEGRADED},
		}},
		{Name: "dns", AddedViaAPI: true, Hosts: []HostStatus{{Address: "10.0.0.3:80", Hostname: "a.b", Weight: 2, Zone: "z"}}},
		{Name: "file", Hosts: []HostStatus{{Address: "10.0.0.4:80", Weight: 1}}},
		{Name: "refused", AddedViaAPI: true},
	}
	_, body := ask(t, h, "GET", "/config_dump?include_eds=true")
	d := configs(t, body)["EndpointsConfigDump"]
	for _, e := range []struct {
		want string
		path []any
	}{
		{`["dns" "refused" "service" "unused"]`, nil},
		{`"3"`, []any{"dynamic_endpoint_configs", 2, "version_info"}},
		{`"2026-01-02T03:04:05.678Z"`, []any{"dynamic_endpoint_configs", 2, "last_updated"}},
		{`"HEALTHY"`, []any{"dynamic_endpoint_configs", 2, "endpoint_config", "endpoints", 0, "lb_endpoints", 0, "health_status"}},
		{`{}`, []any{"dynamic_endpoint_configs", 2, "endpoint_config", "endpoints", 0, "lb_endpoints", 0, "metadata"}},
		{`"UNHEALTHY"`, []any{"dynamic_endpoint_configs", 2, "endpoint_config", "endpoints", 0, "lb_endpoints", 1, "health_status"}},
		{`"UNHEALTHY"`, []any{"dynamic_endpoint_configs", 2, "endpoint_config", "endpoints", 0, "lb_endpoints", 2, "health_status"}},
		{`"DEGRADED"`, []any{"dynamic_endpoint_configs", 2, "endpoint_config", "endpoints", 0, "lb_endpoints", 3, "health_status"}},
		{`null`, []any{"dynamic_endpoint_configs", 2, "endpoint_config", "endpoints", 0, "lb_endpoints", 4, "health_status"}},
		{`{"zone":"z"}`, []any{"dynamic_endpoint_configs", 0, "endpoint_config", "endpoints", 0, "locality"}},
		{`"a.b"`, []any{"dynamic_endpoint_configs", 0, "endpoint_config", "endpoints", 0, "lb_endpoints", 0, "endpoint", "hostname"}},
		{`2`, []any{"dynamic_endpoint_configs", 0, "endpoint_config", "endpoints", 0, "lb_endpoints", 0, "load_balancing_weight"}},
		{`"10.0.0.4"`, []any{"static_endpoint_configs", 0, "endpoint_config", "endpoints", 0, "lb_endpoints", 0, "endpoint", "address", "socket_address", "address"}},
	} {
		if e.path == nil {
			var names []string
			for _, c := range d["dynamic_endpoint_configs"].([]any) {
				names = append(names, `"`+at(t, c, "endpoint_config", "cluster_name").(string)+`"`)
			}
			if got := "[" + strings.Join(names, " ") + "]"; got != e.want {
				t.Errorf("dynamic: %s, want %s", got, e.want)
			}
			continue
		}
		got, err := json.Marshal(at(t, d, e.path...))
		if err != nil || string(got) != e.want {
			t.Errorf("%v = %s (%v), want %s", e.path, got, err, e.want)
		}
	}
	// What is served isn't changed by being shown.
	if !proto.Equal(packed, pack(t, sent)) {
		t.Error("the resource was changed")
	}
}
