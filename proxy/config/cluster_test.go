// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	// Types that resources carry in Any fields must be known to be read from
	// JSON.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"pillion/proxy/cluster"
	"pillion/proxy/http"
	"pillion/proxy/outlier"
	"pillion/proxy/pool"
)

// received are clusters and their endpoints as a real istiod sent them.
type received struct {
	clusters []*clusterv3.Cluster
	eps      map[string]*endpointv3.ClusterLoadAssignment
}

func receive(t testing.TB, node string) received {
	t.Helper()
	r := received{eps: map[string]*endpointv3.ClusterLoadAssignment{}}
	each := func(kind string, take func(*discoveryv3.Resource) error) {
		raw, err := os.ReadFile(filepath.Join("testdata", "istiod", node+"-"+kind+".pb"))
		if err != nil {
			t.Fatal(err)
		}
		resp := &discoveryv3.DeltaDiscoveryResponse{}
		if err := proto.Unmarshal(raw, resp); err != nil {
			t.Fatal(err)
		}
		for _, res := range resp.GetResources() {
			if err := take(res); err != nil {
				t.Fatal(err)
			}
		}
	}
	each("cds", func(res *discoveryv3.Resource) error {
		c := &clusterv3.Cluster{}
		r.clusters = append(r.clusters, c)
		return res.GetResource().UnmarshalTo(c)
	})
	each("eds", func(res *discoveryv3.Resource) error {
		a := &endpointv3.ClusterLoadAssignment{}
		r.eps[res.GetName()] = a
		return res.GetResource().UnmarshalTo(a)
	})
	return r
}

func (r *received) get(t testing.TB, name string) (*cluster.Config, []string) {
	t.Helper()
	for _, c := range r.clusters {
		if c.GetName() == name {
			cfg, warnings, err := CompileCluster(c, r.eps[edsName(c)])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return cfg, warnings
		}
	}
	t.Fatalf("no cluster %s", name)
	return nil, nil
}

// What a production istiod sends is accepted whole, and a manager takes it.
func TestClustersOfIstiod(t *testing.T) {
	for _, node := range []string{"full-productpage-v1", "full-ingressgateway", "full-reviews-v1"} {
		r := receive(t, node)
		if len(r.clusters) < 10 || len(r.eps) < 8 {
			t.Fatalf("%s: %d clusters, %d assignments", node, len(r.clusters), len(r.eps))
		}
		var cfgs []*cluster.Config
		for _, c := range r.clusters {
			cfg, warnings, err := CompileCluster(c, r.eps[edsName(c)])
			if err != nil {
				t.Errorf("%s: %s: %v", node, c.GetName(), err)
				continue
			}
			for _, w := range warnings {
				if !strings.Contains(w, "HTTP/2 is not spoken") {
					t.Errorf("%s: %s: unexpected warning: %s", node, c.GetName(), w)
				}
			}
			cfgs = append(cfgs, cfg)
		}
		m := cluster.NewManager(cluster.Options{})
		if err := m.Apply(cfgs); err != nil {
			t.Errorf("%s: %v", node, err)
		}
		m.Close()
	}
}

// Of everything that istiod can be made to send, exactly what isn't
// supported is refused, by field.
func TestClustersThatAreRefused(t *testing.T) {
	want := map[string]string{
		"outbound|80||*.dyn.example.com":  "cluster_type: is not supported",
		"outbound|443||*.dyn.example.com": "cluster_type: is not supported",
	}
	for _, node := range []string{"kitchen-productpage-v1", "kitchen-ingressgateway"} {
		r := receive(t, node)
		refused := 0
		for _, c := range r.clusters {
			_, _, err := CompileCluster(c, r.eps[edsName(c)])
			expected := want[c.GetName()]
			if expected == "" && c.GetTransportSocket() != nil {
				expected = "transport_socket: envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport is not supported"
			}
			switch {
			case err == nil && expected != "":
				t.Errorf("%s: %s was accepted, want %s", node, c.GetName(), expected)
			case err != nil && (expected == "" || !strings.HasPrefix(err.Error(), expected)):
				t.Errorf("%s: %s: %v, want %q", node, c.GetName(), err, expected)
			case err != nil:
				refused++
			}
		}
		if len(r.clusters) < 30 {
			t.Errorf("%s: only %d clusters", node, len(r.clusters))
		}
		t.Logf("%s: %d of %d refused", node, refused, len(r.clusters))
	}
}

// One cluster field by field.
func TestReviewsOfIstiod(t *testing.T) {
	r := receive(t, "full-productpage-v1")
	cfg, warnings := r.get(t, "outbound|9080||reviews.default.svc.cluster.local")
	peer := func(version string) http.Peer {
		return http.Peer{Workload: "reviews-" + version, Namespace: "default", CanonicalService: "reviews", CanonicalRevision: version,
			App: "reviews", Version: version, ClusterID: "lab"}
	}
	detection := outlier.Defaults()
	detection.MaxEjectionPercent = 50
	want := &cluster.Config{
		Name: "outbound|9080||reviews.default.svc.cluster.local", StatName: "outbound|9080||reviews.default.svc.cluster.local;",
		Hash: cfg.Hash, Discovery: cluster.EDS,
		Endpoints: []cluster.Endpoint{{Address: "10.99.0.11:9080", Peer: peer("v1"), Weight: 1, TLS: cfg.Endpoints[0].TLS},
			{Address: "10.99.0.12:9080", Peer: peer("v2"), Weight: 1, TLS: cfg.Endpoints[0].TLS}},
		Balance:  cluster.Balance{ActiveRequestBias: 1},
		Breakers: cluster.Breakers{MaxRequests: 1000, MaxRetries: pool.NoLimit},
		Conn: pool.Settings{MaxConnections: 100, MaxPending: 100, MaxRequestsPerConnection: 10, ConnectTimeout: 3 * time.Second,
			IdleTimeout: 90 * time.Second, Socket: pool.Socket{Keepalive: true, KeepaliveTime: 300 * time.Second,
				KeepaliveInterval: 75 * time.Second}, Speaks: pool.SpeaksHTTP2},
		ServiceHost: "reviews.default.svc.cluster.local", ServiceName: "reviews.default.svc.cluster.local", ServiceNamespace: "default",
		PeerProtocol: "istio-peer-exchange", EDSServiceName: "outbound|9080||reviews.default.svc.cluster.local",
		Reference: "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews",
	}
	if len(cfg.Endpoints) == 0 || cfg.Endpoints[0].TLS == nil {
		t.Fatal("the pods of the mesh are spoken to without TLS")
	}
	if got, w := dump(cfg), dump(want); got != w {
		t.Errorf("got\n%s\nwant\n%s", got, w)
	}
	if cfg.Outlier == nil || *cfg.Outlier != detection {
		t.Errorf("outlier detection: %+v", cfg.Outlier)
	}
	if len(warnings) != 0 {
		t.Errorf("warnings: %v", warnings)
	}
}

// dump prints a configuration but for what pointers point to.
func dump(c *cluster.Config) string {
	cp := *c
	cp.Outlier = nil
	var b strings.Builder
	for _, e := range c.Endpoints {
		if e.Locality != nil {
			fmt.Fprintf(&b, "locality %+v ", *e.Locality)
		}
		e.Locality = nil
		fmt.Fprintf(&b, "%+v\n", e)
	}
	cp.Endpoints = nil
	fmt.Fprintf(&b, "%+v", cp)
	return strings.ReplaceAll(b.String(), " ", "\n ")
}

func TestOtherClustersOfIstiod(t *testing.T) {
	r := receive(t, "full-productpage-v1")
	cfg, _ := r.get(t, "BlackHoleCluster")
	if cfg.Discovery != cluster.Static || len(cfg.Endpoints) != 0 || cfg.Conn.MaxConnections != 1024 || cfg.Breakers.MaxRetries != 3 ||
		cfg.Balance.PanicThreshold != 50 || cfg.Conn.IdleTimeout != time.Hour || cfg.Conn.ConnectTimeout != 10*time.Second {
		t.Errorf("BlackHoleCluster: %+v", cfg)
	}
	cfg, _ = r.get(t, "PassthroughCluster")
	if cfg.Discovery != cluster.OriginalDst || cfg.Conn.Socket != (pool.Socket{}) || cfg.Conn.IdleTimeout != 300*time.Second || cfg.StatName != "PassthroughCluster;" {
		t.Errorf("PassthroughCluster: %+v", cfg)
	}
	cfg, _ = r.get(t, "inbound|9080||")
	if cfg.Discovery != cluster.OriginalDst || cfg.Conn.Socket.Bind != netip.MustParseAddrPort("127.0.0.6:0") ||
		cfg.Original.Cleanup != 9223372035*time.Second || cfg.ServiceNamespace != "default" {
		t.Errorf("inbound: %+v", cfg)
	}
	cfg, _ = r.get(t, "outbound|80||localhost.example.com")
	if cfg.Discovery != cluster.StrictDNS || cfg.Endpoints[0].Address != "localhost:8000" ||
		*cfg.DNS != (cluster.DNS{Family: cluster.FamilyV4Only, Refresh: time.Minute, FailureBase: time.Minute, FailureMax: time.Minute, Jitter: 100 * time.Millisecond}) {
		t.Errorf("STRICT_DNS: %+v %+v", cfg, cfg.DNS)
	}
	if p := cfg.Endpoints[0].Peer; p.Workload != "external-dns-0" || p.CanonicalRevision != "latest" || p.Version != "" {
		t.Errorf("peer: %+v", p)
	}
	cfg, _ = r.get(t, "outbound|9080|v2|reviews.default.svc.cluster.local")
	if cfg.Balance.Policy != cluster.RingHash || cfg.Balance.MinRingSize != 1024 {
		t.Errorf("RING_HASH: %+v", cfg.Balance)
	}
	// An endpoint outside of the mesh takes the plain socket.
	cfg, warnings := r.get(t, "outbound|80||api.example.com")
	if len(cfg.Endpoints) == 0 || cfg.Endpoints[0].Unusable != "" || len(warnings) != 0 {
		t.Errorf("external: %+v, %v", cfg.Endpoints, warnings)
	}
}

// parseYAML reads a cluster.
func parseYAML(t testing.TB, text string) *clusterv3.Cluster {
	t.Helper()
	c := &clusterv3.Cluster{}
	js, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = protojson.Unmarshal(js, c)
	}
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return c
}

// httpPath is the path of what httpOptions makes.
const httpPath = "typed_extension_protocol_options[" + httpProtocolOptions + "]."

func httpOptions(fields string) string {
	return `typed_extension_protocol_options: {` + httpProtocolOptions + `: {"@type": type.googleapis.com/` + httpProtocolOptions + `, ` + fields + `}}`
}

const oneHost = `load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}}]}]}
`

func TestClusterErrors(t *testing.T) {
	host := func(endpoint string) string {
		return "load_assignment: {endpoints: [{lb_endpoints: [" + endpoint + "]}]}"
	}
	for _, tc := range []struct{ yaml, want string }{
		{`{connect_timeout: 1s}`, "name: is empty"},
		{`{name: a, connect_timeout: 0s}`, "connect_timeout: must be greater than 0"},
		{`{name: a, connect_timeout: -1s}`, "connect_timeout: must not be negative"},
		{`{name: a, health_checks: [{}]}`, "health_checks: is not supported"},
		{`{name: a, lb_subset_config: {}}`, "lb_subset_config: is not supported"},
		{`{name: a, cluster_type: {name: x}}`, "cluster_type: is not supported"},
		{`{name: a, lb_policy: CLUSTER_PROVIDED}`, "lb_policy: CLUSTER_PROVIDED does not go with type STATIC"},
		{`{name: a, type: ORIGINAL_DST}`, "lb_policy: ROUND_ROBIN does not go with type ORIGINAL_DST"},
		{`{name: a, lb_policy: LOAD_BALANCING_POLICY_CONFIG}`, "lb_policy: LOAD_BALANCING_POLICY_CONFIG is not supported"},
		{`{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, original_dst_lb_config: {use_http_header: true}}`, "original_dst_lb_config.use_http_header: is not supported"},
		{`{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, original_dst_lb_config: {upstream_port_override: 70000}}`, "original_dst_lb_config.upstream_port_override: 70000 is no port"},
		{"{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, " + oneHost + "}", "load_assignment: an ORIGINAL_DST cluster has no endpoints"},
		{`{name: a, lb_policy: MAGLEV, maglev_lb_config: {table_size: 100}}`, "the size of a MAGLEV table must be prime"},
		{`{name: a, maglev_lb_config: {table_size: 5000013}}`, "maglev_lb_config.table_size: is more than 5000011"},
		{`{name: a, ring_hash_lb_config: {hash_function: MURMUR_HASH_2}}`, "ring_hash_lb_config.hash_function: MURMUR_HASH_2 is not supported"},
		{`{name: a, ring_hash_lb_config: {minimum_ring_size: 9000000}}`, "ring_hash_lb_config: a ring has at most 8388608 entries"},
		{`{name: a, ring_hash_lb_config: {minimum_ring_size: 9, maximum_ring_size: 8}}`, "ring_hash_lb_config.minimum_ring_size: is more than"},
		{`{name: a, least_request_lb_config: {choice_count: 1}}`, "least_request_lb_config.choice_count: must be at least 2"},
		{`{name: a, least_request_lb_config: {active_request_bias: {default_value: -1}}}`, "least_request_lb_config.active_request_bias: must be"},
		{`{name: a, round_robin_lb_config: {slow_start_config: {slow_start_window: 1s, aggression: {default_value: 0}}}}`, "round_robin_lb_config.slow_start_config.aggression: must be"},
		{`{name: a, round_robin_lb_config: {slow_start_config: {slow_start_window: -1s}}}`, "round_robin_lb_config.slow_start_config.slow_start_window: must not be negative"},
		{`{name: a, common_lb_config: {consistent_hashing_lb_config: {}}}`, "common_lb_config.consistent_hashing_lb_config: is not supported"},
		{`{name: a, circuit_breakers: {per_host_thresholds: [{}]}}`, "circuit_breakers.per_host_thresholds: is not supported"},
		{`{name: a, outlier_detection: {max_ejection_percent: 101}}`, "outlier_detection.max_ejection_percent: 101 is more than 100 %"},
		{`{name: a, outlier_detection: {interval: 0s}}`, "outlier_detection.interval: must be greater than 0"},
		{`{name: a, outlier_detection: {base_ejection_time: 0s}}`, "outlier_detection.base_ejection_time: must be greater than 0"},
		{`{name: a, outlier_detection: {base_ejection_time: 30s, max_ejection_time: 29s}}`, "outlier_detection.max_ejection_time: is less than base_ejection_time"},
		{`{name: a, outlier_detection: {base_ejection_time: 9000000000s}}`, "outlier_detection.max_ejection_time: is more than"},
		{`{name: a, outlier_detection: {monitors: [{}]}}`, "outlier_detection.monitors: is not supported"},
		{`{name: a, upstream_bind_config: {source_address: {address: x, port_value: 0}}}`, `upstream_bind_config.source_address.address: "x" is no IP address`},
		{`{name: a, upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 65536}}}`, "upstream_bind_config.source_address.port_value: 65536 is no port"},
		{`{name: a, upstream_bind_config: {freebind: true}}`, "upstream_bind_config.freebind: is not supported"},
		{`{name: a, upstream_bind_config: {socket_options: [{}]}}`, "upstream_bind_config.socket_options: is not supported"},
		{`{name: a, transport_socket: {name: envoy.transport_sockets.tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, allow_renegotiation: true}}}`,
			"transport_socket: allow_renegotiation: is not supported"},
		{`{name: a, transport_socket: {name: envoy.transport_sockets.quic}}`, "transport_socket: envoy.transport_sockets.quic is not supported"},
		{`{name: a, ` + httpOptions(`explicit_http_config: {http3_protocol_options: {}}`) + `}`, httpPath + "explicit_http_config.http3_protocol_options: is not supported"},
		{`{name: a, ` + httpOptions(`auto_config: {}`) + `}`, httpPath + "auto_config: is not supported"},
		{`{name: a, http2_protocol_options: {}}`, "http2_protocol_options: is not supported"},
		{`{name: a, ` + httpOptions(`common_http_protocol_options: {idle_timeout: -1s}`) + `}`, httpPath + "common_http_protocol_options.idle_timeout: must not be negative"},
		{`{name: a, ` + httpOptions(`common_http_protocol_options: {max_stream_duration: 1s}`) + `}`, httpPath + "common_http_protocol_options.max_stream_duration: is not supported"},
		{`{name: a, type: STRICT_DNS, dns_refresh_rate: -1s}`, "dns_refresh_rate: must not be negative"},
		{`{name: a, type: STRICT_DNS, dns_failure_refresh_rate: {base_interval: 2s, max_interval: 1s}}`, "dns_failure_refresh_rate.max_interval: is less"},
		{`{name: a, type: LOGICAL_DNS, load_assignment: {endpoints: []}}`, "load_assignment.endpoints: a LOGICAL_DNS cluster has one endpoint, not 0"},
		{"{name: a, " + host(`{}`) + "}", "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address: is missing"},
		{"{name: a, " + host(`{endpoint: {address: {socket_address: {address: name, port_value: 80}}}}`) + "}",
			`load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: "name" is no IP address, which STATIC needs`},
		{"{name: a, " + host(`{endpoint: {address: {socket_address: {address: 10.0.0.1}}}}`) + "}", "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: 0 is no port"},
		{"{name: a, " + host(`{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80, protocol: UDP}}}}`) + "}", "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.protocol: UDP"},
		{"{name: a, " + host(`{endpoint: {address: {pipe: {path: x}}}}`) + "}", "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.pipe.path"},
		{"{name: a, " + host(`{endpoint: {address: {envoy_internal_address: {server_listener_name: x}}}}`) + "}", "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.envoy_internal_address: is not supported"},
		{"{name: a, " + host(`{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}, load_balancing_weight: 0}`) + "}", "load_assignment.endpoints[0].lb_endpoints[0].load_balancing_weight: must be at least 1"},
		{"{name: a, " + host(`{endpoint_name: x}`) + "}", "load_assignment.endpoints[0].lb_endpoints[0].endpoint_name: is not supported"},
		{`{name: a, load_assignment: {endpoints: [{priority: 129}]}}`, "load_assignment.endpoints[0].priority: 129 is more than 128"},
		{`{name: a, load_assignment: {policy: {drop_overloads: [{}]}}}`, "load_assignment.policy.drop_overloads: is not supported"},
	} {
		c := parseYAML(t, tc.yaml)
		cfg, _, err := CompileCluster(c, nil)
		if err == nil || !strings.HasPrefix(err.Error(), tc.want) || cfg != nil {
			t.Errorf("%s\n\tgave %v, want %s", tc.yaml, err, tc.want)
		}
	}
}

func TestClusterWarnings(t *testing.T) {
	for _, tc := range []struct{ yaml, want string }{
		{`{name: a, outlier_detection: {}}`, "outlier_detection.enforcing_success_rate"},
		{`{name: a, outlier_detection: {enforcing_success_rate: 0, enforcing_failure_percentage: 1}}`, "outlier_detection.enforcing_failure_percentage"},
		{`{name: a, outlier_detection: {enforcing_success_rate: 0, detect_degraded_hosts: true}}`, "outlier_detection.detect_degraded_hosts"},
		{`{name: a, circuit_breakers: {thresholds: [{priority: HIGH, max_connections: 1}]}}`, "circuit_breakers.thresholds[0]: routes have no priority HIGH"},
		{`{name: a, circuit_breakers: {thresholds: [{max_connection_pools: 1}]}}`, "circuit_breakers.thresholds[0].max_connection_pools"},
		{`{name: a, filters: [{name: x}]}`, "filters[0] (x)"},
		{`{name: a, preconnect_policy: {}}`, "preconnect_policy"},
		{`{name: a, track_cluster_stats: {}}`, "track_cluster_stats"},
		{`{name: a, close_connections_on_host_health_failure: true}`, "close_connections_on_host_health_failure"},
		{`{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, outlier_detection: {enforcing_success_rate: 0}}`, "outlier_detection: is not done"},
		{`{name: a, ` + httpOptions(`common_http_protocol_options: {max_headers_count: 5}`) + `}`, "common_http_protocol_options: responses"},
		{`{name: a, typed_extension_protocol_options: {x: {"@type": type.googleapis.com/google.protobuf.Empty}}}`, "typed_extension_protocol_options[x]: is not known"},
		{`{name: a, load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}, additional_addresses: [{}]}}]}]}}`, "endpoint 10.0.0.1:80: additional_addresses"},
	} {
		c := parseYAML(t, tc.yaml)
		_, warnings, err := CompileCluster(c, nil)
		if err != nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0], tc.want) {
			t.Errorf("%s\n\tgave %v, %v; want %s", tc.yaml, warnings, err, tc.want)
		}
	}
}

func TestClusterValues(t *testing.T) {
	compile := func(text string) *cluster.Config {
		t.Helper()
		c := parseYAML(t, text)
		cfg, _, err := CompileCluster(c, nil)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return cfg
	}
	cfg := compile(`{name: a, circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 25}, min_retry_concurrency: 5}, track_remaining: true}]}}`)
	if r := cfg.Breakers.RetryBudget; r == nil || *r != (cluster.RetryBudget{Percent: 25, MinConcurrency: 5}) || !cfg.Breakers.TrackRemaining {
		t.Errorf("retry budget: %+v", cfg.Breakers)
	}
	cfg = compile(`{name: a, circuit_breakers: {thresholds: [{retry_budget: {}}]}}`)
	if r := cfg.Breakers.RetryBudget; r == nil || *r != (cluster.RetryBudget{Percent: 20, MinConcurrency: 3}) {
		t.Errorf("default retry budget: %+v", r)
	}
	cfg = compile(`{name: a, ` + httpOptions(`common_http_protocol_options: {idle_timeout: 0s, max_connection_duration: 5s, max_requests_per_connection: 7}`) + `}`)
	if cfg.Conn.IdleTimeout != 0 || cfg.Conn.MaxConnectionAge != 5*time.Second || cfg.Conn.MaxRequestsPerConnection != 7 {
		t.Errorf("connections: %+v", cfg.Conn)
	}
	cfg = compile(`{name: a, upstream_bind_config: {source_address: {address: 0.0.0.0, port_value: 0}}}`)
	if cfg.Conn.Socket.Bind.IsValid() {
		t.Errorf("bind: %v", cfg.Conn.Socket.Bind)
	}
	cfg = compile(`{name: a, upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}, extra_source_addresses: [{address: {address: 127.0.0.7, port_value: 0}}, {address: {address: "::6", port_value: 0}}]}}`)
	if s := cfg.Conn.Socket; s.Bind != netip.MustParseAddrPort("127.0.0.6:0") || s.BindOther != netip.MustParseAddrPort("[::6]:0") {
		t.Errorf("bind of both families: %v, %v", s.Bind, s.BindOther)
	}
	cfg = compile(`{name: a, outlier_detection: {base_ejection_time: 400s, always_eject_one_host: true, max_ejection_time_jitter: 2s}}`)
	if o := cfg.Outlier; o.MaxEjectionTime != 400*time.Second || !o.AlwaysEjectOneHost || o.Jitter != 2*time.Second || o.MaxEjectionPercent != 10 {
		t.Errorf("outlier detection: %+v", o)
	}
	cfg = compile(`{name: a, lb_policy: LEAST_REQUEST, least_request_lb_config: {choice_count: 3, active_request_bias: {default_value: 0.5}, slow_start_config: {slow_start_window: 30s, min_weight_percent: {value: 20}}},
		common_lb_config: {healthy_panic_threshold: {value: 30}, locality_weighted_lb_config: {}},
		load_assignment: {policy: {overprovisioning_factor: 200}, endpoints: [{locality: {region: r, zone: z}, load_balancing_weight: 3, priority: 2,
		lb_endpoints: [{endpoint: {address: {socket_address: {address: "2001:db8::1", port_value: 80}}, hostname: h}, load_balancing_weight: 4, health_status: DRAINING}, {endpoint: {address: {pipe: {path: "@x"}}}}]}]}}`)
	b := cfg.Balance
	if b.Policy != cluster.LeastRequest || b.ChoiceCount != 3 || b.ActiveRequestBias != .5 || b.PanicThreshold != 30 || !b.LocalityWeighted ||
		b.OverprovisioningFactor != 200 || *b.SlowStart != (cluster.SlowStart{Window: 30 * time.Second, Aggression: 1, MinWeightPercent: 20}) {
		t.Errorf("balance: %+v", b)
	}
	e := cfg.Endpoints[0]
	if e.Address != "[2001:db8::1]:80" || e.Hostname != "h" || e.Weight != 4 || e.Priority != 2 || e.Health != cluster.HealthDraining ||
		*e.Locality != (cluster.Locality{Region: "r", Zone: "z", Weight: 3}) || cfg.Endpoints[1].Address != "@x" || cfg.Endpoints[1].Locality != e.Locality {
		t.Errorf("endpoints: %+v", cfg.Endpoints)
	}
	cfg = compile(`{name: a, type: LOGICAL_DNS, dns_lookup_family: V4_PREFERRED, dns_failure_refresh_rate: {base_interval: 2s},
		load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: name.example, port_value: 81}}}}]}]}}`)
	if *cfg.DNS != (cluster.DNS{Family: cluster.FamilyV4Preferred, Refresh: 5 * time.Second, FailureBase: 2 * time.Second, FailureMax: 20 * time.Second}) ||
		cfg.Endpoints[0].Address != "name.example:81" {
		t.Errorf("DNS: %+v", cfg.DNS)
	}
	// EDS without an assignment says nothing of endpoints; with an empty one,
	// that there are none.
	c := parseYAML(t, `{name: a, type: EDS}`)
	if cfg, _, err := CompileCluster(c, nil); err != nil || cfg.Endpoints != nil {
		t.Errorf("EDS without an assignment: %v, %v", cfg.Endpoints, err)
	}
	if cfg, _, err := CompileCluster(c, &endpointv3.ClusterLoadAssignment{}); err != nil || cfg.Endpoints == nil {
		t.Errorf("EDS with an empty assignment: %v", err)
	}
}

func TestTransportSocketMatches(t *testing.T) {
	const sockets = `transport_socket_matches: [
		{name: tlsMode-istio, match: {tlsMode: istio}, transport_socket: {name: envoy.transport_sockets.tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}},
		{name: two, match: {a: x, n: 1}, transport_socket: {name: envoy.transport_sockets.quic}},
		{name: tlsMode-disabled, match: {}, transport_socket: {name: envoy.transport_sockets.raw_buffer, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}]`
	comp := NewCompiler(Env{})
	defer comp.Close()
	for metadata, want := range map[string]string{
		`{}`:                                  "",
		`{tlsMode: disabled}`:                 "",
		`{tlsMode: istio}`:                    "TLS",
		`{tlsMode: istio, a: x}`:              "TLS",
		`{a: x}`:                              "",
		`{a: x, n: 1}`:                        "transport_socket_matches[1] (two): ",
		`{a: x, n: "1"}`:                      "",
		`{a: 5, n: 1}`:                        "",
		`{tlsMode: 7, a: x, n: 1, more: yes}`: "transport_socket_matches[1] (two): ",
	} {
		c := parseYAML(t, `{name: a, type: EDS, `+sockets+`}`)
		withHost := parseYAML(t, `{name: a, load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}},
			metadata: {filter_metadata: {envoy.transport_socket_match: `+metadata+`}}}]}]}}`)
		eps, warnings, err := comp.CompileEndpoints(c, withHost.GetLoadAssignment())
		if err != nil || len(eps) != 1 {
			t.Fatal(err)
		}
		got := eps[0].Unusable
		if eps[0].TLS != nil {
			got, warnings = "TLS", []string{"it isn't plain"}
		}
		if (got == "") != (want == "") || !strings.HasPrefix(got, want) || (len(warnings) == 0) != (want == "") {
			t.Errorf("%s: %q, %v; want %q", metadata, got, warnings, want)
		}
	}
}

func TestClusterHash(t *testing.T) {
	r := receive(t, "full-productpage-v1")
	seen := map[[16]byte]string{}
	for _, c := range r.clusters {
		cla := r.eps[edsName(c)]
		first, _, err := CompileCluster(c, cla)
		if err != nil {
			t.Fatal(err)
		}
		if first.Hash == [16]byte{} || seen[first.Hash] != "" {
			t.Errorf("%s: hash %x is that of %q", first.Name, first.Hash, seen[first.Hash])
		}
		seen[first.Hash] = first.Name
		again, _, err := CompileCluster(proto.Clone(c).(*clusterv3.Cluster), cla)
		if err != nil || again.Hash != first.Hash {
			t.Errorf("%s: a copy has another hash", first.Name)
		}
		if cla != nil {
			other := proto.Clone(cla).(*endpointv3.ClusterLoadAssignment)
			other.Endpoints = append(other.Endpoints, &endpointv3.LocalityLbEndpoints{Priority: 1})
			if changed, _, err := CompileCluster(c, other); err != nil || changed.Hash == first.Hash {
				t.Errorf("%s: other endpoints, the same hash (%v)", first.Name, err)
			}
		}
	}
}

func FuzzCompileCluster(f *testing.F) {
	for _, node := range []string{"full-productpage-v1", "kitchen-ingressgateway"} {
		r := receive(f, node)
		for _, c := range r.clusters {
			raw, err := proto.Marshal(c)
			if err != nil {
				f.Fatal(err)
			}
			eds, err := proto.Marshal(r.eps[edsName(c)])
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw, eds)
		}
	}
	f.Fuzz(func(t *testing.T, raw, eds []byte) {
		c, cla := &clusterv3.Cluster{}, &endpointv3.ClusterLoadAssignment{}
		if proto.Unmarshal(raw, c) != nil || proto.Unmarshal(eds, cla) != nil {
			return
		}
		cfg, _, err := CompileCluster(c, cla)
		if err != nil {
			return
		}
		if err := cfg.Validate(); err != nil {
			t.Errorf("a compiled cluster is refused: %v", err)
		}
		if !slices.ContainsFunc(cfg.Endpoints, func(e cluster.Endpoint) bool { return e.Weight == 0 }) {
			return
		}
		t.Error("an endpoint has no weight")
	})
}

func BenchmarkCompileCluster(b *testing.B) {
	r := receive(b, "full-productpage-v1")
	b.ReportAllocs()
	for b.Loop() {
		for _, c := range r.clusters {
			if _, _, err := CompileCluster(c, r.eps[edsName(c)]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(r.clusters)), "µs/cluster")
}
