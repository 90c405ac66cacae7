// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"pillion/proxy/istio/source"
)

// routeHTTPProxy is istiod's name of the route configuration of its http-proxy listener.
const routeHTTPProxy = "http_proxy"

// maxDirectResponse lets a VirtualService answer with bodies of up to 1 MiB, as
// Istio's API allows; Envoy's own limit is 4 KiB.
const maxDirectResponse = 1 << 20

// hostGroup is virtual hosts that share their routes: what one VirtualService, or no
// VirtualService, says of one port.
type hostGroup struct {
	port     uint32
	services []*service
	hosts    []string // hosts of the VirtualService that no service has
	routes   []*routev3.Route
	obj      *source.Object // the VirtualService; nil for services without one
	// only is set when the group is for one port of the VirtualService and there is no
	// other: hosts may then be asked for without a port.
	only bool
}

// httpProxyRoutes makes the route configuration of the http listener: the virtual
// hosts that a sidecar has for each of its ports, all in one, told apart by the port
// in the Host header or the request's URL.
//
// istiod has such a configuration too, but it ignores the port when it matches hosts
// (ignore_port_in_host_matching) although its domains have one, and takes routes and
// multi-port destinations to be of port 0. Here the port counts, and routes are those
// of the port they are for.
func (t *translator) httpProxyRoutes() *routev3.RouteConfiguration {
	var groups []hostGroup
	for _, l := range t.scope.listeners {
		groups = append(groups, t.hostGroups(l)...)
	}
	h := newVirtualHosts(t, groups)
	h.build()
	slices.SortFunc(h.out, func(a, b *routev3.VirtualHost) int { return cmp.Compare(a.Name, b.Name) })
	return &routev3.RouteConfiguration{
		Name:                           routeHTTPProxy,
		VirtualHosts:                   append(h.out, t.catchAll()),
		ValidateClusters:               wrapperspb.Bool(false),
		MaxDirectResponseBodySizeBytes: wrapperspb.UInt32(maxDirectResponse),
	}
}

// hostGroups lists the virtual hosts of one egress listener: VirtualServices first, in
// their order, then the services that none of them is about.
func (t *translator) hostGroups(l *egressListener) []hostGroup {
	byHost := make(map[string]*service, len(l.services))
	for _, s := range l.services {
		byHost[s.host] = s
	}
	type portOf struct {
		s    *service
		port uint32
	}
	taken := make(map[portOf]struct{})
	var out []hostGroup
	for _, v := range l.virtualServices {
		for _, g := range t.virtualServiceGroups(l, v, byHost) {
			for _, s := range g.services {
				taken[portOf{s, g.port}] = struct{}{}
			}
			out = append(out, g)
		}
	}
	for _, s := range l.services {
		for i := range s.ports {
			p := &s.ports[i]
			if _, ok := taken[portOf{s, p.number}]; ok || !t.routes(l, p) {
				continue
			}
			out = append(out, hostGroup{
				port:     p.number,
				services: []*service{s},
				routes:   []*routev3.Route{t.routeBuilder.defaultRoute(s, p)},
			})
		}
	}
	return out
}

// routes reports whether a port is routed by this listener.
func (t *translator) routes(l *egressListener, p *servicePort) bool {
	return p.protocol.routable() && t.scope.listenerFor(p.number) == l
}

// virtualServiceGroups makes the groups of a VirtualService, one for each port of the
// services that it is about. One that is about none has its hosts at port 80.
func (t *translator) virtualServiceGroups(l *egressListener, v *virtualService, byHost map[string]*service) []hostGroup {
	services, unknown := matchServices(l, v, byHost)
	var ports []uint32
	at := make(map[uint32][]*service)
	for _, s := range services {
		for i := range s.ports {
			p := &s.ports[i]
			if !t.routes(l, p) {
				continue
			}
			if _, ok := at[p.number]; !ok {
				ports = append(ports, p.number)
			}
			at[p.number] = append(at[p.number], s)
		}
	}
	if len(services) == 0 && t.scope.listenerFor(80) == l {
		ports = []uint32{80}
		t.reportUnknown(v)
	}
	slices.Sort(ports)
	out := make([]hostGroup, 0, len(ports))
	for _, port := range ports {
		routes := t.routeBuilder.routes(v, target{port: port, gateway: meshGateway})
		if len(routes) == 0 {
			continue // no match is about this port or proxy; the services keep their default
		}
		out = append(out, hostGroup{port, at[port], unknown, routes, v.obj, len(ports) == 1})
	}
	return out
}

// reportUnknown tells of hosts that look like services of the mesh and are none.
func (t *translator) reportUnknown(v *virtualService) {
	reg := t.scope.registry
	for i, h := range v.hosts {
		field := fmt.Sprintf("spec.hosts[%d]", i)
		if to := reg.concrete(h); to != h {
			t.rep.warnf(v.obj, field, "%s is only another name for %s, whose routes hold for both: name that one", h, to)
		} else if strings.HasSuffix(h, ".svc."+t.o.DomainSuffix) && reg.byHost[h] == nil {
			t.rep.warnf(v.obj, field, "there is no service %s: these routes are for port 80 only", h)
		}
	}
}

// matchServices finds the services that a VirtualService is about, and its hosts that
// none has. A wildcard is about the services that no VirtualService names more exactly.
func matchServices(l *egressListener, v *virtualService, byHost map[string]*service) (found []*service, unknown []string) {
	for _, host := range v.hosts {
		if s := byHost[host]; s != nil {
			found = append(found, s)
			continue
		}
		if !isWildcard(host) {
			unknown = append(unknown, host)
			continue
		}
		any := false
		for _, s := range l.services {
			if overlap(host, s.host) {
				any = true
				if l.mostSpecific(s) == v {
					found = append(found, s)
				}
			}
		}
		if !any {
			unknown = append(unknown, host)
		}
	}
	return found, unknown
}

// mostSpecific finds the VirtualService that names a service most exactly; of two that
// are alike the first.
func (l *egressListener) mostSpecific(s *service) *virtualService {
	if l.byHost == nil {
		l.byHost = newHostMap[*virtualService]()
		for _, v := range l.virtualServices {
			for _, h := range v.hosts {
				if _, ok := l.byHost.at(h); !ok {
					l.byHost.set(h, v)
				}
			}
		}
	}
	v, _ := l.byHost.find(s.host)
	return v
}

// virtualHosts makes virtual hosts of groups such that no domain occurs twice: Envoy
// refuses a route configuration in which one does.
type virtualHosts struct {
	t      *translator
	groups []hostGroup
	out    []*routev3.VirtualHost

	names   map[string]*source.Object // names given, and the VirtualService they are of
	domains map[string]struct{}       // domains given
	real    map[string]struct{}       // full names of services
}

func newVirtualHosts(t *translator, groups []hostGroup) *virtualHosts {
	return &virtualHosts{
		t:       t,
		groups:  groups,
		out:     make([]*routev3.VirtualHost, 0, len(groups)+1),
		names:   make(map[string]*source.Object, len(groups)),
		domains: make(map[string]struct{}, 12*len(groups)),
		real:    make(map[string]struct{}, len(groups)),
	}
}

func (h *virtualHosts) build() {
	for i := range h.groups {
		for _, s := range h.groups[i].services {
			h.real[s.host] = struct{}{}
		}
	}
	// What two ports have in common is names without a port, and those are port 80's.
	slices.SortStableFunc(h.groups, func(a, b hostGroup) int { return boolOrder(a.port != 80, b.port != 80) })
	for i := range h.groups {
		g := &h.groups[i]
		for _, host := range g.hosts {
			h.add(g, host, appendDomain(nil, host, g.port, g.only || g.port == 80))
		}
		for _, s := range g.services {
			h.add(g, s.host, h.serviceDomains(s, g.port, g.port == 80 || s.routablePorts() == 1))
		}
	}
}

// serviceDomains lists a service's domains at a port: its host, those of services that
// are other names for it, and its addresses. A short form that is another service's
// full name is left to that one.
func (h *virtualHosts) serviceDomains(s *service, port uint32, bare bool) []string {
	out := make([]string, 0, 10*(1+len(s.aliases))+2*len(s.addresses))
	out = h.appendHost(out, s.host, port, bare)
	for _, alias := range s.aliases {
		out = h.appendHost(out, alias, port, bare)
	}
	for _, a := range s.addresses {
		out = appendDomain(out, a, port, bare)
	}
	return out
}

func (h *virtualHosts) appendHost(out []string, host string, port uint32, bare bool) []string {
	for i, form := range domainForms(host, h.t.o.Namespace, h.t.o.DomainSuffix) {
		if _, taken := h.real[form]; i == 0 || !taken {
			out = appendDomain(out, form, port, bare)
		}
	}
	return out
}

// add makes one virtual host. The first VirtualService for a host has it.
func (h *virtualHosts) add(g *hostGroup, host string, domains []string) {
	name := hostPort(host, g.port)
	if first, ok := h.names[name]; ok {
		if g.obj != nil && first != nil && first != g.obj {
			h.t.rep.warnf(g.obj, "spec.hosts", "%s is routed by %s, which comes first; these routes for it are not used", host, place(first))
		}
		return
	}
	h.names[name] = g.obj
	free := slices.DeleteFunc(domains, func(d string) bool {
		_, taken := h.domains[d]
		h.domains[d] = struct{}{}
		return taken
	})
	if len(free) == 0 {
		return
	}
	h.out = append(h.out, &routev3.VirtualHost{
		Name:                       name,
		Domains:                    free,
		Routes:                     g.routes,
		IncludeRequestAttemptCount: true,
	})
}

// catchAll is for requests to hosts that the mesh doesn't know: to the address they
// name, to the Sidecar's egressProxy, or nowhere.
func (t *translator) catchAll() *routev3.VirtualHost {
	everything := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	if t.scope.outbound == RegistryOnly {
		return &routev3.VirtualHost{
			Name:    blockAll,
			Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Name:   blockAll,
				Match:  everything,
				Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 502}},
			}},
			IncludeRequestAttemptCount: true,
		}
	}
	cluster := passthroughCluster
	if d := t.scope.egressProxy; d != nil {
		cluster = clusterName(qualify(d.Host, t.scope.sidecar.Namespace, t.o.DomainSuffix), d.Subset, d.GetPort().GetNumber())
	}
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
		Timeout:          durationpb.New(0),
	}
	t.routeBuilder.setTimeout(action, nil)
	return &routev3.VirtualHost{
		Name:                       allowAny,
		Domains:                    []string{"*"},
		Routes:                     []*routev3.Route{{Name: allowAny, Match: everything, Action: &routev3.Route_Route{Route: action}}},
		IncludeRequestAttemptCount: true,
	}
}
