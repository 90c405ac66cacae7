// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What connections say in ALPN, or what the inspectors take them for.
var (
	alpnPlainHTTP = []string{"http/1.1", "h2c"}
	alpnMeshHTTP  = []string{"istio-http/1.0", "istio-http/1.1", "istio-h2"}
	alpnMeshTCP   = []string{"istio-peer-exchange", "istio"}
	alpnMeshAll   = []string{"istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"}
)

// inboundMatch says which connections one filter chain is for, and what it does.
type inboundMatch struct {
	tls  bool     // the connection is TLS
	alpn []string // one of these; nil is any
	http bool     // requests are served, else bytes are passed on
	ends bool     // TLS ends here
}

// inboundMatches are the chains of a port by its protocol and by how it takes
// connections, as istiod has them (pilot/pkg/networking/core/filterchain_options.go).
func inboundMatches(p protocol, mode mtlsMode) []inboundMatch {
	type m = inboundMatch
	http, auto := p.isHTTP(), p == protoUnnamed
	switch {
	case mode == mtlsStrict && auto:
		return []m{{true, alpnMeshHTTP, true, true}, {true, nil, false, true}}
	case mode == mtlsStrict:
		return []m{{true, nil, http, true}}
	case mode == mtlsDisable && auto:
		return []m{{false, alpnPlainHTTP, true, false}, {false, nil, false, false}}
	case mode == mtlsDisable:
		return []m{{false, nil, http, false}}
	case auto:
		return []m{
			{true, alpnMeshHTTP, true, true}, {false, alpnPlainHTTP, true, false},
			{true, alpnMeshTCP, false, true}, {false, nil, false, false}, {true, nil, false, false},
		}
	case http:
		return []m{{true, alpnMeshAll, true, true}, {false, nil, true, false}}
	}
	return []m{{true, alpnMeshAll, false, true}, {true, nil, false, false}, {false, nil, false, false}}
}

// inboundListener makes the listener of a port. Where istiod binds one listener for all
// ports, captured connections tell them apart; here each port has an address.
func (t *translator) inboundListener(p *inboundPort, w protected) *listenerv3.Listener {
	auth := t.authorizer(w, p)
	l := &listenerv3.Listener{
		Name:                                 p.listenerName(),
		Address:                              newAddress(p.listen.Addr().String(), uint32(p.listen.Port())),
		TrafficDirection:                     corev3.TrafficDirection_INBOUND,
		ListenerFiltersTimeout:               durationpb.New(0),
		ContinueOnListenerFiltersTimeout:     true,
		AccessLog:                            t.logs.of(classInbound).listenerLoggers(),
		MaxConnectionsToAcceptPerSocketEvent: wrapperspb.UInt32(1),
	}
	tls, sniff := false, false
	for _, m := range inboundMatches(p.protocol, p.mode) {
		tls = tls || m.tls
		sniff = sniff || !m.tls && m.alpn != nil
		c := &listenerv3.FilterChain{
			Name:             p.name(),
			FilterChainMatch: &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer", ApplicationProtocols: m.alpn},
			Filters:          []*listenerv3.Filter{networkFilterAny(filterMetadataExchange, tcpMetadataExchange())},
		}
		if m.tls {
			c.FilterChainMatch.TransportProtocol = "tls"
		}
		if m.ends {
			c.TransportSocket = t.inboundTLS(m.http)
		}
		if m.http {
			c.Filters = append(c.Filters, networkFilter(filterHCM, t.inboundManager(p, w, auth)))
		} else {
			c.Filters = slices.Concat(c.Filters, auth.network(), t.metrics.network(classInbound))
			c.Filters = append(c.Filters, networkFilter(filterTCPProxy, &tcpv3.TcpProxy{
				StatPrefix: p.cluster(), ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: p.cluster()}, AccessLog: t.logs.of(classInbound).loggers(),
			}))
		}
		l.FilterChains = append(l.FilterChains, c)
	}
	if tls {
		l.ListenerFilters = append(l.ListenerFilters, listenerFilter(filterTLSInspector, &tlsinspectorv3.TlsInspector{InitialReadBufferSize: wrapperspb.UInt32(512)}))
	}
	if sniff {
		l.ListenerFilters = append(l.ListenerFilters, listenerFilter(filterHTTPInspector, &httpinspectorv3.HttpInspector{}))
	}
	if tls || sniff {
		// istiod waits for ever, so that a server that speaks first is never heard.
		l.ListenerFiltersTimeout = durationpb.New(t.o.ProtocolDetectionTimeout)
	}
	return l
}

// inboundManager makes the connection manager before a port that serves requests.
func (t *translator) inboundManager(p *inboundPort, w protected, auth *authorizer) *hcmv3.HttpConnectionManager {
	m := t.newManager(classInbound, "", t.logs.of(classInbound).loggers())
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: t.inboundRoutes(p)}
	m.StatPrefix = statPrefix("inbound_" + p.name())
	m.ServerName = "istio-envoy"
	m.UseRemoteAddress = wrapperspb.Bool(false)
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_APPEND_FORWARD
	m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
		Subject: wrapperspb.Bool(true), Dns: true, Uri: true,
	}
	if p.protocol.isHTTP2() {
		m.Http2ProtocolOptions = &corev3.Http2ProtocolOptions{}
	}
	kept := m.HttpFilters[:0]
	for _, f := range m.HttpFilters {
		switch f.Name {
		case filterALPN: // speaks to other workloads
		case filterMetadataExchange:
			kept = append(kept, &hcmv3.HttpFilter{
				Name: f.Name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: peerMetadata("downstream")},
			})
		default:
			kept = append(kept, f)
		}
	}
	m.HttpFilters = kept
	if p.protocol == protoGRPCWeb {
		addGRPCWeb(m)
	}
	t.protect(m, w, auth, false)
	return m
}

// protect puts what decides on requests before all other filters but the one that learns
// who calls.
func (t *translator) protect(m *hcmv3.HttpConnectionManager, w protected, auth *authorizer, gateway bool) {
	filters := append([]*hcmv3.HttpFilter{m.HttpFilters[0]}, auth.httpCustom()...)
	if jwt := t.jwtFilter(w, gateway); jwt != nil {
		filters = append(filters, jwt)
	}
	filters = append(filters, auth.httpRBAC()...)
	m.HttpFilters = append(filters, m.HttpFilters[1:]...)
}

// inboundRoutes sends everything to the workload. A request that it reset before it
// began to answer is sent again; whether a gRPC call may be is for its client to say.
func (t *translator) inboundRoutes(p *inboundPort) *routev3.RouteConfiguration {
	action := &routev3.RouteAction{
		ClusterSpecifier:  &routev3.RouteAction_Cluster{Cluster: p.cluster()},
		Timeout:           t.routeBuilder.noTimeout,
		MaxStreamDuration: &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: t.routeBuilder.noTimeout, GrpcTimeoutHeaderMax: t.routeBuilder.noTimeout},
	}
	if p.protocol != protoGRPC && p.protocol != protoGRPCWeb {
		action.RetryPolicy = &routev3.RetryPolicy{RetryOn: "reset-before-request", NumRetries: wrapperspb.UInt32(2)}
	}
	operation := ":" + portText(p.port) + "/*"
	if len(p.services) > 0 {
		operation = hostPort(p.services[0].s.host, p.services[0].p.number) + "/*"
	}
	return &routev3.RouteConfiguration{
		Name:             p.cluster(),
		ValidateClusters: wrapperspb.Bool(false),
		VirtualHosts: []*routev3.VirtualHost{{
			Name:    "inbound|http|" + portText(p.port),
			Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Name:      "default",
				Match:     &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action:    &routev3.Route_Route{Route: action},
				Decorator: &routev3.Decorator{Operation: operation},
			}},
		}},
	}
}
