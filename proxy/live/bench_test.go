// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"

	"pillion/proxy/proxytest"
	"pillion/proxy/xds"
)

const benchClusters = 3000

func serviceName(i int) string {
	return fmt.Sprintf("outbound|8080|v%d|service-%d.default.svc.cluster.local", i%3, i/3)
}

// istioCluster is about what istiod makes of a service, 0.9 kB.
func istioCluster(name string) *clusterv3.Cluster {
	return fill(&clusterv3.Cluster{}, `{"name": %[1]q, "altStatName": "%[1]s;", "type": "EDS", "edsClusterConfig": {"edsConfig": {"ads": {}, "initialFetchTimeout": "0s", "resourceApiVersion": "V3"}, "serviceName": %[1]q},
		"connectTimeout": "10s", "lbPolicy": "LEAST_REQUEST", "circuitBreakers": {"thresholds": [{"maxConnections": 4294967295, "maxPendingRequests": 4294967295, "maxRequests": 4294967295, "maxRetries": 4294967295, "trackRemaining": true}]},
		"commonLbConfig": {"healthyPanicThreshold": {}},
		"metadata": {"filterMetadata": {"istio": {"services": [{"host": "service.default.svc.cluster.local", "name": "service", "namespace": "default"}], "subset": "v1", "config": "/apis/networking.istio.io/v1/namespaces/default/destination-rule/service"}}},
		"transportSocketMatches": [
			{"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transportSocket": {"name": "tls", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
				"sni": "outbound_.8080_.v1_.service.default.svc.cluster.local", "commonTlsContext": {"alpnProtocols": ["istio-peer-exchange", "istio"],
				"tlsCertificateSdsSecretConfigs": [{"name": "default", "sdsConfig": {"ads": {}}}],
				"combinedValidationContext": {"defaultValidationContext": {"matchSubjectAltNames": [{"exact": "spiffe://cluster.local/ns/default/sa/service"}]}, "validationContextSdsSecretConfig": {"name": "ROOTCA", "sdsConfig": {"ads": {}}}}}}}},
			{"name": "tlsMode-disabled", "match": {}, "transportSocket": {"name": "raw", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}]}`, name)
}

// bigRoutes is a route configuration of 1,000 virtual hosts, about 2 MB; edit tells two
// versions apart.
func bigRoutes(edit int) *routev3.RouteConfiguration {
	rc := &routev3.RouteConfiguration{Name: "8080"}
	for i := range 1000 {
		host := fmt.Sprintf("service-%d.default.svc.cluster.local", i)
		weight := 50
		if i == 500 {
			weight += edit
		}
		route := func(prefix string) string {
			return fmt.Sprintf(`{"name": "r", "match": {"prefix": %[2]q, "caseSensitive": true, "headers": [{"name": "end-user", "stringMatch": {"exact": "jason"}}]},
				"route": {"weightedClusters": {"clusters": [{"name": "outbound|8080|v1|%[1]s", "weight": %[3]d}, {"name": "outbound|8080|v2|%[1]s", "weight": %[4]d}]},
				"timeout": "0s", "retryPolicy": {"retryOn": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", "numRetries": 2,
				"retryHostPredicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}], "hostSelectionRetryMaxAttempts": "5"}},
				"metadata": {"filterMetadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/default/virtual-service/service-%[5]d"}}},
				"decorator": {"operation": "%[1]s:8080/*"}}`, host, prefix, weight, 100-weight, i)
		}
		rc.VirtualHosts = append(rc.VirtualHosts, fill(&routev3.VirtualHost{}, `{"name": "%[1]s:8080", "domains": [%[1]q, "%[1]s.", "service-%[2]d", "service-%[2]d.default", "service-%[2]d.default.svc", "10.96.%[3]d.%[4]d"],
			"routes": [%[5]s, %[6]s, %[7]s], "includeRequestAttemptCount": true}`, host, i, i/250, i%250+1, route("/a"), route("/b"), route("/")))
	}
	return rc
}

func bigRig(b testing.TB) *rig {
	r := newRig(b)
	var clusters, hosts []proto.Message
	for i := range benchClusters {
		clusters = append(clusters, istioCluster(serviceName(i)))
		hosts = append(hosts, assignment(serviceName(i), fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250+1), fmt.Sprintf("10.1.%d.%d:8080", i/250, i%250+1)))
	}
	r.push(clusters...)
	r.push(hosts...)
	r.push(httpListener("l", "10.0.0.9:80", "8080"))
	r.push(bigRoutes(0))
	return r
}

// BenchmarkEndpointChange is a change of one cluster's endpoints, of 3,000 clusters.
func BenchmarkEndpointChange(b *testing.B) {
	r := bigRig(b)
	var u [2]*xds.Update
	for i := range u {
		u[i] = updateOf(assignment(serviceName(1500), fmt.Sprintf("10.9.0.%d:8080", i+1), "10.9.1.1:8080"))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := r.Apply(u[i%2]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRouteChange is a change of one weight among 1,000 virtual hosts, which are sent as
// a whole.
func BenchmarkRouteChange(b *testing.B) {
	r := newRig(b)
	r.push(httpListener("l", "10.0.0.9:80", "8080"))
	u := [2]*xds.Update{updateOf(bigRoutes(0)), updateOf(bigRoutes(1))}
	if err := r.Apply(u[1]); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(u[0].Resources[0].Body)))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := r.Apply(u[i%2]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRoutesAnew compiles all of them, as at the start.
func BenchmarkRoutesAnew(b *testing.B) {
	u := updateOf(bigRoutes(0))
	for b.Loop() {
		b.StopTimer()
		r := newRig(b)
		r.push(httpListener("l", "10.0.0.9:80", "8080"))
		b.StartTimer()
		if err := r.Apply(u); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnchanged is what istiod sends of 3,000 clusters when nothing has changed.
func BenchmarkUnchanged(b *testing.B) {
	r := bigRig(b)
	var list []proto.Message
	for i := range benchClusters {
		list = append(list, istioCluster(serviceName(i)))
	}
	u := updateOf(list...)
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Apply(u); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStart is the first push of 3,000 clusters with their endpoints.
func BenchmarkStart(b *testing.B) {
	var clusters, hosts []proto.Message
	for i := range benchClusters {
		clusters = append(clusters, istioCluster(serviceName(i)))
		hosts = append(hosts, assignment(serviceName(i), fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250+1)))
	}
	cds, eds := updateOf(clusters...), updateOf(hosts...)
	for b.Loop() {
		r := newRig(b)
		if err := r.Apply(cds); err != nil {
			b.Fatal(err)
		}
		if err := r.Apply(eds); err != nil {
			b.Fatal(err)
		}
	}
}

// TestMemoryStaysFlat holds that a thousand changes leave nothing behind.
func TestMemoryStaysFlat(t *testing.T) {
	if testing.Short() || proxytest.Race {
		t.Skip("memory is measured without the race detector")
	}
	r := newRig(t)
	r.push(edsCluster("a"), edsCluster("b"))
	r.push(assignment("a", "10.0.0.1:80"), assignment("b", "10.0.0.2:80"))
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	change := func(i int) {
		r.push(assignment("a", fmt.Sprintf("10.0.%d.%d:80", i/200, i%200+1)))
		r.push(edsCluster("b"), staticCluster("c", fmt.Sprintf("10.0.0.%d:80", i%200+1)), edsCluster(fmt.Sprintf("x%d", i)))
		r.remove(ClusterType, fmt.Sprintf("x%d", i))
		var filters []string
		if i%2 == 0 {
			filters = append(filters, faultFilter)
		}
		r.push(httpListener("l", "10.0.0.9:80", "80", filters...), httpListener(fmt.Sprintf("m%d", i%2), "10.0.0.9:81", "80"))
		r.remove(ListenerType, fmt.Sprintf("m%d", i%2))
		rc := routesTo("80", "a=a", fmt.Sprintf("b=c%d", i))
		rc.VirtualHosts[1].RetryPolicy = &routev3.RetryPolicy{RetryOn: "5xx"}
		r.push(rc)
		r.done()
	}
	for i := range 100 {
		change(i)
	}
	before := heap()
	for i := range 1000 {
		change(i + 100)
	}
	after := heap()
	if grown := int64(after) - int64(before); grown > 256<<10 {
		t.Errorf("a thousand changes leave %d KiB", grown>>10)
	}
}
