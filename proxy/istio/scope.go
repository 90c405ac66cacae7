// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// scope is what of the mesh one proxy is told about: its Sidecar's egress hosts, or
// everything that is exported to its namespace.
type scope struct {
	services  []*service // whose clusters the proxy gets
	byHost    map[string]*service
	listeners []*egressListener
	registry  *registry

	outbound    OutboundPolicy
	egressProxy *networking.Destination // where unknown requests go instead of to the host they name; may be nil
	sidecar     *source.Object          // the Sidecar in force; nil when there is none
}

// egressListener is one entry of a Sidecar's egress: services and routes for one port,
// or for all ports that no other entry is about.
type egressListener struct {
	port            uint32     // 0 is every other port
	bind            netip.Addr // where the port is opened; the zero value is nowhere
	services        []*service // each host once
	virtualServices []*virtualService

	byHost *hostMap[*virtualService] // made by mostSpecific
}

// find returns the service that the proxy knows by a full host; nil when there is none.
func (sc *scope) find(host string) *service { return sc.byHost[sc.registry.concrete(host)] }

// listenerFor returns the entry that rules a port; nil when the Sidecar has none.
func (sc *scope) listenerFor(port uint32) *egressListener {
	for _, l := range sc.listeners {
		if l.port == 0 || l.port == port {
			return l
		}
	}
	return nil
}

// newScope works out the scope of the proxy that o describes.
func newScope(objs []*source.Object, reg *registry, all []*virtualService, o *Options) *scope {
	sc := &scope{byHost: make(map[string]*service), registry: reg, outbound: o.OutboundPolicy}
	egress := []*networking.IstioEgressListener{{Hosts: []string{"*/*"}}}
	if sc.sidecar = chooseSidecar(objs, o); sc.sidecar != nil {
		spec := sc.sidecar.Spec.(*networking.Sidecar)
		if len(spec.Egress) > 0 {
			egress = spec.Egress
		}
		sc.setOutbound(spec.OutboundTrafficPolicy)
	}
	routes := visibleRoutes(all, meshGateway, o.Namespace)
	for _, e := range egress {
		if strings.HasPrefix(e.Bind, unixPrefix) {
			continue // reported by checkSidecar
		}
		l := newEgressListener(e, reg, routes, o)
		sc.listeners = append(sc.listeners, l)
		for _, s := range l.services {
			sc.add(s)
		}
	}
	// A route may lead to a service that the Sidecar doesn't name.
	for _, l := range sc.listeners {
		for _, v := range l.virtualServices {
			sc.addDestinations(v, o)
		}
	}
	return sc
}

// setOutbound takes a Sidecar's policy for unknown hosts. Without a mode it has the
// API's first, REGISTRY_ONLY. ALLOW_ANY_DYNAMIC_DNS resolves the host that a request
// names, which the http listener does anyway.
func (sc *scope) setOutbound(p *networking.OutboundTrafficPolicy) {
	switch {
	case p == nil:
	case p.Mode == networking.OutboundTrafficPolicy_REGISTRY_ONLY:
		sc.outbound = RegistryOnly
	default:
		sc.outbound = AllowAny
		sc.egressProxy = p.EgressProxy
	}
}

// newEgressListener picks what one entry of a Sidecar's egress imports.
func newEgressListener(e *networking.IstioEgressListener, reg *registry, routes []*virtualService, o *Options) *egressListener {
	l := &egressListener{}
	if parseProtocol(e.Port.GetProtocol()) != protoHTTPProxy {
		l.port = e.Port.GetNumber()
	}
	l.bind = egressBind(e)
	f := newHostFilter(e.Hosts, o.Namespace)
	for _, s := range f.selectServices(reg, o.Namespace) {
		if s = s.limitedTo(l.port); s != nil {
			l.services = append(l.services, s)
		}
	}
	for _, v := range routes {
		if f.selects(v) {
			l.virtualServices = append(l.virtualServices, v)
		}
	}
	return l
}

// add brings a service into the scope, or ports of it that aren't there yet.
func (sc *scope) add(s *service) {
	have := sc.byHost[s.host]
	if have == nil {
		sc.byHost[s.host] = s
		sc.services = append(sc.services, s)
		return
	}
	if have.obj != s.obj || have.hasPortsOf(s) {
		return
	}
	both := *have
	both.ports = slices.Clone(have.ports)
	for _, p := range s.ports {
		if both.port(p.number) == nil {
			both.ports = append(both.ports, p)
		}
	}
	sc.byHost[s.host] = &both
	sc.services[slices.Index(sc.services, have)] = &both
}

// addDestinations brings the services that a VirtualService leads to into the scope.
func (sc *scope) addDestinations(v *virtualService, o *Options) {
	add := func(d *networking.Destination, r *httpRoute) {
		if d == nil {
			return
		}
		host := sc.registry.concrete(qualify(d.Host, r.obj.Namespace, o.DomainSuffix))
		if s := sc.registry.pick(host, o.Namespace); s != nil && s != sc.byHost[host] {
			sc.add(s)
		}
	}
	for i := range v.http {
		r := &v.http[i]
		for _, d := range r.Route {
			add(d.GetDestination(), r)
		}
		add(r.Mirror, r)
		for _, m := range r.Mirrors {
			add(m.GetDestination(), r)
		}
	}
	for _, r := range slices.Concat(rawRoutes(v, false), rawRoutes(v, true)) {
		for _, d := range r.route {
			add(d.GetDestination(), &r.where)
		}
	}
}

// chooseSidecar finds the Sidecar in force: one of the proxy's namespace that selects
// its labels, one of the namespace for everyone, or the root namespace's for everyone.
func chooseSidecar(objs []*source.Object, o *Options) *source.Object {
	var general, root *source.Object
	for _, obj := range objs {
		spec, ok := obj.Spec.(*networking.Sidecar)
		if !ok {
			continue
		}
		switch {
		case obj.Namespace == o.Namespace && spec.WorkloadSelector != nil:
			if isSubset(spec.WorkloadSelector.Labels, o.Labels) {
				return obj
			}
		case obj.Namespace == o.Namespace && general == nil:
			general = obj
		case obj.Namespace == o.RootNamespace && spec.WorkloadSelector == nil && root == nil:
			root = obj
		}
	}
	if general != nil {
		return general
	}
	return root
}

// visibleRoutes lists the VirtualServices of a gateway that a namespace may use, in
// the order in which they count: the namespace's own that are exported no further,
// those that others export to it, those that are for everyone.
func visibleRoutes(all []*virtualService, gateway, namespace string) []*virtualService {
	var private, shared, public []*virtualService
	for _, v := range all {
		if !v.bound(gateway) {
			continue
		}
		switch {
		case slices.Contains(v.exportTo, "~"):
		case len(v.exportTo) == 0 || slices.Contains(v.exportTo, "*"):
			public = append(public, v)
		case !exported(v.exportTo, v.obj.Namespace, namespace):
		case v.obj.Namespace == namespace:
			private = append(private, v)
		default:
			shared = append(shared, v)
		}
	}
	return slices.Concat(private, shared, public)
}

// hostFilter is a list of egress hosts, "namespace/host" each.
type hostFilter struct {
	byNamespace map[string]*hostPatterns // "*" is every namespace
}

type hostPatterns struct {
	names    map[string]struct{}
	wild     []string // wildcards among them
	all      []string
	excluded []string
}

// newHostFilter reads a Sidecar's hosts. The namespace may be "." for the proxy's own,
// "*" for all, and start with "~" to take hosts out; "~/*" is nothing at all.
func newHostFilter(hosts []string, own string) *hostFilter {
	f := &hostFilter{byNamespace: make(map[string]*hostPatterns)}
	for _, h := range hosts {
		ns, host, ok := strings.Cut(h, "/")
		if !ok {
			continue // refused by the reader
		}
		ns, excluded := strings.CutPrefix(ns, "~")
		switch {
		case excluded && ns == "":
			ns = "*"
		case ns == ".":
			ns = own
		}
		p := f.byNamespace[ns]
		if p == nil {
			p = &hostPatterns{names: make(map[string]struct{})}
			f.byNamespace[ns] = p
		}
		host = strings.ToLower(host)
		switch {
		case excluded:
			p.excluded = append(p.excluded, host)
		case isWildcard(host):
			p.wild = append(p.wild, host)
			p.all = append(p.all, host)
		default:
			p.names[host] = struct{}{}
			p.all = append(p.all, host)
		}
	}
	return f
}

// each calls yes for the patterns that concern a namespace until it returns true.
func (f *hostFilter) each(namespace string, yes func(*hostPatterns) bool) bool {
	if p := f.byNamespace[namespace]; p != nil && yes(p) {
		return true
	}
	p := f.byNamespace["*"]
	return p != nil && yes(p)
}

func (f *hostFilter) excludes(namespace, host string) bool {
	return f.each(namespace, func(p *hostPatterns) bool {
		return slices.ContainsFunc(p.excluded, func(pattern string) bool { return covers(pattern, host) })
	})
}

// selectsHost reports whether a service's host is imported.
func (f *hostFilter) selectsHost(namespace, host string) bool {
	return f.each(namespace, func(p *hostPatterns) bool {
		if _, ok := p.names[host]; ok {
			return true
		}
		return slices.ContainsFunc(p.wild, func(pattern string) bool { return covers(pattern, host) })
	})
}

// selects reports whether a VirtualService is imported: one of its hosts has to
// overlap an egress host, in either direction.
func (f *hostFilter) selects(v *virtualService) bool {
	ns := v.obj.Namespace
	return slices.ContainsFunc(v.hosts, func(host string) bool {
		imported := f.each(ns, func(p *hostPatterns) bool {
			if _, ok := p.names[host]; ok {
				return true
			}
			patterns := p.wild
			if isWildcard(host) {
				patterns = p.all
			}
			return slices.ContainsFunc(patterns, func(pattern string) bool { return overlap(pattern, host) })
		})
		return imported && !f.excludes(ns, host)
	})
}

// selectServices lists the services that are imported and that the namespace may see.
// Of several declarations of a host the one that pick prefers is kept.
func (f *hostFilter) selectServices(reg *registry, namespace string) []*service {
	var out []*service
	at := make(map[string]int)
	for _, s := range reg.services {
		if !s.visibleTo(namespace) || f.excludes(s.namespace, s.host) || !f.selectsHost(s.namespace, s.host) {
			continue
		}
		i, ok := at[s.host]
		switch {
		case !ok:
			at[s.host] = len(out)
			out = append(out, s)
		case preferred(s, out[i], namespace):
			out[i] = s
		}
	}
	return out
}
