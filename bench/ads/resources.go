// SPDX-License-Identifier: Apache-2.0

// Package ads is the control plane of a benchmark: it serves the resources that
// istiod would send for a number of services, over Envoy's aggregated
// discovery service, and can change one of them and see how that is taken.
//
// The resources have the shape, the names and about the size of istiod's: three
// clusters for each service (the whole and two subsets), each with its endpoints
// apart and automatic mutual TLS, and one route configuration with a virtual
// host for each service. Istio's own filters are left
// out, so that an Envoy without them takes the same bytes.
package ads

import (
	"fmt"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pillion/bench/mesh"
)

// Type URLs of what is served, in the order in which istiod pushes them.
const (
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// RouteName is the name of the route configuration: istiod's for a port that
// services share.
const RouteName = "9080"

// Services says what is served.
type Services struct {
	Mesh mesh.Mesh
	// Listen is the address of the one listener.
	Listen netip.AddrPort
	// V1 and V2 are the endpoints of the subsets.
	V1, V2 netip.AddrPort
}

// Set holds resources by type and name.
type Set map[string]map[string]*anypb.Any

// Resources returns all that there is.
func (s *Services) Resources() (Set, error) {
	set := Set{ClusterType: {}, EndpointType: {}, ListenerType: {}, RouteType: {}}
	add := func(name string, m proto.Message) error {
		a, err := pack(m)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		set[a.GetTypeUrl()][name] = a
		return nil
	}
	for _, svc := range s.Mesh.Services {
		for _, subset := range []string{"", "v1", "v2"} {
			name := clusterName(svc, subset)
			if err := add(name, s.cluster(svc, subset)); err != nil {
				return nil, err
			}
			if err := add(name, s.Endpoints(svc, subset, 1)); err != nil {
				return nil, err
			}
		}
	}
	if err := add(RouteName, s.Routes(nil)); err != nil {
		return nil, err
	}
	return set, add("mesh", s.listener())
}

// pack is deterministic, so that a resource that didn't change has the same
// bytes.
func pack(m proto.Message) (*anypb.Any, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: body}, err
}

// must packs a message that is made of constants.
func must(m proto.Message) *anypb.Any {
	a, err := pack(m)
	if err != nil {
		panic(err)
	}
	return a
}

func clusterName(svc mesh.Service, subset string) string {
	return fmt.Sprintf("outbound|%d|%s|%s", mesh.Port, subset, svc.Host())
}

// fromADS is how a resource names the stream that it came by.
func fromADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(0),
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

func strct(fields map[string]any) *structpb.Struct {
	s, err := structpb.NewStruct(fields)
	if err != nil {
		panic(err) // the callers' fields are of the types it takes
	}
	return s
}

// configPath is the metadata by which istiod tells what YAML a resource came of.
func configPath(kind string, svc mesh.Service) string {
	return fmt.Sprintf("/apis/networking.istio.io/v1/namespaces/%s/%s/%s", mesh.Namespace, kind, svc.Name)
}

func (s *Services) cluster(svc mesh.Service, subset string) *clusterv3.Cluster {
	name := clusterName(svc, subset)
	istio := map[string]any{
		"config":                   configPath("destination-rule", svc),
		"default_original_port":    mesh.Port,
		"services":                 []any{map[string]any{"host": svc.Host(), "name": svc.Name, "namespace": mesh.Namespace}},
		"external_service_entries": false,
	}
	if subset != "" {
		istio["subset"] = subset
	}
	limit := wrapperspb.UInt32(mesh.MaxConnections)
	return &clusterv3.Cluster{
		Name:                   name,
		AltStatName:            name + ";",
		ClusterDiscoveryType:   &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:       &clusterv3.Cluster_EdsClusterConfig{EdsConfig: fromADS(), ServiceName: name},
		ConnectTimeout:         durationpb.New(10 * time.Second),
		LbPolicy:               clusterv3.Cluster_LEAST_REQUEST,
		TransportSocketMatches: s.sockets(svc, subset),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: limit, MaxPendingRequests: limit, MaxRequests: limit, MaxRetries: wrapperspb.UInt32(4294967295), TrackRemaining: true,
		}}},
		OutlierDetection: &clusterv3.OutlierDetection{
			Consecutive_5Xx: wrapperspb.UInt32(5), Interval: durationpb.New(10 * time.Second),
			BaseEjectionTime: durationpb.New(30 * time.Second), MaxEjectionPercent: wrapperspb.UInt32(50),
			EnforcingConsecutive_5Xx: wrapperspb.UInt32(100), EnforcingSuccessRate: wrapperspb.UInt32(0),
		},
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}},
		Metadata:       &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": strct(istio)}},
	}
}

// sockets is automatic mutual TLS: endpoints that say so are reached with it.
func (s *Services) sockets(svc mesh.Service, subset string) []*clusterv3.Cluster_TransportSocketMatch {
	sds := func(name string) *tlsv3.SdsSecretConfig { return &tlsv3.SdsSecretConfig{Name: name} }
	context := &tlsv3.UpstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: &tlsv3.TlsParameters{
				TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			},
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds("default")},
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
				CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
					DefaultValidationContext: &tlsv3.CertificateValidationContext{
						//lint:ignore SA1019 istiod sends this form
						MatchSubjectAltNames: []*matcherv3.StringMatcher{{MatchPattern: &matcherv3.StringMatcher_Exact{
							Exact: "spiffe://cluster.local/ns/" + mesh.Namespace + "/sa/" + svc.Name}}},
					},
					ValidationContextSdsSecretConfig: sds("ROOTCA"),
				},
			},
			AlpnProtocols: []string{"istio-peer-exchange", "istio"},
		},
		Sni: fmt.Sprintf("outbound_.%d_.%s_.%s", mesh.Port, subset, svc.Host()),
	}
	return []*clusterv3.Cluster_TransportSocketMatch{
		{Name: "tlsMode-istio", Match: strct(map[string]any{"tlsMode": "istio"}), TransportSocket: socket("envoy.transport_sockets.tls", context)},
		{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: rawBuffer()},
	}
}

// Endpoints returns the endpoints of a cluster: those of both subsets for the
// whole service. weight lets one be changed without being another one.
func (s *Services) Endpoints(svc mesh.Service, subset string, weight uint32) *endpointv3.ClusterLoadAssignment {
	var ends []*endpointv3.LbEndpoint
	for version, addr := range map[string]netip.AddrPort{"v1": s.V1, "v2": s.V2} {
		if subset == "" || subset == version {
			ends = append(ends, &endpointv3.LbEndpoint{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socketAddress(addr)}},
				Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": strct(map[string]any{
					"workload": fmt.Sprintf("%s-%s;%s;%s;%s;Kubernetes", svc.Name, version, mesh.Namespace, svc.Name, version)})}},
				LoadBalancingWeight: wrapperspb.UInt32(weight),
			})
		}
	}
	if len(ends) == 2 && ends[0].GetEndpoint().GetAddress().GetSocketAddress().GetPortValue() != uint32(s.V1.Port()) {
		ends[0], ends[1] = ends[1], ends[0] // maps have no order
	}
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: clusterName(svc, subset),
		Endpoints: []*endpointv3.LocalityLbEndpoints{{
			Locality: &corev3.Locality{}, LbEndpoints: ends, LoadBalancingWeight: wrapperspb.UInt32(weight * uint32(len(ends))),
		}},
	}
}

func socketAddress(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: a.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())}}}}
}
