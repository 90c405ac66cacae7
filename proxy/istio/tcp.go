// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// Names of the filters of connections that aren't HTTP.
const (
	filterTCPProxy      = "envoy.filters.network.tcp_proxy"
	filterTLSInspector  = "envoy.filters.listener.tls_inspector"
	filterHTTPInspector = "envoy.filters.listener.http_inspector"
)

// rawRoute is one entry of spec.tcp or spec.tls: what is common to both.
type rawRoute struct {
	v       *virtualService
	where   httpRoute // for messages
	route   []*networking.RouteDestination
	matches []rawMatch // empty: everything
}

// rawMatch is one match of a rawRoute.
type rawMatch struct {
	sniHosts, subnets, gateways []string
	port                        uint32
	sourceLabels                map[string]string
	sourceNamespace             string
}

// rawRoutes lists the entries of spec.tcp, or of spec.tls.
func rawRoutes(v *virtualService, tls bool) []rawRoute {
	spec := v.obj.Spec.(*networking.VirtualService)
	var out []rawRoute
	if tls {
		for i, r := range spec.Tls {
			one := rawRoute{v: v, where: httpRoute{obj: v.obj, index: i, list: "tls"}, route: r.Route}
			for _, m := range r.Match {
				one.matches = append(one.matches, rawMatch{m.SniHosts, m.DestinationSubnets, m.Gateways, m.Port, m.SourceLabels, m.SourceNamespace})
			}
			out = append(out, one)
		}
		return out
	}
	for i, r := range spec.Tcp {
		one := rawRoute{v: v, where: httpRoute{obj: v.obj, index: i, list: "tcp"}, route: r.Route}
		for _, m := range r.Match {
			one.matches = append(one.matches, rawMatch{nil, m.DestinationSubnets, m.Gateways, m.Port, m.SourceLabels, m.SourceNamespace})
		}
		out = append(out, one)
	}
	return out
}

// concernsRaw is concerns for a match of a tcp or tls route, of which all parts have
// to hold: gateways don't stand in for the source there.
func (b *routeBuilder) concernsRaw(m *rawMatch, v *virtualService, at target) bool {
	if m.port != 0 && m.port != at.port {
		return false
	}
	if len(m.gateways) > 0 && !at.among(m.gateways, v.obj.Namespace) {
		return false
	}
	return isSubset(m.sourceLabels, b.o.Labels) && (m.sourceNamespace == "" || m.sourceNamespace == b.o.Namespace)
}

// rawChain makes the filter chain of a route's destinations.
func (t *translator) rawChain(r *rawRoute, at target) *listenerv3.FilterChain {
	p := &tcpv3.TcpProxy{AccessLog: t.logs.of(classOutbound).loggers()}
	var weighted []*tcpv3.TcpProxy_WeightedCluster_ClusterWeight
	for i, d := range r.route {
		name, own := t.routeBuilder.destinationPolicy(d.GetDestination(), &r.where, ".route["+strconv.Itoa(i)+"].destination", at)
		applyRawPolicy(p, &own, i == 0)
		if d.Weight > 0 || len(r.route) == 1 {
			weighted = append(weighted, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{Name: name, Weight: uint32(max(d.Weight, 1))})
		}
	}
	if len(weighted) == 1 {
		p.StatPrefix = weighted[0].Name
		p.ClusterSpecifier = &tcpv3.TcpProxy_Cluster{Cluster: weighted[0].Name}
	} else {
		// istiod's name for the statistics of a weighted route.
		p.StatPrefix = r.v.obj.Name + "." + r.v.obj.Namespace
		p.ClusterSpecifier = &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: &tcpv3.TcpProxy_WeightedCluster{Clusters: weighted}}
	}
	class := classOutbound
	if at.gateway != meshGateway {
		class = classGateway
	}
	return t.rawFilters(class, p)
}

// serviceChain makes the filter chain of a service port that no route is about.
func (t *translator) serviceChain(s *service, p *servicePort) *listenerv3.FilterChain {
	name := clusterName(s.host, "", p.number)
	proxy := &tcpv3.TcpProxy{StatPrefix: name, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: name}, AccessLog: t.logs.of(classOutbound).loggers()}
	own := t.routeBuilder.rule(s).policyOf(p.number)
	applyRawPolicy(proxy, &own, true)
	return t.rawFilters(classOutbound, proxy)
}

// applyRawPolicy sets what of a destination's policy is not its cluster's. Of a route
// to several the first has the timeouts, as istiod does it, and any may ask for hashing.
func applyRawPolicy(p *tcpv3.TcpProxy, own *policy, first bool) {
	if own.lb.value.GetConsistentHash().GetUseSourceIp() {
		p.HashPolicy = []*typev3.HashPolicy{{PolicySpecifier: &typev3.HashPolicy_SourceIp_{SourceIp: &typev3.HashPolicy_SourceIp{}}}}
	}
	if first {
		p.IdleTimeout = own.pool.value.GetTcp().GetIdleTimeout()
		p.MaxDownstreamConnectionDuration = own.pool.value.GetTcp().GetMaxConnectionDuration()
	}
}

// rawFilters puts what counts for metrics before a TCP proxy, as istiod does.
func (t *translator) rawFilters(class listenerClass, p *tcpv3.TcpProxy) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{
		Filters:                       append(t.metrics.network(class), networkFilter(filterTCPProxy, p)),
		TransportSocketConnectTimeout: durationpb.New(15 * time.Second),
	}
}

// rawChains collects the chains of one listener. Of two for the very same connections
// the first counts; Envoy refuses a second.
type rawChains struct {
	list  []*listenerv3.FilterChain
	taken map[rawKey]bool
	last  bool // one takes everything, so nothing comes behind it
}

// rawKey is connections to a network that ask for a server name; either may be empty.
type rawKey struct{ subnet, name string }

// free keeps the names that no chain has yet for a network, and takes them.
func (c *rawChains) free(subnet string, names []string) []string {
	if c.taken == nil {
		c.taken = make(map[rawKey]bool)
	}
	var out []string
	for _, n := range names {
		if k := (rawKey{subnet, n}); !c.taken[k] {
			c.taken[k] = true
			out = append(out, n)
		}
	}
	return out
}

// tcpChains adds the chains of the tcp routes of VirtualServices, the first that
// matches first. destinations, unless empty, are what clients of the port mean to reach.
func (t *translator) tcpChains(out *rawChains, vs []*virtualService, at target, destinations []netip.Addr) {
	for _, v := range vs {
		t.scope.addDestinations(v, t.o)
		for _, r := range rawRoutes(v, false) {
			subnets, all := t.routeBuilder.subnets(&r, at, destinations)
			subnets = slices.DeleteFunc(subnets, func(s netip.Prefix) bool { return len(out.free(s.String(), []string{""})) == 0 })
			if len(subnets) > 0 {
				c := t.rawChain(&r, at)
				c.FilterChainMatch = &listenerv3.FilterChainMatch{PrefixRanges: cidrRanges(subnets...)}
				out.list = append(out.list, c)
			}
			if all {
				out.list, out.last = append(out.list, t.rawChain(&r, at)), true
				return
			}
		}
	}
}

// subnets decides whether a tcp route is for a port: for all that comes there, or for
// destinations in some subnets. Where the destination is known that decides it already.
func (b *routeBuilder) subnets(r *rawRoute, at target, destinations []netip.Addr) (ranges []netip.Prefix, all bool) {
	all = len(r.matches) == 0
	for i := range r.matches {
		if m := &r.matches[i]; b.concernsRaw(m, r.v, at) {
			of, any := m.destinations(destinations)
			ranges, all = append(ranges, of...), all || any
		}
	}
	return ranges, all
}

// destinations tells whether a match takes every connection to a port, or those to some
// subnets, by what is known of where the port's clients mean to go.
func (m *rawMatch) destinations(known []netip.Addr) (ranges []netip.Prefix, all bool) {
	if len(m.subnets) == 0 {
		return nil, true
	}
	for _, s := range m.subnets {
		p, ok := parseSubnet(s)
		switch {
		case !ok:
		case len(known) > 0:
			all = all || slices.ContainsFunc(known, p.Contains)
		default:
			ranges = append(ranges, p)
		}
	}
	return ranges, all
}

func parseSubnet(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), true
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()), true
}

func cidrRanges(subnets ...netip.Prefix) []*corev3.CidrRange {
	var out []*corev3.CidrRange
	for _, p := range subnets {
		out = append(out, &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))})
	}
	return out
}

// tlsChains adds the chains of the tls routes of VirtualServices, told apart by the
// server name that the client asks for. hosts, unless nil, are those that a Gateway's
// server takes.
func (t *translator) tlsChains(out *rawChains, vs []*virtualService, at target, destinations []netip.Addr, hosts func(v *virtualService) []string) {
	for _, v := range vs {
		t.scope.addDestinations(v, t.o)
		for _, r := range rawRoutes(v, true) {
			var everywhere []string
			for i := range r.matches {
				m := &r.matches[i]
				if !t.routeBuilder.concernsRaw(m, v, at) {
					continue
				}
				sni := lowerAll(m.sniHosts)
				if hosts != nil {
					sni = intersect(hosts(v), sni)
				}
				subnets, all := m.destinations(destinations)
				if all {
					everywhere = append(everywhere, out.free("", sni)...)
				}
				for _, s := range subnets {
					t.sniChain(out, &r, at, out.free(s.String(), sni), s)
				}
			}
			t.sniChain(out, &r, at, everywhere)
		}
	}
}

// sniChain adds the chain of a route for server names, if there are any.
func (t *translator) sniChain(out *rawChains, r *rawRoute, at target, names []string, subnets ...netip.Prefix) {
	if len(names) == 0 {
		return
	}
	c := t.rawChain(r, at)
	c.FilterChainMatch = serverNames(names)
	c.FilterChainMatch.PrefixRanges = cidrRanges(subnets...)
	out.list = append(out.list, c)
}

func lowerAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ToLower(s)
	}
	return out
}

// serverNames matches names; "*" is every one, which Envoy says by none.
func serverNames(names []string) *listenerv3.FilterChainMatch {
	if slices.Contains(names, "*") {
		return &listenerv3.FilterChainMatch{TransportProtocol: "tls"}
	}
	return &listenerv3.FilterChainMatch{ServerNames: names}
}

// rawListener makes a listener of chains. tls and http say what has to be looked at.
func (t *translator) rawListener(ip string, port uint32, chains []*listenerv3.FilterChain, tls, http bool) *listenerv3.Listener {
	l := &listenerv3.Listener{
		Name:                             ip + "_" + strconv.FormatUint(uint64(port), 10),
		Address:                          newAddress(ip, port),
		TrafficDirection:                 corev3.TrafficDirection_OUTBOUND,
		FilterChains:                     chains,
		ContinueOnListenerFiltersTimeout: true,
	}
	inspector := func(name string, config *listenerv3.ListenerFilter_TypedConfig) {
		l.ListenerFilters = append(l.ListenerFilters, &listenerv3.ListenerFilter{Name: name, ConfigType: config})
	}
	if tls {
		inspector(filterTLSInspector, &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&tlsinspectorv3.TlsInspector{})})
	}
	if http {
		inspector(filterHTTPInspector, &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&httpinspectorv3.HttpInspector{})})
	}
	if tls || http {
		l.ListenerFiltersTimeout = durationpb.New(t.o.ProtocolDetectionTimeout)
	}
	return l
}

// byPort orders listeners as istiod's are: by port, then by address.
func byPort(a, b *listenerv3.Listener) int {
	of := func(l *listenerv3.Listener) *corev3.SocketAddress { return l.Address.GetSocketAddress() }
	return cmp.Or(cmp.Compare(of(a).GetPortValue(), of(b).GetPortValue()), cmp.Compare(of(a).GetAddress(), of(b).GetAddress()))
}
