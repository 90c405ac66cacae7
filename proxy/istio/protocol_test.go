// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
)

// spoken says in a word what a cluster's options make its connections speak; "" is
// Envoy's default, HTTP/1.1.
func spoken(t *testing.T, r *Resources, cluster string) string {
	t.Helper()
	c := r.clusterOf(cluster)
	if c == nil {
		t.Fatalf("there is no cluster %s", cluster)
	}
	if c.TypedExtensionProtocolOptions == nil {
		return ""
	}
	o := &httpv3.HttpProtocolOptions{}
	if err := c.TypedExtensionProtocolOptions[httpOptionsKey].UnmarshalTo(o); err != nil {
		t.Fatal(err)
	}
	switch {
	case o.GetUseDownstreamProtocolConfig() != nil:
		return "client's"
	case o.GetExplicitHttpConfig().GetHttp2ProtocolOptions() != nil:
		h2 := o.GetExplicitHttpConfig().GetHttp2ProtocolOptions()
		if proto.Size(h2) > 0 {
			return fmt.Sprintf("h2 streams=%d ping=%d", h2.GetMaxConcurrentStreams().GetValue(), h2.GetConnectionKeepalive().GetInterval().GetSeconds())
		}
		return "h2"
	case o.GetExplicitHttpConfig().GetHttpProtocolOptions() != nil:
		return "h1"
	}
	return "unknown"
}

// TestUpstreamProtocol: what a port is called, and what a DestinationRule says of it,
// decides the version; the table is that of istiod's ClusterBuilder.
func TestUpstreamProtocol(t *testing.T) {
	const host = "a.default.svc.cluster.local"
	for _, c := range []struct {
		port, pool string
		want       string
	}{
		{"name: http", "", ""},
		{"name: http2", "", "h2"},
		{"name: http2-api", "", "h2"},
		{"name: grpc", "", "h2"},
		{"name: grpc-web", "", "h2"},
		{"name: grpc-web-api", "", "h2"},
		{"name: x, appProtocol: kubernetes.io/h2c", "", "h2"},
		{"name: x, appProtocol: grpc", "", "h2"},
		{"name: http, appProtocol: grpc", "", "h2"},
		{"name: grpc, appProtocol: http", "", ""},
		{"name: grpc, appProtocol: kubernetes.io/ws", "", ""},
		{"name: other", "", "client's"},
		{"name: http", "h2UpgradePolicy: UPGRADE", "h2"},
		{"name: http", "h2UpgradePolicy: DO_NOT_UPGRADE", ""},
		{"name: http", "h2UpgradePolicy: DEFAULT", ""},
		{"name: grpc", "h2UpgradePolicy: DO_NOT_UPGRADE", "h2"},
		{"name: other", "h2UpgradePolicy: UPGRADE", "h2"},
		{"name: other", "h2UpgradePolicy: DO_NOT_UPGRADE", "client's"},
		{"name: http", "useClientProtocol: true", "client's"},
		{"name: grpc", "useClientProtocol: true", "client's"},
		{"name: http", "idleTimeout: 3600s", "h1"},
		{"name: grpc", "idleTimeout: 3600s", "h2"},
		{"name: grpc", "maxConcurrentStreams: 50, http2KeepAlive: {interval: 30s, timeout: 5s}", "h2 streams=50 ping=30"},
		{"name: http", "maxConcurrentStreams: 50, h2UpgradePolicy: UPGRADE", "h2 streams=50 ping=0"},
	} {
		yaml := fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: a, namespace: default}
spec: {clusterIP: 10.0.0.1, ports: [{%s, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: default}
spec: {host: a, trafficPolicy: {connectionPool: {http: {%s}}}}
`, c.port, c.pool)
		r, _ := translate(t, yaml, Options{})
		if got := spoken(t, r, "outbound|80||"+host); got != c.want {
			t.Errorf("port {%s} with {%s} speaks %q, want %q", c.port, c.pool, got, c.want)
		}
	}
}

// filtersOf returns the short names of a manager's filters.
func filtersOf(m *hcmv3.HttpConnectionManager) []string {
	var names []string
	for _, f := range m.HttpFilters {
		names = append(names, f.Name[strings.LastIndexByte(f.Name, '.')+1:])
	}
	return names
}

// TestGRPCWebFilter: a listener takes gRPC-Web only where a port asks for it.
func TestGRPCWebFilter(t *testing.T) {
	service := func(port string) string {
		return `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: default}
spec: {clusterIP: 10.0.0.1, ports: [{name: ` + port + `, port: 80}]}
`
	}
	gateway := func(protocol string) string {
		return service("http") + "---" + gatewayYAML("edge", "", `[{port: {number: 8080, name: x, protocol: `+protocol+`}, hosts: ["*"]}]`)
	}
	for _, c := range []struct {
		name, yaml string
		listener   int
		want       bool
	}{
		{"grpc port", service("grpc"), 0, false},
		{"grpc-web port", service("grpc-web-api"), 0, true},
		{"HTTP gateway", gateway("HTTP"), 1, false},
		{"GRPC gateway", gateway("GRPC"), 1, false},
		{"GRPC-WEB gateway", gateway("GRPC-WEB"), 1, true},
	} {
		r, _ := translate(t, c.yaml, Options{HTTPAddr: "127.0.0.1:15080"})
		names := filtersOf(managerOf(t, r.Listeners[c.listener]))
		at := slices.Index(names, "grpc_web")
		if (at >= 0) != c.want || c.want && names[at+1] != "grpc_stats" {
			t.Errorf("%s: filters are %v", c.name, names)
		}
		if names[len(names)-1] != "router" || !slices.Contains(names, "grpc_stats") {
			t.Errorf("%s: filters are %v", c.name, names)
		}
	}
}
