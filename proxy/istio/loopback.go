// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// loopback opens a listener at each address of this machine that a service port has.
func (t *translator) loopback() {
	t.bound = t.boundPorts()
	for _, a := range t.bound.order {
		if t.bindable(a, t.bound.byAddress[a]) {
			t.bind(a, t.bound.byAddress[a])
		}
	}
}

// bindable reports who can't have an address because another has it. Several services
// may share one if all speak TLS, since the name that the client asks for tells them
// apart.
func (t *translator) bindable(a netip.AddrPort, ports []boundPort) bool {
	first := &ports[0]
	remedy := func(b *boundPort) string {
		number := uint32(a.Port()) + 1
		if number > 65535 {
			number -= 1000
		}
		return "--listen " + b.name() + "=" + netip.AddrPortFrom(a.Addr(), uint16(number)).String()
	}
	if own, err := parseListenAddress(t.o.HTTPAddr); t.o.HTTPAddr != "" && err == nil && overlapping(own, a) {
		t.rep.errorf(first.s.obj, portField(first.s, first.p.number), "%s would listen at %s, and so does the http listener; choose another with --http, or with %s",
			first.name(), a, remedy(first))
		return false
	}
	for i := range ports[1:] {
		other := &ports[i+1]
		if first.p.protocol.isTLS() && other.p.protocol.isTLS() {
			continue
		}
		t.rep.errorf(other.s.obj, portField(other.s, other.p.number), "%s and %s of %s would both listen at %s; choose another with %s",
			other.name(), first.name(), place(first.s.obj), a, remedy(other))
		return false
	}
	for _, b := range t.bound.order {
		if b != a && overlapping(a, b) && b.Addr().IsUnspecified() {
			other := &t.bound.byAddress[b][0]
			t.rep.errorf(first.s.obj, portField(first.s, first.p.number), "%s would listen at %s, which %s of %s includes, that of %s; choose another with %s",
				first.name(), a, b, place(other.s.obj), other.name(), remedy(first))
			return false
		}
	}
	return true
}

// overlapping: no two listeners can have these addresses at once.
func overlapping(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Port() != 0 && (a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified())
}

// conflict finds a service port that listens where another listener wants to.
func (l *boundPorts) conflict(a netip.AddrPort) *boundPort {
	for _, b := range l.order {
		if overlapping(a, b) {
			return &l.byAddress[b][0]
		}
	}
	return nil
}

// bind makes the listener of an address.
func (t *translator) bind(a netip.AddrPort, ports []boundPort) {
	first := &ports[0]
	ip, number := a.Addr().String(), uint32(a.Port())
	mesh := visibleRoutes(t.virtualServices, meshGateway, t.o.Namespace)
	var l *listenerv3.Listener
	switch p := first.p.protocol; {
	case p.isTLS():
		chains := t.tlsServices(ports, mesh, a.Addr())
		named := slices.ContainsFunc(chains, func(c *listenerv3.FilterChain) bool { return c.FilterChainMatch != nil })
		l = t.rawListener(ip, number, chains, named, false)
	case p.isHTTP():
		l = newListener(ip, number, t.portManager(first))
	case p == protoUnnamed:
		// What speaks HTTP is routed, everything else is passed on.
		http := newListener(ip, number, t.portManager(first)).FilterChains[0]
		http.FilterChainMatch = &listenerv3.FilterChainMatch{ApplicationProtocols: []string{"http/1.1", "h2c"}, TransportProtocol: "raw_buffer"}
		chains := t.tcpService(first, mesh, a.Addr())
		last := len(chains) - 1
		l = t.rawListener(ip, number, append(chains[:last:last], http), false, true)
		l.DefaultFilterChain = chains[last]
	default:
		l = t.rawListener(ip, number, t.tcpService(first, mesh, a.Addr()), false, false)
	}
	l.AccessLog = t.logs.of(classOutbound).listenerLoggers()
	names := make([]string, len(ports))
	for i := range ports {
		names[i] = ports[i].name()
	}
	t.out.Opens[l.Name] = strings.Join(names, ",")
	t.out.Listeners = append(t.out.Listeners, l)
}

// portManager makes the connection manager of a port that is reached at an address of
// its own.
func (t *translator) portManager(b *boundPort) *hcmv3.HttpConnectionManager {
	m := t.outboundManager(b.name())
	if b.p.protocol == protoGRPCWeb {
		addGRPCWeb(m)
	}
	if !slices.Contains(t.ownRoutes, b) {
		t.ownRoutes = append(t.ownRoutes, b)
	}
	return m
}

// portRoutes makes the routes of a port with an address of its own, as istiod does for
// a port whose protocol is found out: those of the one service, whatever host is asked
// for. Clients will ask for the address, which the mesh doesn't know.
func (t *translator) portRoutes(b *boundPort, all *routev3.RouteConfiguration) *routev3.RouteConfiguration {
	vh := &routev3.VirtualHost{Name: b.name(), Domains: []string{"*"}, IncludeRequestAttemptCount: true}
	if i := slices.IndexFunc(all.VirtualHosts, func(h *routev3.VirtualHost) bool { return h.Name == vh.Name }); i >= 0 {
		vh.Routes = all.VirtualHosts[i].Routes
	} else { // the Sidecar lets routes alone name the service
		vh.Routes = []*routev3.Route{t.routeBuilder.defaultRoute(b.s, b.p)}
	}
	return &routev3.RouteConfiguration{
		Name:                           b.name(),
		VirtualHosts:                   []*routev3.VirtualHost{vh},
		ValidateClusters:               wrapperspb.Bool(false),
		MaxDirectResponseBodySizeBytes: wrapperspb.UInt32(maxDirectResponse),
	}
}

// httpRoutes adds the route configurations of all listeners but gateways'.
func (t *translator) httpRoutes(httpListener bool) {
	if !httpListener && len(t.ownRoutes) == 0 {
		return
	}
	all := t.httpProxyRoutes()
	if httpListener {
		t.out.Routes = append(t.out.Routes, all)
	}
	slices.SortFunc(t.ownRoutes, func(a, b *boundPort) int { return cmp.Compare(a.name(), b.name()) })
	for i, b := range t.ownRoutes {
		if i == 0 || t.ownRoutes[i-1].name() != b.name() { // one port may have several addresses
			t.out.Routes = append(t.out.Routes, t.portRoutes(b, all))
		}
	}
}

// tcpService makes the chains of a port that carries bytes; the last takes everything.
func (t *translator) tcpService(b *boundPort, mesh []*virtualService, listen netip.Addr) []*listenerv3.FilterChain {
	var c rawChains
	t.tcpChains(&c, forHost(mesh, b.s.host), target{port: b.p.number, gateway: meshGateway}, b.destinations(listen))
	if !c.last {
		c.list = append(c.list, t.serviceChain(b.s, b.p))
	}
	return c.list
}

// destinations are the addresses that a client of the port means: the service's own,
// or the one that is listened at. None is whichever it connects to.
func (b *boundPort) destinations(listen netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range b.s.addresses {
		if ip, err := netip.ParseAddr(a); err == nil {
			out = append(out, ip)
		}
	}
	if len(out) == 0 && !listen.IsUnspecified() {
		out = append(out, listen)
	}
	return out
}

// tlsServices makes the chains of ports that carry TLS, which is passed through.
func (t *translator) tlsServices(ports []boundPort, mesh []*virtualService, listen netip.Addr) []*listenerv3.FilterChain {
	var c rawChains
	for i := range ports {
		b := &ports[i]
		t.tlsChains(&c, forHost(mesh, b.s.host), target{port: b.p.number, gateway: meshGateway}, b.destinations(listen), nil)
	}
	for i := range ports {
		b := &ports[i]
		chain := t.serviceChain(b.s, b.p)
		if len(ports) > 1 { // one alone is meant by whatever name
			if len(c.free("", []string{b.s.host})) == 0 {
				continue
			}
			chain.FilterChainMatch = serverNames([]string{b.s.host})
		}
		c.list = append(c.list, chain)
	}
	return c.list
}

// forHost returns the VirtualServices that are about a host.
func forHost(all []*virtualService, host string) []*virtualService {
	var out []*virtualService
	for _, v := range all {
		if slices.ContainsFunc(v.hosts, func(h string) bool {
			return h == host || isWildcard(h) && len(intersect([]string{h}, []string{host})) > 0
		}) {
			out = append(out, v)
		}
	}
	return out
}
