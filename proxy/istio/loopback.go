// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	networking "istio.io/api/networking/v1alpha3"

	"pillion/proxy/istio/source"
)

// boundPort is a port of a service that has an address of this machine, at which it
// can be reached where no traffic is captured.
type boundPort struct {
	address netip.AddrPort
	s       *service
	p       *servicePort
}

func (b *boundPort) name() string { return b.s.host + ":" + strconv.FormatUint(uint64(b.p.number), 10) }

// loopback opens a listener at each address of this machine that a service port has:
// the service's own virtual address, if that is a loopback one, and what Options.Listen
// says.
func (t *translator) loopback() {
	byAddress := make(map[netip.AddrPort][]boundPort)
	var order []netip.AddrPort
	add := func(b boundPort) {
		if byAddress[b.address] == nil {
			order = append(order, b.address)
		}
		byAddress[b.address] = append(byAddress[b.address], b)
	}
	reachable := make(map[string]bool)
	for _, s := range slices.Clone(t.scope.services) {
		for i := range s.ports {
			for _, a := range s.addresses {
				if ip, err := netip.ParseAddr(a); err == nil && ip.IsLoopback() && s.ports[i].protocol != protoUDP {
					add(boundPort{netip.AddrPortFrom(ip, uint16(s.ports[i].number)), s, &s.ports[i]})
				}
			}
		}
	}
	for _, text := range t.o.Listen {
		b, err := t.parseListen(text)
		if err != nil {
			t.rep.add(source.Problem{Field: "--listen", Reason: err.Error()})
			continue
		}
		add(b)
	}
	for _, a := range order {
		for _, b := range byAddress[a] {
			reachable[b.name()] = true
		}
		t.bind(a, byAddress[a])
	}
	t.warnUnreachable(reachable)
}

// parseListen reads HOST:PORT=ADDRESS:PORT.
func (t *translator) parseListen(text string) (b boundPort, err error) {
	what, address, ok := strings.Cut(text, "=")
	host, portText, ok2 := strings.Cut(what, ":")
	port, perr := strconv.ParseUint(portText, 10, 16)
	if !ok || !ok2 || perr != nil {
		return b, fmt.Errorf("%q is not HOST:PORT=ADDRESS:PORT, such as db:5432=127.0.0.1:5432", text)
	}
	if b.address, err = parseListenAddress(address); err != nil {
		return b, err
	}
	full := qualify(host, t.o.Namespace, t.o.DomainSuffix)
	if b.s = t.scope.find(full); b.s == nil {
		return b, fmt.Errorf("%s: there is no service %s that this proxy may use", text, full)
	}
	if b.p = b.s.port(uint32(port)); b.p == nil {
		return b, fmt.Errorf("%s: %s has no port %d", text, b.s.host, port)
	}
	return b, nil
}

// bind makes the listener of an address. Several services may share one if all speak
// TLS, since the name that the client asks for tells them apart.
func (t *translator) bind(a netip.AddrPort, ports []boundPort) {
	first := &ports[0]
	if own, err := parseListenAddress(t.o.HTTPAddr); t.o.HTTPAddr != "" && err == nil && own == a {
		t.rep.errorf(first.s.obj, "spec", "%s would listen at %s, the address of the http listener; give one of them another", first.name(), a)
		return
	}
	for i := range ports[1:] {
		if other := &ports[i+1]; !first.p.protocol.isTLS() || !other.p.protocol.isTLS() {
			t.rep.errorf(other.s.obj, "spec", "%s and %s of %s would both listen at %s; give one another address, or map it with --listen",
				other.name(), first.name(), place(first.s.obj), a)
			return
		}
	}
	ip, number := a.Addr().String(), uint32(a.Port())
	mesh := visibleRoutes(t.virtualServices, meshGateway, t.o.Namespace)
	var l *listenerv3.Listener
	switch p := first.p.protocol; {
	case p.isTLS():
		l = t.rawListener(ip, number, t.tlsServices(ports, mesh), true, false)
	case p.isHTTP():
		m := newManager(routeHTTPProxy, t.logs.loggers())
		m.HttpProtocolOptions = &corev3.Http1ProtocolOptions{AcceptHttp_10: true}
		l = newListener(ip, number, m)
	default:
		chains := t.tcpService(first, mesh, a.Addr())
		l = t.rawListener(ip, number, chains, false, false)
		if p == protoUnnamed {
			// What speaks HTTP is routed, everything else is passed on.
			m := newManager(routeHTTPProxy, t.logs.loggers())
			http := newListener(ip, number, m).FilterChains[0]
			http.FilterChainMatch = &listenerv3.FilterChainMatch{ApplicationProtocols: []string{"http/1.1", "h2c"}, TransportProtocol: "raw_buffer"}
			l = t.rawListener(ip, number, []*listenerv3.FilterChain{http}, true, true)
			l.DefaultFilterChain = chains[len(chains)-1]
		}
	}
	if first.p.protocol.routable() {
		t.needHTTPRoutes = true
	}
	t.out.Listeners = append(t.out.Listeners, l)
}

// tcpService makes the chains of a port that carries bytes.
func (t *translator) tcpService(b *boundPort, mesh []*virtualService, vip netip.Addr) []*listenerv3.FilterChain {
	at := target{port: b.p.number, gateway: meshGateway}
	chains, last := t.tcpChains(forHost(mesh, b.s.host), at, vip)
	if !last {
		chains = append(chains, t.serviceChain(b.s, b.p))
	}
	return chains
}

// tlsServices makes the chains of ports that carry TLS, which is passed through.
func (t *translator) tlsServices(ports []boundPort, mesh []*virtualService) []*listenerv3.FilterChain {
	var chains []*listenerv3.FilterChain
	taken := make(map[string]bool)
	for i := range ports {
		at := target{port: ports[i].p.number, gateway: meshGateway}
		chains = append(chains, t.tlsChains(forHost(mesh, ports[i].s.host), at, taken, nil)...)
	}
	for i := range ports {
		b := &ports[i]
		c := t.serviceChain(b.s, b.p)
		switch {
		case len(ports) == 1: // whatever name it asks for
		case taken[b.s.host]:
			continue
		default:
			taken[b.s.host] = true
			c.FilterChainMatch = serverNames([]string{b.s.host})
		}
		chains = append(chains, c)
	}
	return chains
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

// warnUnreachable tells of ports that carry no HTTP and have no address here.
func (t *translator) warnUnreachable(reachable map[string]bool) {
	for _, s := range t.scope.services {
		for i := range s.ports {
			p := &s.ports[i]
			b := boundPort{s: s, p: p}
			if p.protocol.routable() || p.protocol == protoUDP || reachable[b.name()] {
				continue
			}
			t.rep.warnf(s.obj, portField(s, p.number), "port %d carries no plain HTTP and has no address here: nothing listens for it; "+
				"give the service an address in 127.0.0.0/8, or run with --listen %s=127.0.0.1:%d", p.number, b.name(), p.number)
		}
	}
}

// portField is the field of a service's port.
func portField(s *service, number uint32) string {
	switch spec := s.obj.Spec.(type) {
	case *networking.ServiceEntry:
		if i := slices.IndexFunc(spec.Ports, func(p *networking.ServicePort) bool { return p.GetNumber() == number }); i >= 0 {
			return fmt.Sprintf("spec.ports[%d].protocol", i)
		}
	case *source.Service:
		for i, p := range spec.Ports {
			if p.Port == number {
				return fmt.Sprintf("spec.ports[%d]", i)
			}
		}
	}
	return "spec.ports"
}
