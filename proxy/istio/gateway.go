// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// gatewayServer is one server of a Gateway.
type gatewayServer struct {
	obj   *source.Object
	index int // in spec.servers
	spec  *networking.Server
	hosts []string // "host" or "namespace/host", lower case
}

func (s *gatewayServer) field(part string) string {
	return fmt.Sprintf("spec.servers[%d]%s", s.index, part)
}

// gateway is the name that VirtualServices bind to.
func (s *gatewayServer) gateway() string { return s.obj.Namespace + "/" + s.obj.Name }

// gatewayPort is the servers that share an address and port, and so one listener and
// one route configuration.
type gatewayPort struct {
	bind    string // IP address
	number  uint32
	servers []*gatewayServer
}

// routeName is istiod's name of an HTTP port's route configuration.
func (p *gatewayPort) routeName() string {
	name := "http." + strconv.FormatUint(uint64(p.number), 10)
	if b := p.servers[0].spec.Bind; b != "" {
		name += "." + b
	}
	return name
}

// gateways adds a listener and routes for every HTTP port of the Gateways in force.
func (t *translator) gateways(objs []*source.Object) {
	ports := t.gatewayPorts(objs)
	slices.SortFunc(ports, func(a, b *gatewayPort) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.bind, b.bind))
	})
	for _, p := range ports {
		if p.servers[0].kind() != serverHTTP {
			if l := t.gatewayListener(p); l != nil {
				t.out.Listeners = append(t.out.Listeners, l)
			}
			continue
		}
		m := t.gatewayManager(p.routeName())
		if slices.ContainsFunc(p.servers, func(s *gatewayServer) bool { return parseProtocol(s.spec.Port.GetProtocol()) == protoGRPCWeb }) {
			addGRPCWeb(m)
		}
		l := newListener(p.bind, p.number, m)
		l.AccessLog = t.logs.of(classGateway).listenerLoggers()
		t.out.Listeners = append(t.out.Listeners, l)
		t.out.Routes = append(t.out.Routes, t.gatewayRoutes(p.routeName(), p.number, p.servers))
	}
}

// gatewayManager makes the connection manager of a gateway: an edge, which tells who
// its clients are and takes nobody's word for it.
func (t *translator) gatewayManager(routeName string) *hcmv3.HttpConnectionManager {
	m := t.newManager(classGateway, routeName, t.logs.of(classGateway).loggers())
	m.UseRemoteAddress = wrapperspb.Bool(true)
	m.ServerName = "istio-envoy"
	m.HttpProtocolOptions = &corev3.Http1ProtocolOptions{}
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
		Subject: wrapperspb.Bool(true), Cert: true, Dns: true, Uri: true,
	}
	return m
}

// gatewayPorts groups the servers of all Gateways that the proxy serves. A proxy
// without labels is taken for every workload and serves them all, so that a Gateway
// works as it is on one machine; with labels it serves those that select them, or that
// select nothing, as in a mesh.
func (t *translator) gatewayPorts(objs []*source.Object) []*gatewayPort {
	var out []*gatewayPort
	for _, obj := range objs {
		spec, ok := obj.Spec.(*networking.Gateway)
		if !ok {
			continue
		}
		if len(t.o.Labels) > 0 && !isSubset(spec.Selector, t.o.Labels) {
			t.rep.warnf(obj, "spec.selector", "does not select this proxy's labels: the gateway is not served")
			continue
		}
		for i, server := range spec.Servers {
			s := &gatewayServer{obj: obj, index: i, spec: server}
			if !t.servable(s) {
				continue
			}
			for _, h := range server.Hosts {
				s.hosts = append(s.hosts, serverHost(h, obj.Namespace))
			}
			bind := cmp.Or(server.Bind, "0.0.0.0")
			j := slices.IndexFunc(out, func(p *gatewayPort) bool { return p.bind == bind && p.number == server.Port.Number })
			if j < 0 {
				out = append(out, &gatewayPort{bind: bind, number: server.Port.Number})
				j = len(out) - 1
			}
			if have := out[j].servers; len(have) > 0 && have[0].kind() != s.kind() {
				t.rep.errorf(obj, s.field(".port.protocol"), "port %d is served as %s by %s already; one port has one protocol",
					server.Port.Number, have[0].spec.Port.GetProtocol(), place(have[0].obj))
				continue
			}
			out[j].servers = append(out[j].servers, s)
		}
	}
	return out
}

// servable reports what of a server can't be served.
func (t *translator) servable(s *gatewayServer) bool {
	if !t.servableProtocol(s) {
		return false
	}
	bind, err := netip.ParseAddr(cmp.Or(s.spec.Bind, "0.0.0.0"))
	if err != nil {
		return true
	}
	at := netip.AddrPortFrom(bind, uint16(s.spec.Port.Number))
	if own, err := parseListenAddress(t.o.HTTPAddr); t.o.HTTPAddr != "" && err == nil && overlapping(own, at) {
		t.rep.errorf(s.obj, s.field(".port.number"), "port %d is that of the http listener, %s; choose another for one of them", s.spec.Port.Number, own)
		return false
	}
	if b := t.bound.conflict(at); b != nil {
		t.rep.errorf(s.obj, s.field(".port.number"), "%s would listen at %s, where %s has %s of %s; choose another port, or give the service another with --listen %s=ADDRESS:PORT",
			s.gateway(), at, b.address, b.name(), place(b.s.obj), b.name())
		return false
	}
	return true
}

// serverHost resolves the namespace of a server's host: "./" is the Gateway's own, "*/"
// and none are all.
func serverHost(host, namespace string) string {
	host = strings.ToLower(host)
	ns, name, ok := strings.Cut(host, "/")
	switch {
	case !ok:
		return host
	case ns == ".":
		return namespace + "/" + name
	case ns == "*":
		return name
	default:
		return host
	}
}

// hostsFor lists the hosts that VirtualServices of a namespace may take.
func (s *gatewayServer) hostsFor(namespace string) []string {
	var out []string
	for _, h := range s.hosts {
		if ns, name, ok := strings.Cut(h, "/"); !ok {
			out = append(out, h)
		} else if ns == namespace {
			out = append(out, name)
		}
	}
	return out
}

// gatewayRoutes makes the virtual hosts of a plain port, or of an HTTPS server: the hosts that a server and a
// VirtualService bound to it have in common. Unlike in the mesh the routes of several
// VirtualServices for one host are put together.
func (t *translator) gatewayRoutes(name string, port uint32, servers []*gatewayServer) *routev3.RouteConfiguration {
	hosts := make(map[string]*routev3.VirtualHost)
	type bound struct {
		v  *virtualService
		at target
	}
	made := make(map[bound][]*routev3.Route)
	for _, s := range servers {
		redirect := s.spec.GetTls().GetHttpsRedirect()
		for _, v := range visibleRoutes(t.virtualServices, s.gateway(), t.o.Namespace) {
			common := intersect(s.hostsFor(v.obj.Namespace), v.hosts)
			if len(common) == 0 {
				continue
			}
			key := bound{v, target{port: s.spec.Port.Number, gateway: s.gateway()}}
			routes, ok := made[key]
			if !ok {
				// The routes may lead to services that the Sidecar doesn't name.
				t.scope.addDestinations(v, t.o)
				routes = t.routeBuilder.routes(v, key.at)
				made[key] = routes
			}
			for _, host := range common {
				addRoutes(hosts, host, port, routes, redirect)
			}
		}
		if redirect {
			for _, h := range s.hosts {
				_, host, ok := strings.Cut(h, "/")
				if !ok {
					host = h
				}
				addRoutes(hosts, host, port, nil, true)
			}
		}
	}
	config := &routev3.RouteConfiguration{
		Name:                           name,
		ValidateClusters:               wrapperspb.Bool(false),
		IgnorePortInHostMatching:       true,
		MaxDirectResponseBodySizeBytes: wrapperspb.UInt32(maxDirectResponse),
	}
	config.VirtualHosts = collapse(hosts)
	if len(hosts) == 0 {
		// Without routes Envoy answers 404 with flag NR.
		config.VirtualHosts = []*routev3.VirtualHost{{Name: hostPort("blackhole", port), Domains: []string{"*"}}}
		first := servers[0]
		t.rep.warnf(first.obj, first.field(".hosts"), "no VirtualService bound to %s has one of these hosts: port %d answers 404", first.gateway(), port)
	}
	return config
}

// collapse joins virtual hosts that have the very same routes, so that a list of hosts
// costs no more than one. The most specific host gives the name. Routes that catch
// everything go last, whichever VirtualService they are of.
func collapse(hosts map[string]*routev3.VirtualHost) []*routev3.VirtualHost {
	order := sortedKeys(hosts)
	slices.SortStableFunc(order, func(a, b string) int {
		return cmp.Or(boolOrder(isWildcard(a), isWildcard(b)), cmp.Compare(len(b), len(a)))
	})
	var out []*routev3.VirtualHost
	byRoute := make(map[*routev3.Route][]*routev3.VirtualHost) // by the first route
	for _, host := range order {
		vh := hosts[host]
		var first *routev3.Route
		if len(vh.Routes) > 0 {
			first = vh.Routes[0]
		}
		i := slices.IndexFunc(byRoute[first], func(have *routev3.VirtualHost) bool {
			return have.RequireTls == vh.RequireTls && slices.Equal(have.Routes, vh.Routes)
		})
		if i >= 0 {
			byRoute[first][i].Domains = append(byRoute[first][i].Domains, vh.Domains...)
			continue
		}
		byRoute[first] = append(byRoute[first], vh)
		out = append(out, vh)
	}
	for _, vh := range out {
		vh.Routes = slices.Clone(vh.Routes)
		slices.SortStableFunc(vh.Routes, func(a, b *routev3.Route) int {
			return boolOrder(catchesAll(a), catchesAll(b))
		})
	}
	slices.SortFunc(out, func(a, b *routev3.VirtualHost) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// boolOrder puts false before true.
func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

func addRoutes(hosts map[string]*routev3.VirtualHost, host string, port uint32, routes []*routev3.Route, tls bool) {
	vh := hosts[host]
	if vh == nil {
		vh = &routev3.VirtualHost{
			Name:                       hostPort(host, port),
			Domains:                    []string{host},
			IncludeRequestAttemptCount: true,
		}
		hosts[host] = vh
	}
	vh.Routes = append(vh.Routes, routes...)
	if tls {
		vh.RequireTls = routev3.VirtualHost_ALL
	}
}
