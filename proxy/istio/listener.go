// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	udpav1 "github.com/cncf/xds/go/udpa/type/v1"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	alpn "istio.io/api/envoy/config/filter/http/alpn/v2alpha1"
)

// Names of filters.
const (
	filterMetadataExchange = "istio.metadata_exchange"
	filterGRPCStats        = "envoy.filters.http.grpc_stats"
	filterGRPCWeb          = "envoy.filters.http.grpc_web"
	filterALPN             = "istio.alpn"
	filterFault            = "envoy.filters.http.fault"
	filterCORS             = "envoy.filters.http.cors"
	filterStats            = "istio.stats"
	filterRouter           = "envoy.filters.http.router"
	filterHCM              = "envoy.filters.network.http_connection_manager"
)

// newListener makes a listener of one HTTP connection manager.
func newListener(ip string, port uint32, manager *hcmv3.HttpConnectionManager) *listenerv3.Listener {
	name := ip + "_" + strconv.FormatUint(uint64(port), 10)
	manager.StatPrefix = statPrefix("outbound_" + name)
	return &listenerv3.Listener{
		Name:             name,
		Address:          newAddress(ip, port),
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		FilterChains: []*listenerv3.FilterChain{{
			Filters: []*listenerv3.Filter{{
				Name:       filterHCM,
				ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(manager)},
			}},
			TransportSocketConnectTimeout: durationpb.New(15 * time.Second),
		}},
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
	}
}

// newManager makes a connection manager as istiod does for any listener of a class.
func (t *translator) newManager(class listenerClass, routeName string, logs []*accesslogv3.AccessLog) *hcmv3.HttpConnectionManager {
	m := &hcmv3.HttpConnectionManager{
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{
			Rds: &hcmv3.Rds{ConfigSource: adsSource(), RouteConfigName: routeName},
		},
		HttpFilters:       httpFilters(t.metrics.http(class)),
		AccessLog:         logs,
		UpgradeConfigs:    []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		StreamIdleTimeout: durationpb.New(0),
		Proxy_100Continue: true,
	}
	t.tracing.apply(m, class)
	t.o.normalize(m)
	return m
}

// httpFilters is istiod's chain for outbound and gateway listeners, with the filters that
// count. Fault and CORS do nothing until a route configures them.
func httpFilters(counting []*hcmv3.HttpFilter) []*hcmv3.HttpFilter {
	filter := func(name string, config *anypb.Any) *hcmv3.HttpFilter {
		return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
	}
	return slices.Concat([]*hcmv3.HttpFilter{
		filter(filterMetadataExchange, peerMetadata("upstream")),
		filter(filterGRPCStats, pack(&grpcstatsv3.FilterConfig{
			EmitFilterState: true,
			PerMethodStatSpecifier: &grpcstatsv3.FilterConfig_StatsForAllMethods{
				StatsForAllMethods: wrapperspb.Bool(false),
			},
		})),
		filter(filterALPN, pack(&alpn.FilterConfig{AlpnOverride: []*alpn.FilterConfig_AlpnOverride{
			{UpstreamProtocol: alpn.FilterConfig_HTTP10, AlpnOverride: []string{"istio-http/1.0", "istio", "http/1.0"}},
			{UpstreamProtocol: alpn.FilterConfig_HTTP11, AlpnOverride: []string{"istio-http/1.1", "istio", "http/1.1"}},
			{UpstreamProtocol: alpn.FilterConfig_HTTP2, AlpnOverride: []string{"istio-h2", "istio", "h2"}},
		}})),
		filter(filterFault, pack(&faultv3.HTTPFault{})),
		filter(filterCORS, pack(&corsv3.Cors{})),
	}, counting, []*hcmv3.HttpFilter{filter(filterRouter, pack(&routerv3.Router{}))})
}

// addGRPCWeb lets gRPC-Web clients call the gRPC services of a listener. The filter
// stands in istiod's place for it, before what counts gRPC calls.
func addGRPCWeb(m *hcmv3.HttpConnectionManager) {
	at := slices.IndexFunc(m.HttpFilters, func(f *hcmv3.HttpFilter) bool { return f.Name == filterGRPCStats })
	m.HttpFilters = slices.Insert(m.HttpFilters, max(at, 0), &hcmv3.HttpFilter{
		Name:       filterGRPCWeb,
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&grpcwebv3.GrpcWeb{})},
	})
}

// typedStruct wraps the configuration of an Istio filter whose type has no Go package.
func typedStruct(typeName string, value map[string]*structpb.Value) *anypb.Any {
	return pack(&udpav1.TypedStruct{
		TypeUrl: "type.googleapis.com/" + typeName,
		Value:   &structpb.Struct{Fields: value},
	})
}

// peerMetadata tells the peer, "upstream" or "downstream", who the proxy stands for, and
// learns from its headers or from what is known of its address who it is.
func peerMetadata(peer string) *anypb.Any {
	empty := func(name string) *structpb.Value {
		return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
			name: structpb.NewStructValue(&structpb.Struct{}),
		}})
	}
	list := func(v ...*structpb.Value) *structpb.Value {
		return structpb.NewListValue(&structpb.ListValue{Values: v})
	}
	return typedStruct("io.istio.http.peer_metadata.Config", map[string]*structpb.Value{
		peer + "_discovery":   list(empty("istio_headers"), empty("workload_discovery")),
		peer + "_propagation": list(empty("istio_headers")),
	})
}

// tcpMetadataExchange is the same for connections that aren't HTTP, after ALPN.
func tcpMetadataExchange() *anypb.Any {
	return typedStruct("envoy.tcp.metadataexchange.config.MetadataExchange", map[string]*structpb.Value{
		"enable_discovery": structpb.NewBoolValue(true),
		"protocol":         structpb.NewStringValue("istio-peer-exchange"),
	})
}

// outboundManager makes the connection manager of a listener for clients on this
// machine. HTTP/1.0 is taken, since what tests a mesh on one machine may be old.
func (t *translator) outboundManager(routeName string) *hcmv3.HttpConnectionManager {
	m := t.newManager(classOutbound, routeName, t.logs.of(classOutbound).loggers())
	m.UseRemoteAddress = wrapperspb.Bool(false)
	m.HttpProtocolOptions = &corev3.Http1ProtocolOptions{AcceptHttp_10: true}
	return m
}

// httpListener makes the listener that serves as a forward proxy and by Host header,
// in the form of istiod's http-proxy listener, with gRPC-Web if any service has a port
// for it.
func (t *translator) httpListener(address netip.AddrPort) *listenerv3.Listener {
	m := t.outboundManager(routeHTTPProxy)
	m.HttpProtocolOptions.AllowAbsoluteUrl = wrapperspb.Bool(true)
	if slices.ContainsFunc(t.scope.services, (*service).hasGRPCWeb) {
		addGRPCWeb(m)
	}
	l := newListener(address.Addr().String(), uint32(address.Port()), m)
	l.ListenerFiltersTimeout = durationpb.New(0)
	l.ContinueOnListenerFiltersTimeout = true
	return l
}

// parseListenAddress reads "ip:port". An empty host is every address, "localhost" is
// the IPv4 loopback.
func parseListenAddress(address string) (netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address and port, such as 127.0.0.1:15080", address)
	}
	switch strings.ToLower(host) {
	case "":
		host = "0.0.0.0"
	case "localhost":
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an IP address; give one, such as 127.0.0.1", host)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not a port from 0 to 65535", portText)
	}
	return netip.AddrPortFrom(ip, uint16(port)), nil
}
