// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pillion/bench/mesh"
)

func socket(name string, m proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: name, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: must(m)}}
}

func rawBuffer() *corev3.TransportSocket {
	return socket("envoy.transport_sockets.raw_buffer", &rawbufferv3.RawBuffer{})
}

// listener is bound, unlike istiod's for a sidecar: nothing is redirected in a
// benchmark.
func (s *Services) listener() *listenerv3.Listener {
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:     "outbound_0.0.0.0_9080;",
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: fromADS(), RouteConfigName: RouteName}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: must(&routerv3.Router{})}}},
		UseRemoteAddress:  wrapperspb.Bool(false),
		StreamIdleTimeout: durationpb.New(0),
		UpgradeConfigs:    []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		NormalizePath:     wrapperspb.Bool(true),
	}
	return &listenerv3.Listener{
		Name:    "mesh",
		Address: socketAddress(s.Listen),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: must(manager)},
		}}}},
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
	}
}

// Routes returns the route configuration. Services in moved send their
// requests with the header field to the other subset: a change of one of many.
func (s *Services) Routes(moved map[string]bool) *routev3.RouteConfiguration {
	rc := &routev3.RouteConfiguration{Name: RouteName, ValidateClusters: wrapperspb.Bool(false), IgnorePortInHostMatching: true,
		MaxDirectResponseBodySizeBytes: wrapperspb.UInt32(1 << 20)}
	for i, svc := range s.Mesh.Services {
		matched := "v2"
		if moved[svc.Name] {
			matched = "v1"
		}
		field := &routev3.HeaderMatcher{Name: mesh.MatchField, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
			StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: mesh.MatchValue}}}}
		rc.VirtualHosts = append(rc.VirtualHosts, &routev3.VirtualHost{
			Name:    fmt.Sprintf("%s:%d", svc.Host(), mesh.Port),
			Domains: domains(i, svc),
			Routes: []*routev3.Route{
				route(svc, "matched", matched, "/", field), route(svc, "beta", "v2", "/beta/", nil),
				route(svc, "internal", "v1", "/internal/", nil), route(svc, "default", "v1", "/", nil),
			},
			IncludeRequestAttemptCount: true,
		})
	}
	return rc
}

// domains are istiod's for a service of another namespace; the last one is its
// address in the cluster.
func domains(i int, svc mesh.Service) []string {
	short := svc.Name + "." + mesh.Namespace
	return []string{svc.Host(), svc.Host() + ".", short, short + ".svc", fmt.Sprintf("10.96.%d.%d", i>>8, i&0xff)}
}

func route(svc mesh.Service, name, subset, prefix string, field *routev3.HeaderMatcher) *routev3.Route {
	match := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: prefix}}
	if field != nil {
		match.Headers, match.CaseSensitive = []*routev3.HeaderMatcher{field}, wrapperspb.Bool(true)
	}
	return &routev3.Route{
		Name:  name,
		Match: match,
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: clusterName(svc, subset)},
			Timeout:          durationpb.New(0),
			RetryPolicy: &routev3.RetryPolicy{
				RetryOn:    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
				NumRetries: wrapperspb.UInt32(2),
				RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{Name: "envoy.retry_host_predicates.previous_hosts",
					ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: must(&previoushostsv3.PreviousHostsPredicate{})}}},
				HostSelectionRetryMaxAttempts: 5,
			},
			//lint:ignore SA1019 istiod sends this form
			MaxGrpcTimeout: durationpb.New(0),
		}},
		Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			"istio": strct(map[string]any{"config": configPath("virtual-service", svc)})}},
		Decorator: &routev3.Decorator{Operation: fmt.Sprintf("%s:%d/*", svc.Host(), mesh.Port)},
	}
}
